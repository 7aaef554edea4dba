"""One merged parameter: what it is compared with in members and base, and the steps that follow the merge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from regmean_lab.merging.followed_by import Merged, Step
from regmean_lab.merging.parameters import LayerDiagnostics, MergeError, MergeInputs, MergeMember, StackedLayers
from regmean_lab.merging.weights import present_rows, tensor_rows
from regmean_lab.statistics import all_finite


@dataclass(frozen=True)
class MergedParameter:
    """One merged parameter, or some rows of it.

    Attributes:
        name: the parameter's name.
        value: its merged value, in the dtype of the first member, on the device that merged.
        diagnostics: of the system of equations that its layer was solved from, for methods that solve one.
        rows: how many the whole parameter has, if this is a piece of it; None: it is whole.
    """

    name: str
    value: Tensor
    diagnostics: LayerDiagnostics | None = None
    rows: int | None = None


def follow(
    steps: Sequence[Step],
    parameter: MergedParameter,
    inputs: MergeInputs,
    depth: float,
    mean: Callable[[], Tensor],
) -> MergedParameter:
    """A merged parameter after the steps that follow the merge.

    Steps that compare with the base model leave what this one lacks, parameters and rows, as it is; all leave whole
    numbers.

    Args:
        steps: what follows, in order.
        parameter: as it is merged.
        inputs: what it was merged from, with the base model, if there is one.
        depth: how deep the parameter lies, see :class:`Merged`.
        mean: gives the mean of the members' values of this parameter, as ``method=simple`` merges them.
    """
    name, value = parameter.name, parameter.value
    if not steps or not value.dtype.is_floating_point:
        return parameter
    working = value.to(inputs.device, torch.promote_types(value.dtype, torch.float32))
    start = base_tensor(inputs.base, name, working)
    compared = _Compared(name, start, lambda: mean().to(working), inputs, depth)
    based = None if inputs.base is None or start is None else present_rows(inputs.base, name)
    whole = based is None and all(present_rows(member.weights, name) is None for member in inputs.members)
    for step in steps:
        if step.needs_base and start is None:
            continue
        stack = inputs.layout.stacked.get(name)
        if stack is None:
            after = step.apply(compared.parameter(working, whole=whole))
        else:
            after = torch.stack([step.apply(part) for part in compared.experts(working, stack)])
        if step.needs_base and based is not None:
            after[~based] = working[~based]
        working = after
    if not all_finite(working):
        raise MergeError(f"{name}: NaN or infinity after the steps that follow the merge")
    return MergedParameter(name, working.to(value), parameter.diagnostics)


@dataclass(frozen=True)
class _Compared:
    """What steps compare a merged parameter with."""

    name: str
    base: Tensor | None
    mean: Callable[[], Tensor]
    inputs: MergeInputs
    depth: float

    def parameter(self, value: Tensor, *, whole: bool) -> Merged:
        """The parameter; as that of no linear layer, where models lack rows of it."""
        layer = self.inputs.layout.linear.get(self.name) if whole else None

        def read(number: int) -> Tensor:
            return self._working(number, self.inputs.members[number].weights[self.name])

        return self._merged(self.name, value, self.base, self.mean, read, None if layer is None else layer.transposed)

    def experts(self, value: Tensor, stack: StackedLayers) -> Iterator[Merged]:
        """The layer of each of the experts that the parameter holds."""
        means: list[Tensor] = []  # computed once, if any step asks for it

        def mean(expert: int) -> Tensor:
            if not means:
                means.append(self.mean())
            return means[0][expert]

        def read(expert: int, number: int) -> Tensor:
            rows = slice(expert, expert + 1)
            return self._working(number, tensor_rows(self.inputs.members[number].weights, self.name, rows)[0])

        for expert in range(stack.count):
            base = None if self.base is None else self.base[expert]
            own = partial(mean, expert), partial(read, expert)
            yield self._merged(stack.layer(expert).name, value[expert], base, *own, stack.transposed)

    def _merged(
        self,
        name: str,
        value: Tensor,
        base: Tensor | None,
        mean: Callable[[], Tensor],
        member: Callable[[int], Tensor],
        transposed: bool | None,
    ) -> Merged:
        count = len(self.inputs.members)
        weights = [share * count for share in self.inputs.coefficients]
        return Merged(name, value, base, mean, count, member, weights, transposed, self.depth)

    def _working(self, number: int, tensor: Tensor) -> Tensor:
        return working_tensor(self.inputs.members[number], tensor, self.name, self.inputs.device)


def base_tensor(
    base: Mapping[str, Tensor] | None, name: str, like: Tensor, block: slice | None = None
) -> Tensor | None:
    """A parameter's value in the model that the members were trained from, or None where it has no such parameter.

    Args:
        base: that model's weights, or None.
        name: the parameter's name.
        like: its value in a member: the shape that is expected, and the dtype and device that are wanted.
        block: the rows that are wanted; None for all of them.

    Raises:
        MergeError: for another shape, a NaN or infinity.
    """
    if base is None:
        return None
    tensor = base.get(name) if block is None else tensor_rows(base, name, block) if name in base else None
    if tensor is None:
        return None
    if tensor.shape != like.shape:
        raise MergeError(f"{name}: shape {tuple(tensor.shape)} in the base model, {tuple(like.shape)} in the members")
    tensor = tensor.detach()
    if not all_finite(tensor):
        raise MergeError(f"{name}: NaN or infinity in the weights of the base model")
    return tensor.to(like)


def working_tensor(member: MergeMember, tensor: Tensor, name: str, device: torch.device) -> Tensor:
    """A member's tensor as it is merged: float32 or wider, on the device; whole numbers keep their dtype."""
    tensor = tensor.detach()
    if not tensor.dtype.is_floating_point:
        return tensor.to(device)
    if not all_finite(tensor):
        raise MergeError(f"{name}: NaN or infinity in the weights of {member.name}")
    return tensor.to(device, torch.promote_types(tensor.dtype, torch.float32))
