"""Experts of a mixture whose weights are fused: one parameter ``[experts, out, in]`` for a linear layer of each.

Recognised by their structure, which all mixtures of transformers 5 have that were made with its decorator
``use_experts_implementation``: parameters ``gate_up_proj`` (or ``up_proj``) and ``down_proj``, flags that tell how
they are laid out, and a call with hidden states ``[tokens, in]``, each token's experts ``[tokens, k]`` and their
weights. The linear layer of expert 3 is called ``model.layers.0.mlp.experts.gate_up_proj.3``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_FLAGS = ("has_gate", "has_bias", "is_transposed")
_SECOND = "down_proj"
_DISAGREEMENT = 0.05
"""Largest relative difference, as of bfloat16, between an output and what it should be."""


@dataclass(frozen=True)
class FusedExperts:
    """The experts of one layer.

    Attributes:
        name: the module's name.
        module: the module.
        first: name of the first parameter; the second is ``down_proj``.
        count: number of experts.
        transposed: whether weights are stored as ``[in, out]``.
    """

    name: str
    module: nn.Module
    first: str
    count: int
    transposed: bool

    @property
    def parameters(self) -> tuple[str, str]:
        """Names of both parameters in the model."""
        return f"{self.name}.{self.first}", f"{self.name}.{_SECOND}"

    @property
    def layers(self) -> list[str]:
        """Names of all linear layers: the first ones, then the second ones."""
        return [f"{parameter}.{expert}" for parameter in self.parameters for expert in range(self.count)]

    def width(self, layer: str) -> int:
        """The number of inputs of a linear layer."""
        weight = getattr(self.module, layer.split(".")[-2])
        return int(weight.shape[1 if self.transposed else 2])

    def calls(self, arguments: tuple[Any, ...], wanted: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Each expert's number, its tokens among those that are wanted, and the inputs of both its layers.

        Args:
            arguments: those of the module's call.
            wanted: which tokens, ``[tokens]``, bool.
        """
        hidden, index = arguments[0].reshape(-1, arguments[0].shape[-1]), arguments[1]
        for expert in range(self.count):
            routed = (index.reshape(len(hidden), -1) == expert).any(1)
            tokens = (routed & wanted).nonzero().squeeze(1)
            if len(tokens):
                rows = hidden.index_select(0, tokens)
                yield expert, tokens, rows, self._between(rows, expert)

    def _between(self, rows: Tensor, expert: int) -> Tensor:
        """The inputs of an expert's second layer."""
        module: Any = self.module
        projected = self._linear(rows, self.first, expert)
        between: Tensor = module._apply_gate(projected) if module.has_gate else module.act_fn(projected)
        return between

    def _linear(self, rows: Tensor, parameter: str, expert: int) -> Tensor:
        weight = getattr(self.module, parameter)[expert]
        bias = getattr(self.module, f"{parameter}_bias")[expert] if getattr(self.module, "has_bias", False) else None
        return nn.functional.linear(rows.to(weight.dtype), weight.T if self.transposed else weight, bias)

    def agrees(self, arguments: tuple[Any, ...], output: Tensor) -> bool:
        """Whether the module's output is what its experts give when they are computed one by one."""
        hidden = arguments[0].reshape(-1, arguments[0].shape[-1])
        index, weights = (part.reshape(len(hidden), -1) for part in arguments[1:3])
        expected = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        everything = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
        for expert, tokens, _, between in self.calls(arguments, everything):
            given = self._linear(between, _SECOND, expert)
            if getattr(self.module, "has_post_expert_norm", False):
                given = self.module.post_expert_norm(given)  # type: ignore[operator]
            share = ((index[tokens] == expert) * weights[tokens]).sum(1, keepdim=True)
            expected[tokens] += (given * share).float()
        difference = float((output.reshape(expected.shape).float() - expected).norm())
        return difference <= _DISAGREEMENT * float(expected.norm())


def fused_experts(model: nn.Module) -> dict[str, FusedExperts]:
    """The fused experts of ``model`` by module name whose inputs can be measured."""
    found = {}
    for name, module in model.named_modules():
        if not all(isinstance(getattr(module, flag, None), bool) for flag in _FLAGS):
            continue
        first = "gate_up_proj" if module.has_gate else "up_proj"
        weights = [dict(module.named_parameters(recurse=False)).get(part) for part in (first, _SECOND)]
        if not all(weight is not None and weight.dim() == 3 for weight in weights):
            continue
        computes = callable(getattr(module, "_apply_gate" if module.has_gate else "act_fn", None))
        count = weights[0].shape[0]  # type: ignore[union-attr]
        if computes and count == weights[1].shape[0]:  # type: ignore[union-attr]
            found[name] = FusedExperts(name, module, first, count, bool(module.is_transposed))
    return found


def expert_layers(model: nn.Module) -> list[str]:
    """The names of the linear layers of all fused experts."""
    return [layer for experts in fused_experts(model).values() for layer in experts.layers]
