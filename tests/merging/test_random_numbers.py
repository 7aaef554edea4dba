"""Random numbers in pieces are those of the whole, in whatever order pieces are asked for."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading

import pytest
import torch
from torch import Tensor

from regmean_lab.merging import MergeMember, Parameter
from regmean_lab.merging.random_numbers import UniformNumbers

SHAPE = (50, 7)


def piece(start: int, stop: int) -> Parameter:
    members = [MergeMember(name, {"w": torch.zeros(SHAPE)}) for name in "ab"]
    return Parameter("w", [torch.zeros(stop - start, SHAPE[1])] * 2, members, [0.5, 0.5], start=start)


def whole(member: str) -> Tensor:
    """As PyTorch draws them at once."""
    key = hashlib.sha256(f"3\0w\0{member}".encode()).digest()
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(int.from_bytes(key[:7], "big")))


@pytest.mark.parametrize("seed", range(8))
def test_pieces_in_any_order(seed: int) -> None:
    bounds = [0, *sorted(random.Random(seed).sample(range(1, 50), 6)), 50]
    asked = [(a, b, member) for a, b in itertools.pairwise(bounds) for member in (0, 1)]
    random.Random(seed).shuffle(asked)
    numbers = UniformNumbers(3)
    for start, stop, member in asked:
        assert torch.equal(numbers.of(piece(start, stop), member), whole("ab"[member])[start:stop])
    start, stop, member = asked[0]  # once more
    assert torch.equal(numbers.of(piece(start, stop), member), whole("ab"[member])[start:stop])


def test_threads_that_ask_at_once() -> None:
    numbers, found = UniformNumbers(3), {}

    def ask(row: int) -> None:
        found[row] = numbers.of(piece(row, row + 1), 1)

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.cat([found[row] for row in range(50)]), whole("b"))
