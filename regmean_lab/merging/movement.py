"""How far a merged parameter is from its members and from their mean."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from regmean_lab.merging.linear_algebra import fetched
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
    norms = [torch.linalg.vector_norm(value - mean)]
    for tensor in parameter.tensors:
        norms += [torch.linalg.vector_norm(tensor - mean), torch.linalg.vector_norm(tensor - value)]
    moved, *of_members = fetched(norms)
    from_mean, from_value = of_members[::2], of_members[1::2]
    for number, (coefficient, member) in enumerate(zip(parameter.coefficients, parameter.members, strict=True)):
        spread += coefficient * from_mean[number] ** 2
        if from_mean[number] > 0:
            distances[member.name] = from_value[number] / from_mean[number]
    return replace(diagnostics, moved=moved / math.sqrt(spread) if spread > 0 else None, distances=distances)
