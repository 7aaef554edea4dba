"""Distillation of the members into their merge."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import MergeMethod, register_method
from regmean_lab.merging.member_text import PSEUDO, ReadsText
from regmean_lab.merging.parameters import LayerDiagnostics, Layout, MergeError, Parameter
from regmean_lab.merging.starting_merge import starting_merge, starting_problems
from regmean_lab.utils.checks import at_least_one, fraction, one_of, positive

HIDDEN_LAYERS = ("last", "all")
EXCLUDED = ("distill", "auto")
"""Methods that nothing begins with."""


@register_method("distill")
@dataclass
class Distill(ReadsText, MergeMethod):
    """Any merge, then trained until it says of each member's text what that member says.

    The loss is Σ cᵢ (λ KL(member i ‖ merge) + μ D), with the coefficients cᵢ, λ = ``logits`` and μ = ``hidden``; both
    terms are means over text of member i. KL is of the outputs' distributions (of regressions, the squared difference)
    at a temperature T, times T²; D is the relative squared difference of hidden states. It is minimised by AdamW, whose
    learning rate rises over the share ``warmup`` of all steps and then falls to 0. Every ``evaluate_every`` steps KL is
    measured on held-out text; the weights with the lowest one are kept, those of the start among them. What members
    keep of their own stays as it is. Steps (``followed_by``) follow the merge that it begins with; for `merge_members`,
    which has no text, that is all.

    Source: Hinton, Vinyals and Dean, 2015, arXiv 1503.02531.

    Attributes:
        start: the merge that it begins with: the name of another method.
        start_settings: that method's own settings, by name.
        text: whose text is read: ``pseudo`` (sentences drawn from the counts of tokens that each member's owner
            published: other ones in each step), ``own`` (training examples of each member; their labels are not read),
            or a file of texts, which every member reads.
        text_seed: which texts are drawn or read, and in which order.
        examples: most texts of each member, where they are not drawn; None is all.
        held_out: texts of each member on which the weights are chosen, and which are not trained on.
        steps: most optimizer steps.
        batch_size: texts of each member in a step.
        learning_rate: peak learning rate.
        warmup: share of all steps with a rising learning rate.
        temperature: T.
        logits: λ.
        hidden: μ; 0 leaves hidden states out.
        hidden_layers: ``last``: the states that the head reads; ``all``: those after each block, alike, and the
            embeddings.
        evaluate_every: steps between two measurements on held-out text.
        patience: stop after so many measurements without a better one; None never does.
        anchor: strength of an L2 penalty on the distance from the start: half of it times the squared distance.
        mix: the result is 1 − ``mix`` times the trained weights plus ``mix`` times the start.
    """

    start: str = "simple"
    start_settings: dict[str, Any] = field(default_factory=dict)
    text: str = "pseudo"
    examples: int | None = 1000
    held_out: int = 100
    steps: int = 300
    batch_size: int = 16
    learning_rate: float = 1e-4
    warmup: float = 0.1
    temperature: float = 1.0
    logits: float = 1.0
    hidden: float = 1.0
    hidden_layers: str = "last"
    evaluate_every: int = 25
    patience: int | None = 4
    anchor: float = 0.0
    mix: float = 0.0

    @property
    def beginning(self) -> MergeMethod:
        """The merge that is trained; the mean, as long as :meth:`problems` has something to say of the choice."""
        if starting_problems(self, self.start, self.start_settings, excluded=EXCLUDED):
            return starting_merge(self, "simple", {})
        return starting_merge(self, self.start, self.start_settings)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of the merge that it begins with, and what pseudo-text is drawn from."""
        return tuple(dict.fromkeys([*self.beginning.statistics, *self.text_statistics]))

    @property
    def needs_base(self) -> bool:
        """Whether the merge that it begins with does."""
        return self.beginning.needs_base

    @property
    def stands_in(self) -> bool:
        """Whether the merge that it begins with does without statistics that a member lacks."""
        return self.beginning.stands_in

    @property
    def notes(self) -> list[str]:
        """Those of the merge that it begins with."""
        return self.beginning.notes

    def gram_layers(self, names: Collection[str], layout: Layout) -> list[str]:
        """Those of the merge that it begins with."""
        return self.beginning.gram_layers(names, layout)

    def averaged_maps(self, names: Collection[str], layout: Layout) -> list[str]:
        """Those of the merge that it begins with."""
        return self.beginning.averaged_maps(names, layout)

    def count_problems(self, members: int) -> list[str]:
        """Those of the merge that it begins with."""
        return self.beginning.count_problems(members)

    def number_problems(self, members: int, called: str = "members") -> list[str]:
        """Those of the merge that it begins with."""
        return self.beginning.number_problems(members, called)

    @override
    def problems(self) -> list[str]:
        found = starting_problems(self, self.start, self.start_settings, excluded=EXCLUDED)
        for name in ("steps", "batch_size", "held_out", "evaluate_every"):
            at_least_one(name, getattr(self, name), found)
        found += self.text_problems()
        if self.text == PSEUDO and self.examples not in (Distill.examples, None) and self.examples >= 1:
            found.append(
                f"examples: has no effect with text={PSEUDO}, of which every step draws other sentences; set steps and "
                "batch_size"
            )
        if self.patience is not None and self.patience < 1:
            found.append(f"patience: expected at least 1 or null, got {self.patience}")
        for name in ("learning_rate", "temperature"):
            positive(name, getattr(self, name), found)
        for name in ("logits", "hidden", "anchor"):
            if not 0 <= getattr(self, name) < float("inf"):
                found.append(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.logits == self.hidden == 0:
            found.append("logits: expected more than 0, as hidden is 0 too and nothing would be learned")
        fraction("warmup", self.warmup, found, one=False)
        fraction("mix", self.mix, found)
        one_of("hidden_layers", self.hidden_layers, HIDDEN_LAYERS, found)
        return found

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """One parameter of the merge that it begins with."""
        return self.beginning.merge(parameter)


def mixed(trained: Mapping[str, Tensor], start: Mapping[str, Tensor], mix: float) -> dict[str, Tensor]:
    """1 − ``mix`` times the trained weights plus ``mix`` times those of the start, in the dtype of the latter.

    Raises:
        MergeError: when one of them lacks a tensor of the other, or has another shape.
    """
    if different := sorted(set(trained) ^ set(start)):
        raise MergeError(f"only one of the start and what was trained from it has {', '.join(different[:5])}")
    result = {}
    for name, before in start.items():
        if trained[name].shape != before.shape:
            raise MergeError(f"{name}: shape {tuple(trained[name].shape)} after training, {tuple(before.shape)} before")
        if not before.is_floating_point():
            result[name] = before
            continue
        wide = torch.promote_types(before.dtype, torch.float32)
        result[name] = torch.lerp(trained[name].to(before.device, wide), before.to(wide), mix).to(before.dtype)
    return result
