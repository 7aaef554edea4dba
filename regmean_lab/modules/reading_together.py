"""Modules that read the same text: members as teachers, and a merge with the parameters that members keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regmean_lab.modules.base import Batch, TaskModule
from regmean_lab.modules.reading import ReadingModule


@dataclass(frozen=True)
class Said:
    """What a model says of a batch.

    Attributes:
        outputs: logits, or the logits of an answer's beginning and end; none of models without a head.
        hidden: hidden states, each [batch, tokens, features], the last one last.
        encoded: what the encoder of an encoder-decoder gives, of the same form; otherwise None.
    """

    outputs: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]
    encoded: Tensor | None = None


def say(module: TaskModule, batch: Batch, *, hidden: bool) -> Said:
    """Run a module on a batch, as it is run for Gram matrices: of models that write, teacher-forced.

    Args:
        module: the module.
        batch: the batch.
        hidden: whether hidden states are asked for.
    """
    caught: list[Any] = []

    def ask(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "output_hidden_states": hidden, "return_dict": True}

    handles = [
        module.model.register_forward_pre_hook(ask, with_kwargs=True),
        module.model.register_forward_hook(lambda _, args, output: caught.append(output)),
    ]
    try:
        if isinstance(module, ReadingModule):
            module(batch)  # its own pass for Gram matrices has no gradient
        else:
            module.gram_pass(batch)
    finally:
        for handle in handles:
            handle.remove()
    output = caught[-1]
    named = [getattr(output, name, None) for name in ("logits", "start_logits", "end_logits")]
    states = getattr(output, "decoder_hidden_states", None) or getattr(output, "hidden_states", None) or ()
    return Said(
        tuple(tensor for tensor in named if tensor is not None),
        tuple(states),
        getattr(output, "encoder_last_hidden_state", None) if states else None,
    )


def answered(teacher: TaskModule, batch: Batch) -> Batch:
    """A batch of texts alone with what a teacher that writes needs besides: what it writes itself."""
    return batch if {"labels", "target"} & set(batch) else teacher.with_answers(batch)


class Teachers:
    """Members that say what they say: the weights of one at a time are in memory.

    Args:
        modules: a module for each, on the device, in evaluation mode; members may share one. Parameters are pointed
            at the member's own when it is its turn. Each is let go of before the next one is asked for.
        weights: of each, its weights by name, read when they are asked for.
    """

    def __init__(self, modules: Iterable[TaskModule], weights: Sequence[Mapping[str, Tensor]]) -> None:
        self.modules: list[TaskModule] = []
        self.weights = weights
        self._turn: int | None = None
        for module in modules:
            _let_go(module)
            self.modules.append(module)

    def __call__(self, number: int) -> TaskModule:
        """One of them, with its weights."""
        if self._turn != number:
            if self._turn is not None:
                _let_go(self.modules[self._turn])
            self._turn = None
            module, weights = self.modules[number], self.weights[number]
            for name, target in _state(module).items():
                if name in weights:  # what is tied to another name is set under that
                    target.data = weights[name].detach().to(target.device, target.dtype)
            self._turn = number
        return self.modules[number]


class SharedParameters(nn.Module):
    """The parameters of a merge, which several modules have in place of their own.

    Args:
        merged: the merged parameters by name; they are copied, in float32 or wider.
    """

    def __init__(self, merged: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = [name for name, value in merged.items() if value.is_floating_point()]
        self.others = {name: value for name, value in merged.items() if not value.is_floating_point()}
        wide = [torch.promote_types(merged[name].dtype, torch.float32) for name in self.names]
        self.values = nn.ParameterList(
            merged[name].detach().to(dtype, copy=True) for name, dtype in zip(self.names, wide, strict=True)
        )

    def put_into(self, modules: Iterable[TaskModule]) -> list[TaskModule]:
        """Put them into modules, under every name that they have there; what a module has besides is frozen.

        Args:
            modules: one for each member, which may be one for all; each is done with before the next is asked for.
        """
        done: list[TaskModule] = []
        for module in modules:
            if not any(module is other for other in done):
                self._put(module)
            done.append(module)
        return done

    def by_name(self) -> dict[str, Tensor]:
        """Their values, detached."""
        return {name: value.detach() for name, value in zip(self.names, self.values, strict=True)} | self.others

    def copy_(self, merged: Mapping[str, Tensor]) -> None:
        """Give them the values of another merge."""
        with torch.no_grad():
            for name, value in zip(self.names, self.values, strict=True):
                value.copy_(merged[name])

    def _put(self, module: TaskModule) -> None:
        module.requires_grad_(False)
        targets = _state(module)
        places = {id(targets[name]): value for name, value in zip(self.names, self.values, strict=True)}
        for part in module.model.modules():
            for name, parameter in list(part._parameters.items()):
                if id(parameter) in places:
                    part._parameters[name] = places[id(parameter)]
        for name, value in self.others.items():
            targets[name].data = value.to(targets[name].device)


def _state(module: TaskModule) -> dict[str, Tensor]:
    return module.model.state_dict(keep_vars=True)


def _let_go(module: TaskModule) -> None:
    """Free the memory of a module's parameters."""
    for parameter in module.model.parameters():
        parameter.data = parameter.data.new_empty(0)
