"""Loss-weighted Gram matrices by their definition: row by row and score by score, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regmean_lab.statistics import linear_layers


def naive_weighted(
    model: nn.Module, examples: Sequence[Any], scores: Callable[[Any], list[Tensor]]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Σ ω x xᵀ / Σ ω by layer, and (Σ ω)² / Σ ω²; without padding all rows are real.

    Args:
        model: the model.
        examples: batches of one example, without padding.
        scores: runs the model on one, and gives every score whose squared gradients count, a scalar each.
    """
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = [
        module.register_forward_hook(
            lambda module, args, output, name=name: rows.setdefault(name, []).append((args[0].detach(), output))
        )
        for name, module in linear_layers(model).items()
    ]
    products: dict[str, Tensor] = {}
    weights: dict[str, list[float]] = {}
    for example in examples:
        rows.clear()
        values = scores(example)
        for name, calls in rows.items():
            for inputs, output in calls:
                gradients = [
                    torch.autograd.grad(value, output, retain_graph=True, allow_unused=True)[0] for value in values
                ]
                for r, x in enumerate(inputs.reshape(-1, inputs.shape[-1])):
                    weight = sum(
                        float(gradient.reshape(-1, gradient.shape[-1])[r].square().sum())
                        for gradient in gradients
                        if gradient is not None
                    )
                    products[name] = products.get(name, torch.zeros(())) + weight * torch.outer(x, x)
                    weights.setdefault(name, []).append(weight)
    for handle in handles:
        handle.remove()
    weighted = {name: total / sum(weights[name]) for name, total in products.items() if sum(weights[name]) > 0}
    effective = {name: sum(own) ** 2 / sum(w * w for w in own) for name, own in weights.items() if sum(own) > 0}
    return weighted, effective


def centred(logits: Tensor) -> list[Tensor]:
    """Of logits ``[places, C]``, how far each lies from the mean of its place."""
    return list((logits - logits.mean(-1, keepdim=True)).flatten())


def mixture(weighted: Tensor, gram: Tensor, share: float) -> Tensor:
    """(1 − κ) S tr(G)/tr(S) + κ G."""
    return (1 - share) * weighted * torch.trace(gram) / torch.trace(weighted) + share * gram
