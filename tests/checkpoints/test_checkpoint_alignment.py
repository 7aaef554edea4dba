"""Rows in another order, whole and in parts, and files written as they are merged."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from regmean_lab.checkpoints.alignment import AlignedGradientGram, AlignedWeights, RowOrder, order_by_names
from regmean_lab.checkpoints.alignment import order_by_tokens as by_tokens
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.checkpoints.writing import PlannedTensor, parse_size, plan_shards, write_shards
from regmean_lab.models.folders import stored_tensors


def saved(folder: Path, tensors: dict[str, Tensor], limit: int = 1 << 30) -> FileWeights:
    shards = plan_shards(
        [PlannedTensor(name, value.dtype, tuple(value.shape)) for name, value in tensors.items()], limit
    )
    folder.mkdir(exist_ok=True)
    write_shards(folder, shards, ((part.name, tensors[part.name]) for shard in shards for part in shard.tensors))
    return FileWeights(stored_tensors(folder))


class TestOrders:
    def test_by_names(self) -> None:
        assert order_by_names(["a", "b"], ["a", "b"]) is None
        order = order_by_names(["a", "b", "c"], ["c", "a"])
        assert order is not None
        assert order.rows.tolist() == [1, -1, 0]
        assert order.present is not None
        assert order.present.tolist() == [True, False, True]
        assert order.take(torch.tensor([5.0, 7.0])).tolist() == [7, 0, 5]

    def test_by_tokens_matches_rows_that_belong_to_no_token(self) -> None:
        assert by_tokens({"a": 0, "b": 1}, 4, {"a": 0, "b": 1}, 4) is None
        order = by_tokens({"a": 0, "b": 1, "c": 2}, 5, {"b": 0, "a": 1}, 4)
        assert order is not None
        assert order.rows.tolist() == [1, 0, -1, 3, -1]

    def test_gradients_are_ordered_on_both_sides(self) -> None:
        class Source:
            layers = ("head",)

            def matrix(self, layer: str) -> Tensor:
                return torch.tensor([[1.0, 2.0], [2.0, 5.0]])

        turned = AlignedGradientGram(Source(), {"head": RowOrder(torch.tensor([1, 0]))})
        assert turned.matrix("head").tolist() == [[5, 2], [2, 1]]


def test_aligned_rows_are_the_same_whole_and_in_parts(tmp_path: Path) -> None:
    own = saved(tmp_path / "own", {"stored": torch.arange(8.0).view(4, 2).bfloat16()})
    other = saved(tmp_path / "other", {"table": -torch.arange(10.0).view(5, 2)})
    order = RowOrder(torch.tensor([3, -1, 0, 2, -1]))
    view = AlignedWeights(own, {"table": "stored"}, {"table": order}, filler=other)
    whole = view["table"]
    assert whole.dtype == torch.float32
    assert whole.tolist() == [[6, 7], [-2, -3], [0, 1], [4, 5], [-8, -9]]
    assert view.shape("table") == (5, 2)
    for start in range(5):
        for stop in range(start + 1, 6):
            assert torch.equal(view.rows("table", start, stop), whole[start:stop])


TENSORS = {
    "half": torch.arange(3, dtype=torch.float16),
    "flag": torch.tensor([True, False, True]),
    "wide": torch.arange(4, dtype=torch.int64),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 7),
    "matrix": torch.randn(5, 6).bfloat16(),
}
"""One tensor of each kind."""


class TestWriting:
    def test_another_library_reads_it(self, tmp_path: Path) -> None:
        saved(tmp_path / "whole", TENSORS)
        with safe_open(tmp_path / "whole" / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
            for name, value in TENSORS.items():
                assert torch.equal(file.get_tensor(name), value)

    def test_tensors_are_aligned(self, tmp_path: Path) -> None:
        saved(tmp_path / "whole", TENSORS)
        content = (tmp_path / "whole" / "model.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        assert length % 8 == 0
        for name, value in TENSORS.items():
            assert header[name]["data_offsets"][0] % value.element_size() == 0

    def test_files_have_at_most_the_size_asked_for(self) -> None:
        tensors = [
            PlannedTensor(name, torch.float32, (size,)) for name, size in zip("abcd", (10, 10, 30, 5), strict=True)
        ]
        shards = plan_shards(tensors, 80)
        assert [[part.name for part in shard.tensors] for shard in shards] == [["c"], ["a", "b"], ["d"]]
        assert shards[0].file == "model-00001-of-00003.safetensors"

    def test_an_interrupted_file_is_not_left(self, tmp_path: Path) -> None:
        shards = plan_shards([PlannedTensor("a", torch.float32, (2,)), PlannedTensor("b", torch.float32, (2,))], 100)
        with pytest.raises(ValueError, match="expected b"):
            write_shards(tmp_path, shards, iter([("a", torch.zeros(2))]))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 << 19), ("17", 17), ("2kb", 2000)])
    def test_sizes(self, text: str, size: int) -> None:
        assert parse_size(text) == size

    @pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "5 parsecs", "1e9"])
    def test_no_sizes(self, text: str) -> None:
        with pytest.raises(ValueError, match="expected a size"):
            parse_size(text)
