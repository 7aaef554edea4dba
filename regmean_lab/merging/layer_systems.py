"""RegMean's systems of equations: the sum of a layer's Gram matrices, factorised once for all layers that share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from regmean_lab.merging.linear_algebra import (
    PositiveSystem,
    Solution,
    bound_of_parts,
    condition_parts,
    fetched,
    off_diagonal_parts,
    scale_off_diagonal_,
    share_of_parts,
    solve_in_range,
)
from regmean_lab.merging.parameters import LayerDiagnostics


class GramSum:
    """Members' Gram matrices, added up one after the other in float64.

    Args:
        size: their width.
        device: where they are added up.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.total = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.entries = torch.float64
        self._conditions: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, gram: Tensor, weight: float, member: str) -> None:
        """Add a member's matrix ``[size, size]``, on the device, times a weight."""
        if gram.dtype != torch.float64:
            self.entries = torch.float32  # in float64 they are as rough as they were
        self._conditions[member] = condition_parts(gram)
        self.total.add_(gram, alpha=weight)

    def system(self, factor: float, ridge: float | None, in_range: bool) -> LayerSystem:
        """The system of equations of the sum, which is overwritten.

        Args:
            factor: on the entries off the diagonal: that of each matrix is that of the sum.
            ridge: what is added to the diagonal, as a share of its mean; None: nothing.
            in_range: whether it is solved by its pseudo-inverse.

        Raises:
            ValueError: when it is not positive semi-definite.
        """
        total = self.total
        if factor != 1:
            scale_off_diagonal_(total, factor)
        parts = [*off_diagonal_parts(total), *(part for parts in self._conditions.values() for part in parts)]
        strength = None
        if ridge is not None:
            strength = ridge * total.diagonal().mean()
            total.diagonal().add_(strength)
        positive = None if in_range else PositiveSystem(total, self.entries, told=parts)
        norm, diagonal, *told = fetched(parts) if positive is None else positive.told
        bounds = map(bound_of_parts, told[::2], told[1::2])
        conditions = {name: bound for name, bound in zip(self._conditions, bounds, strict=True) if bound is not None}
        return LayerSystem(factor, strength, share_of_parts(norm, diagonal), conditions, positive or total)


@dataclass
class LayerSystem:
    """A system of equations, and what is told of it.

    Attributes:
        factor: on the entries off the diagonal.
        strength: what a ridge has added to the diagonal, a number on the device; None without one.
        share: the share of the sum's squared norm that lies off its diagonal.
        conditions: by member, a bound of its matrix's condition number.
        left: the factorised matrix; or the matrix, which is solved by its pseudo-inverse, once.
    """

    factor: float
    strength: Tensor | None
    share: float
    conditions: dict[str, float]
    left: PositiveSystem | Tensor
    _in_range: Solution | None = None

    def solve(self, right: Tensor) -> Tensor:
        """The solution ``[n, m]`` for right-hand sides, which are overwritten.

        Raises:
            ValueError: when the matrix is not positive semi-definite.
        """
        if isinstance(self.left, PositiveSystem):
            return self.left.solve(right)
        self._in_range = solve_in_range(self.left, right)
        return self._in_range.value

    def diagnostics(self, layer: str, factor: float | None) -> LayerDiagnostics:
        """What is told of a layer, once it is solved.

        Args:
            layer: its name.
            factor: the factor, where it was estimated.
        """
        solved = self.left if isinstance(self.left, PositiveSystem) else self._in_range
        assert solved is not None
        return LayerDiagnostics(
            layer,
            solved.jitter,
            solved.condition,
            solved.unseen,
            self.share,
            off_diagonal=factor,
            conditions=dict(self.conditions),
        )


@dataclass
class SharedSystems:
    """The system of the layers that come next, as long as some of them are to come: one at a time is kept.

    Attributes:
        expected: how many layers have the same inputs, by what tells them.
    """

    expected: Counter[Hashable] = field(default_factory=Counter)
    _key: Hashable = None
    _system: LayerSystem | None = None
    _left: int = 0

    def expect(self, inputs: Iterable[Hashable]) -> None:
        """Begin a merge: what tells the inputs of each of its layers, None where they are shared with no other."""
        self.expected = Counter(inputs)
        self._key = self._system = None

    def known(self, key: Hashable) -> LayerSystem | None:
        """The kept system, if it is that of a key; otherwise it is let go, before another one takes its room."""
        if key is None or key != self._key:
            self._key = self._system = None
            return None
        system, self._left = self._system, self._left - 1
        if self._left == 0:
            self._key = self._system = None
        return system

    def keep(self, inputs: Hashable, key: Hashable, system: LayerSystem) -> None:
        """Keep a system for the other layers with the same inputs, if there are any.

        Args:
            inputs: what tells the layer's inputs.
            key: everything that the system depends on; None: it serves this layer alone.
            system: the system.
        """
        self._left = self.expected[inputs] - 1
        if key is not None and self._left > 0:
            self._key, self._system = key, system
