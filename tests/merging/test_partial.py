"""Which parameters stay each member's own, on names written out by hand."""

from __future__ import annotations

import pytest
import torch

from regmean_lab.merging import MergeError, MergeMember, MergeMethod, merge_members
from regmean_lab.merging.parameters import Layout
from regmean_lab.merging.partial import covered, top_blocks
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple

NAMES = [
    "bert.embeddings.word_embeddings.weight",
    "bert.encoder.layer.0.output.dense.weight",
    "bert.encoder.layer.1.output.dense.weight",
    "bert.encoder.layer.2.output.dense.weight",
    "classifier.weight",
]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["classifier"], NAMES[4:]),
        (["classifier.*"], NAMES[4:]),
        (["*.layer.1"], NAMES[2:3]),
        (["bert.encoder"], NAMES[1:4]),
        (["layer.1"], []),
        ([], []),
    ],
)
def test_a_pattern_covers_parameters_and_what_is_below_a_module(patterns: list[str], expected: list[str]) -> None:
    assert [name for name in NAMES if covered(name, patterns)] == expected


def test_top_blocks_are_counted_from_the_end_of_each_stack() -> None:
    assert top_blocks(NAMES, 2) == set(NAMES[2:4])
    assert top_blocks(NAMES, 0) == set()
    assert top_blocks(["encoder.block.0.w", "encoder.block.1.w", "decoder.block.0.w"], 1) == {
        "encoder.block.1.w",
        "decoder.block.0.w",
    }


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Simple(keep_layers=["classifier", "clasifier"]), "keep_layers: no module or parameter matches clasifier"),
        (Simple(merge_layers=["encoder"]), "merge_layers: no module or parameter matches encoder"),
        (RegMean(exclude_layers=["*.dense"]), "exclude_layers: no linear layer matches"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(method: MergeMethod, message: str) -> None:
    members = [MergeMember(name, {name: torch.ones(2) for name in NAMES}) for name in "ab"]
    with pytest.raises(MergeError, match=message):
        list(merge_members(method, members, Layout({})))


def test_only_what_is_not_kept_is_merged() -> None:
    members = [MergeMember(str(value), {name: torch.full((2,), value) for name in NAMES}) for value in (1.0, 3.0)]

    def merged(method: Simple) -> list[str]:
        parts = list(merge_members(method, members, Layout({})))
        assert all(torch.equal(part.value, torch.full((2,), 2.0)) for part in parts)
        return [part.name for part in parts]

    assert merged(Simple()) == NAMES
    assert merged(Simple(keep_layers=["classifier"], keep_top=1)) == NAMES[:3]
    assert merged(Simple(merge_layers=["bert.encoder"])) == NAMES[1:4]
    assert merged(Simple(merge_layers=["bert.encoder"], keep_layers=["*.layer.0"])) == NAMES[2:4]
