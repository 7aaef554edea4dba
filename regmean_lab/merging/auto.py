"""The choice of a merge and its settings by what members' owners published, without data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import MergeMethod, matches, method_types, register_method
from regmean_lab.merging.choice import Candidate
from regmean_lab.merging.member_text import PSEUDO, ReadsText
from regmean_lab.merging.parameters import LayerDiagnostics, Layout, Parameter
from regmean_lab.merging.refining import RefiningMethod
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.starting_merge import SHARED, TEXT, starting_merge, starting_problems
from regmean_lab.utils.checks import at_least_one, fraction, one_of, positive
from regmean_lab.utils.names import did_you_mean

SIMPLE = "simple"
CANDIDATES = ("regmean",)
NO_CANDIDATES = ("auto", "distill")
OFF_DIAGONALS = (0.9, 1.0)
MIXES = (0.0, 0.5)
CRITERIA = ("divergence", "quadratic")


@register_method("auto")
@dataclass
class Auto(ReadsText, MergeMethod):
    """The best of several merges with several settings, as far as what members' owners published tells; or the mean.

    Candidates are the mean of the members (``simple``) and the methods ``candidates``, those named without settings
    that have an ``off_diagonal`` with each of ``off_diagonals``, each mixed with the mean at each of ``mixes``; and all
    of that with equal coefficients and with each member in turn counting ``favour`` times as much as each other one.

    By ``divergence`` a candidate is judged by KL(member i ‖ candidate) on held-out text of each member i, a mean over
    texts and members. The best one is taken of those that are better than the mean of the members by more than noise,
    see :func:`regmean_lab.merging.choice.choose`, and otherwise that mean. By ``quadratic``, without any text, it is
    judged by tr((W − Wᵢ)ᵀ Gᵢ (W − Wᵢ)) of each linear layer, relative to that of the mean of the members, a mean over
    layers and members: by the matrices that ``regmean`` is fitted to, which so has the least with a factor of 1.

    Attributes:
        candidates: names of methods, or methods with settings of their own (``{regmean: {gram: weighted}}``); None is
            ``regmean``, and of checkpoints what can be tried with what was published with all of them; ``[simple]`` is
            none but the mean.
        off_diagonals: values of ``off_diagonal`` of candidates without settings; None is 0.9 and 1.
        mixes: shares of the mean that are mixed in; None is 0 and 0.5.
        exclude_layers: patterns of names of linear layers that are averaged by candidates that read Gram matrices, as
            owners have left them out.
        favour: how many times as much a favoured member counts; 1 favours none.
        criterion: ``divergence`` or ``quadratic``; None is the divergence, but of checkpoints that were published with
            Gram matrices and without counts of tokens.
        text: whose text is read: ``pseudo`` (sentences drawn from the counts of tokens that each member's owner
            published), ``own`` (training examples of each member; their labels are not read), or a file of texts, which
            every member reads.
        text_seed: which texts are drawn or read.
        examples: most texts of each member, where they are not drawn; None is all.
        held_out: texts of each member on which candidates are judged.
        batch_size: texts a batch; changes no choice.
        margin: standard errors by which a candidate must be better than the mean of the members, if there is one alone;
            of several more is asked for, so that noise is taken for a gain no more often. 0 takes the best, noise or
            not. Without effect by ``quadratic``.
        seed: which texts are read.
    """

    without_tokens: ClassVar[tuple[str, ...]] = (
        "Gram matrices of all of them, by which it can choose (kinds=[gram])",
        "method=simple, which needs nothing",
        "method=actmat and base=FOLDER_OR_NAME",
    )

    candidates: list[Any] | None = None
    off_diagonals: list[float] | None = None
    mixes: list[float] | None = None
    exclude_layers: list[str] = field(default_factory=list)
    favour: float = 2.0
    criterion: str | None = None
    text: str = "pseudo"
    examples: int | None = 1000
    held_out: int = 200
    batch_size: int = 32
    margin: float = 1.0

    @property
    def beginning(self) -> MergeMethod:
        """What it is without anything to choose by: the mean."""
        return Simple(**{name: getattr(self, name) for name in SHARED})

    @property
    def by_text(self) -> bool:
        """Whether candidates are judged by the divergence."""
        return self.criterion != "quadratic"

    @property
    def methods(self) -> list[MergeMethod]:
        """The candidates with equal coefficients, the mean first, before anything is mixed."""
        found = [self.beginning]
        for name, given in named(self.candidates or CANDIDATES):
            if (name == SIMPLE and not given) or name not in method_types():
                continue  # which is there already, or what problems() tells
            own = {entry.name for entry in fields(method_types()[name])}
            shared = {"exclude_layers": self.exclude_layers} if "exclude_layers" in own else {}
            settings = [_without_text(given)] if given is not None else [{}]
            if given is None and "off_diagonal" in own:
                settings = [{"off_diagonal": factor} for factor in self.off_diagonals or OFF_DIAGONALS]
            merges = [starting_merge(self, name, {**shared, **one}) for one in settings]
            found += [merge for merge in merges if merge != self.beginning]
        return found

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of all candidates, and what candidates are judged by."""
        kinds = [kind for method in self.methods for kind in method.statistics]
        return tuple(dict.fromkeys([*kinds, *(self.text_statistics if self.by_text else ["gram"])]))

    @property
    def needs_base(self) -> bool:
        """Whether a candidate does."""
        return any(method.needs_base for method in self.methods)

    @property
    def needs_text(self) -> bool:
        """Whether candidates are judged by text, or made with it."""
        return self.by_text or any(method.needs_text for method in self.methods)

    @property
    def notes(self) -> list[str]:
        """Those of all candidates, and its own."""
        return list(dict.fromkeys([*(note for method in self.methods for note in method.notes), *self.own_notes]))

    @property
    def own_notes(self) -> list[str]:
        """Which candidates may be fitted to the text by which they are judged."""
        readers = dict.fromkeys(method.name for method in self.methods if isinstance(method, RefiningMethod))
        if not (self.by_text and self.text != PSEUDO and readers):
            return []
        return [
            f"auto: {', '.join(readers)} may read the texts by which candidates are judged, which favours it; "
            f"method.text={PSEUDO} draws others to judge by"
        ]

    def gram_layers(self, names: Any, layout: Layout) -> list[str]:
        """Those of all candidates that read matrices, and those that are judged."""
        layers = []
        for method in self.methods:
            own = method.gram_layers(names, layout)
            judged = [layer for layer in own if not matches(layer, self.exclude_layers)]
            layers += own if method.statistics else judged
        return list(dict.fromkeys(layers))

    def averaged_maps(self, names: Any, layout: Layout) -> list[str]:
        """Those of all candidates."""
        return list(dict.fromkeys(name for method in self.methods for name in method.averaged_maps(names, layout)))

    def count_problems(self, members: int) -> list[str]:
        """Those of all candidates."""
        return list(dict.fromkeys(problem for method in self.methods for problem in method.count_problems(members)))

    def number_problems(self, members: int, called: str = "members") -> list[str]:
        """Those of all candidates."""
        every = [problem for method in self.methods for problem in method.number_problems(members, called)]
        return list(dict.fromkeys(every))

    @override
    def problems(self) -> list[str]:
        found = self.beginning.problems()
        if self.coefficients is not None:
            found.append("coefficients: they are chosen; expected null")
        for name, settings in named(self.candidates or ()):
            found += self._candidate_problems(name, settings)
        for name in ("off_diagonals", "mixes"):
            for value in getattr(self, name) or ():
                fraction(name, value, found)
        positive("favour", self.favour, found)
        if self.criterion is not None:
            one_of("criterion", self.criterion, CRITERIA, found)
        for name in ("held_out", "batch_size"):
            at_least_one(name, getattr(self, name), found)
        found += self.text_problems()
        if not 0 <= self.margin < math.inf:
            found.append(f"margin: expected at least 0, got {self.margin}")
        return found

    def _candidate_problems(self, name: Any, settings: Any) -> list[str]:
        """What is wrong with one of ``candidates``."""
        known = [key for key in method_types() if key not in NO_CANDIDATES]
        if name not in known:
            return [f"candidates: there is no merge method {name!r} to try; {did_you_mean(str(name), known)}"]
        if settings is None:
            return []
        if not isinstance(settings, Mapping):
            return [f"candidates.{name}: expected its settings by name, got {settings!r}"]
        found = [
            f"candidates.{name}.{key}: a candidate reads the text by which it is judged; expected method.{key}"
            for key in TEXT
            if key in settings and settings[key] != getattr(self, key)
        ]
        if settings.get("gram_from") == "auto":
            found.append(
                f"candidates.{name}.gram_from: a candidate is tried with matrices that all members have (measured), or "
                "with estimates (estimated)"
            )
        told = starting_problems(self, name, _without_text(settings), NO_CANDIDATES)
        return found + [f"candidates.{name}.{problem.removeprefix('start_settings.')}" for problem in told]

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """One parameter of the mean."""
        return self.beginning.merge(parameter)


def named(candidates: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Candidates by name, each with its own settings; None where it is named without any."""
    pairs: list[tuple[Any, Any]] = []
    for entry in candidates:
        pairs += (
            [(name, settings or {}) for name, settings in entry.items()]
            if isinstance(entry, Mapping)
            else [(entry, None)]
        )
    return pairs


def _without_text(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those of the text, which are those of the choice."""
    return {key: value for key, value in settings.items() if key not in TEXT}


def candidates_of(auto: Auto, members: int) -> list[Candidate]:
    """All candidates, the mean with equal coefficients first."""
    shares: list[list[float] | None] = [None]
    if auto.favour != 1:
        for favoured in range(members):
            weights = [auto.favour if number == favoured else 1.0 for number in range(members)]
            shares.append([weight / sum(weights) for weight in weights])
    found = []
    for method in auto.methods:
        mixes = [0.0] if method == auto.beginning else auto.mixes or list(MIXES)
        if favours_some(method):
            found += [Candidate(method, mix) for mix in mixes]
        else:
            found += [Candidate(replace(method, coefficients=share), mix) for share in shares for mix in mixes]
    return found


def favours_some(method: MergeMethod) -> bool:
    """Whether a candidate's own settings say already how much of each member it takes."""
    return method.coefficients is not None or method.free_weights is not None


def work_of(auto: Auto, members: int) -> str:
    """What the choice costs, in a sentence.

    Args:
        auto: what is tried.
        members: how many there are.
    """
    candidates = candidates_of(auto, members)
    merges = [one.method for number, one in enumerate(candidates) if one.method != candidates[number - 1].method]
    told = f"auto tries {len(candidates)} candidates, of {max(len(merges), 1)} merges"
    refitted = [method for method in merges if isinstance(method, RefiningMethod)]
    if refitted:
        texts = max(one.text_examples for one in refitted)
        told += f"; {len(refitted)} of them refit every layer on {texts} texts a member"
    return f"{told}; each is judged on {auto.held_out} texts a member" if auto.by_text else told
