"""Random numbers for every element of a parameter, the same ones whether it is merged whole or in pieces."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from regmean_lab.merging.parameters import Parameter
from regmean_lab.merging.weights import tensor_shape
from regmean_lab.utils.files import sha256

DRAWN_AT_ONCE = 1 << 20
"""Numbers that are drawn at a time where they are only passed over."""


class UniformNumbers:
    """Uniform random numbers from 0 to 1 for every element of each member's tensor of one parameter.

    They depend on nothing but the seed, the parameter's and the member's names and the parameter's shape: neither on
    the device, nor on what is merged before or beside it, nor on the pieces in which they are asked for. Several
    threads may ask.

    Args:
        seed: any integer.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, _Stream] = {}
        self._lock = threading.Lock()

    def of(self, parameter: Parameter, member: int) -> Tensor:
        """Those of one member's tensor.

        Args:
            parameter: the parameter, or rows of it.
            member: number of the member.
        """
        named, like = parameter.members[member], parameter.tensors[member]
        key = sha256("\0".join([str(self.seed), parameter.name, named.name]))
        with self._lock:
            stream = self._streams.setdefault(key, _Stream(int.from_bytes(bytes.fromhex(key)[:7], "big")))
        if parameter.rows is not None:
            shape = tensor_shape(named.weights, parameter.name)
            return stream.take(0, math.prod(shape)).reshape(shape)[parameter.rows.cpu()].to(like)
        return stream.take(parameter.offset, parameter.offset + like.numel()).reshape(like.shape).to(like)


class _Stream:
    """The numbers that a generator gives one after the other.

    Args:
        seed: of the generator.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._generator = torch.Generator().manual_seed(self._seed)
        self._place = 0
        self._skipped: list[tuple[int, Tensor]] = []
        """What was drawn for others that have not asked yet: where it begins, and the numbers."""

    def take(self, start: int, stop: int) -> Tensor:
        """The numbers from one place to before another; those in between are kept for whoever asks for them later."""
        with self._lock:
            if start < self._place:
                if (found := self._of_skipped(start, stop)) is not None:
                    return found
                self._begin()
                while self._place < start:
                    self._draw(min(DRAWN_AT_ONCE, start - self._place))
            if start > self._place:
                self._skipped.append((self._place, self._draw(start - self._place)))
            return self._draw(stop - start)

    def _draw(self, count: int) -> Tensor:
        self._place += count
        return torch.rand(count, generator=self._generator)

    def _of_skipped(self, start: int, stop: int) -> Tensor | None:
        for number, (first, numbers) in enumerate(self._skipped):
            if first <= start and stop <= first + len(numbers):
                del self._skipped[number]
                rest = [(first, numbers[: start - first]), (stop, numbers[stop - first :])]
                self._skipped += [(place, part) for place, part in rest if len(part)]
                return numbers[start - first : stop - first]
        return None
