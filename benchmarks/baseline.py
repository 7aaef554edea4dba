"""Plain textbook versions of what the project computes: short, correct, and without any care for speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]


class TextbookGram:
    """Gram matrices by a hook on every linear layer: ``XᵀX`` of all rows, padding included, and a running mean."""

    def __init__(self, model: nn.Module) -> None:
        self.grams: dict[str, Tensor] = {}
        self.rows: dict[str, int] = {}
        self._layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}

    def collect(self, run: Callable[[Batch], object], batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Run all batches; returns the mean of ``x xᵀ`` for each layer."""
        handles = [part.register_forward_hook(self._hook(name)) for name, part in self._layers.items()]
        with torch.no_grad():
            for batch in batches:
                run(batch)
        for handle in handles:
            handle.remove()
        return self.grams

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])
            gram = rows.T @ rows
            if name in self.grams:
                count = self.rows[name]
                self.grams[name] = (self.grams[name] * count + gram) / (count + len(rows))
                self.rows[name] = count + len(rows)
            else:
                self.grams[name] = gram / len(rows)
                self.rows[name] = len(rows)

        return hook


def textbook_fisher(model: nn.Module, loss: Callable[[Batch], Tensor], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Squares of the gradient of each batch's mean loss, averaged over the batches."""
    fisher = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for batch in batches:
        model.zero_grad()
        loss(batch).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                fisher[name] += parameter.grad**2 / len(batches)
    model.zero_grad()
    return fisher


def textbook_regmean(
    members: Sequence[Mapping[str, Tensor]], grams: Sequence[Mapping[str, Tensor]], off_diagonal: float
) -> dict[str, Tensor]:
    """RegMean with all members in memory and an explicit inverse for each layer; the mean of everything else."""
    merged = {}
    for name in members[0]:
        weights = [member[name] for member in members]
        layer = name.removesuffix(".weight")
        if layer not in grams[0] or not name.endswith(".weight"):
            merged[name] = torch.stack(weights).mean(0)
            continue
        size = weights[0].shape[1]
        identity = torch.eye(size, dtype=weights[0].dtype, device=weights[0].device)
        factors = off_diagonal * torch.ones_like(identity) + (1 - off_diagonal) * identity
        scaled = [gram[layer] * factors for gram in grams]
        products = [gram @ weight.T for gram, weight in zip(scaled, weights, strict=True)]
        merged[name] = (torch.linalg.inv(torch.stack(scaled).sum(0)) @ torch.stack(products).sum(0)).T
    return merged
