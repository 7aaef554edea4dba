"""Where RegMean's Gram matrices come from: statistics, or what fine-tuning changed in the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from regmean_lab.merging.linear_algebra import solve_device
from regmean_lab.merging.parameters import GramSource, LinearLayer, MergeError, MergeMember
from regmean_lab.merging.task_vectors import oriented
from regmean_lab.statistics import all_finite


def estimated_gram(tensor: Tensor, base: Tensor, layer: LinearLayer) -> Tensor:
    """Cᵢ = DᵢᵀDᵢ of a member's task matrix Dᵢ [out, in], in place of its Gram matrix: shape [in, in], float64.

    A step of gradient descent changes a row of W by a sum of inputs, each times the gradient at an output; where those
    are independent, the products of the rows are, on average, proportional to the Gram matrix of the inputs.

    Args:
        tensor: the member's weight, as it is stored.
        base: that of the model that it was trained from.
        layer: says how weights are stored.
    """
    device = solve_device(tensor.device)
    change = oriented(tensor.to(device, torch.float64) - base.to(device, torch.float64), layer)
    return change.T @ change


def measured_gram(member: MergeMember, source: GramSource | None, layer: str, size: int, gram: str) -> Tensor:
    """A member's Gram matrix of a layer, checked: shape [in, in], in the dtype in which it is stored.

    Args:
        member: the member.
        source: what gives its matrices, if it has any.
        layer: the layer.
        size: its number of inputs.
        gram: ``plain`` or ``weighted``, for messages.

    Raises:
        MergeError: where there is none, for another shape, and for NaN or infinity.
    """
    if source is None:
        kind = "Gram matrices" if gram == "plain" else "loss-weighted Gram matrices (weighted_gram)"
        raise MergeError(f"member {member.name} has no {kind}; regmean needs them for every member")
    matrix = source.matrix(layer)
    if matrix.shape != (size, size):
        raise MergeError(
            f"Gram matrix of {member.name} for layer {layer}: expected shape {(size, size)}, "
            f"found {tuple(matrix.shape)}"
        )
    if not all_finite(matrix):
        raise MergeError(f"Gram matrix of {member.name} for layer {layer}: NaN or infinity")
    return matrix
