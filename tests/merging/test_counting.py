"""Places in an order of values, found by counting in pieces, against sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regmean_lab.merging.counting import Cut, cuts, threshold_place

magnitudes = st.floats(0, 8, width=32) | st.sampled_from([0.0, 1.0, 1.0, 2.0, 1e-40])


def in_pieces(pieces: list[Tensor], places: list[int], *, indexed: bool = True) -> list[Cut]:
    starts = np.cumsum([0, *(len(piece) for piece in pieces)]).tolist()
    numbered = list(zip(starts, pieces, strict=False))
    (found,) = cuts(
        lambda look: map(look, numbered),
        lambda piece: [piece[1]],
        lambda _, __, ___: places,
        (lambda piece: piece[0]) if indexed else None,
    )
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_comes_before_a_place_is_what_a_stable_sort_puts_there(dtype: torch.dtype, data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.lists(magnitudes, min_size=1, max_size=6), min_size=1, max_size=5))
    pieces = [torch.tensor(part, dtype=dtype) for part in parts]
    whole = torch.cat(pieces)
    places = data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=3))
    order = np.argsort(whole.double().numpy(), kind="stable")
    for place, cut in zip(places, in_pieces(pieces, places), strict=True):
        expected = np.zeros(len(whole), dtype=bool)
        expected[order[:place]] = True
        start, found = 0, []
        for piece in pieces:
            found.append(cut.before(piece, start))
            start += len(piece)
        assert torch.cat(found).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 1.0])
def test_a_threshold_is_the_kth_value(dtype: torch.dtype, density: float) -> None:
    whole = torch.randn(20_000, generator=torch.Generator().manual_seed(1), dtype=dtype).abs()
    whole[5_000:9_000] = whole[:4_000]  # each of them twice
    place = threshold_place(len(whole), density)
    (cut,) = in_pieces(list(whole.split(3_333)), [place], indexed=False)
    assert cut.value == float(whole.double().kthvalue(place + 1).values)


def test_numbers_that_differ_in_the_last_bit_only() -> None:
    values = torch.full((9,), 1.5, dtype=torch.float64)
    values[4] = torch.nextafter(values[4], values[4] + 1)
    (cut,) = in_pieces([values[:5], values[5:]], [8])
    assert cut.value == float(values[4])
    assert [int(part.sum()) for part in (cut.before(values[:5], 0), cut.before(values[5:], 5))] == [4, 4]


def test_sets_are_counted_apart() -> None:
    pieces = [[torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])], [torch.tensor([2.0]), torch.tensor([0.0])]]
    asked = []

    def places(number: int, total: int, nonzero: int) -> list[int]:
        asked.append((number, total, nonzero))
        return [[1], [0, 2]][number]

    found = cuts(lambda look: map(look, pieces), lambda piece: piece, places)
    assert asked == [(0, 3, 2), (1, 3, 2)]
    assert [[cut.value for cut in own] for own in found] == [[2.0], [0.0, 1.0]]
