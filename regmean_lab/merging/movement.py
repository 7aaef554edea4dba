"""How far a merged parameter is from its members and from their mean."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from regmean_lab.merging.parameters import LayerDiagnostics, Parameter


def with_movement(diagnostics: LayerDiagnostics, parameter: Parameter, value: Tensor) -> LayerDiagnostics:
    """Diagnostics of a layer with how far its merged weight moved: ``moved`` and ``distances``.

    Norms are Frobenius norms, in the dtype of the tensors. Where members are equal there is nothing to compare with.

    Args:
        diagnostics: of the layer.
        parameter: its weight in the members, which are read once more.
        value: its merged weight, of the same shape.
    """
    mean, spread, distances = parameter.mean(), 0.0, {}
    moved = float(torch.linalg.vector_norm(value - mean))
    for coefficient, member, tensor in zip(parameter.coefficients, parameter.members, parameter.tensors, strict=True):
        from_mean = float(torch.linalg.vector_norm(tensor - mean))
        spread += coefficient * from_mean**2
        if from_mean > 0:
            distances[member.name] = float(torch.linalg.vector_norm(tensor - value)) / from_mean
    return replace(diagnostics, moved=moved / math.sqrt(spread) if spread > 0 else None, distances=distances)
