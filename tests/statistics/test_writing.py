"""Files that are written one matrix after the other are those that are written at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_disks import files_of_at_most

from regmean_lab.statistics import FORMS, GramFile, GramStatistics, StatisticsError, save_gram
from regmean_lab.statistics import writing as module
from regmean_lab.statistics.held_outputs import HeldOutputs
from regmean_lab.statistics.writing import matrix_writer
from regmean_lab.utils.disk import DiskShortage

METADATA: dict[str, Any] = {"settings": {"kind": "gram", 'a "quoted" key': "\\"}, "data_fingerprint": "abc"}


def statistics() -> GramStatistics:
    generator = torch.Generator().manual_seed(0)
    rows = {
        "model.layers.0.q": torch.randn(9, 5, generator=generator),
        'ö"dd\\': torch.randn(9, 7, generator=generator),
    }
    matrices = {name: part.T @ part / 9 for name, part in rows.items()}
    shared = {name: name for name in matrices} | {"model.layers.0.k": "model.layers.0.q"}
    return GramStatistics(matrices, shared, dict.fromkeys(matrices, 9), 4, 2, unseen={"expert.3": 6})


def header(of: GramStatistics) -> dict[str, object]:
    return {
        "kind": "gram",
        "rows": of.rows,
        "shared": of.shared,
        "examples": of.examples,
        "batches": of.batches,
        "unseen": of.unseen,
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_that_of_all_matrices_at_once(form: Any, tmp_path: Path) -> None:
    given, rank = statistics(), 2 if form == "low_rank" else None
    save_gram(tmp_path / "whole.safetensors", given, METADATA, form=form, rank=rank)
    path = tmp_path / "folder" / "parts.safetensors"
    with matrix_writer(path, given.layers, METADATA, form=form, rank=rank) as writer:
        for name, matrix in given.matrices.items():
            writer.add(name, matrix)
            assert not path.exists()
        writer.finish(header(given), METADATA)
    whole, parts = load_file(tmp_path / "whole.safetensors"), load_file(path)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert GramFile(path).metadata == GramFile(tmp_path / "whole.safetensors").metadata
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode == (tmp_path / "whole.safetensors").stat().st_mode


def test_a_file_that_was_not_finished_leaves_what_was_there(tmp_path: Path) -> None:
    given, path = statistics(), tmp_path / "gram.safetensors"
    save_gram(path, given, METADATA)
    before = path.read_bytes()
    with pytest.raises(StatisticsError, match="was not finished"), matrix_writer(path, [], METADATA) as writer:
        writer.add("one", torch.eye(2))
    with pytest.raises(KeyError), matrix_writer(path, [], METADATA) as writer:
        writer.add("one", torch.eye(2))
        raise KeyError
    with pytest.raises(StatisticsError, match="rank=None"), matrix_writer(path, [], METADATA, form="low_rank"):
        pass
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_more_metadata_than_there_is_room_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SPARE", 0)
    path = tmp_path / "gram.safetensors"
    with (
        pytest.raises(StatisticsError, match=r"metadata of \d+ bytes do not fit"),
        matrix_writer(path, [], {}) as writer,
    ):
        writer.finish(header(statistics()), {**METADATA, "more": "x" * 4000})
    assert not path.exists()


@pytest.mark.parametrize("count", [1, 300])
def test_there_is_room_for_whatever_layers_are_called(count: int, tmp_path: Path) -> None:
    layers = [f'"\\ö{"x" * 200}.{number}' for number in range(count)]
    widths = dict.fromkeys(layers, 10**6)
    path = tmp_path / "gram.safetensors"
    with matrix_writer(path, layers, METADATA, form="low_rank", rank=1) as writer:
        for layer in layers:
            writer.add(layer, torch.eye(1))
        of_all = {"kind": "gram", "rows": widths, "shared": dict(zip(layers, layers, strict=True))}
        writer.finish({**of_all, "examples": 1, "batches": 1}, {**METADATA, "collected": {"widths": widths}})
    assert GramFile(path).layers == layers


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gram.safetensors"
    match = r"^cannot write statistics .*/gram\.safetensors: File too large; it takes more than .*at most 80 kB"
    writing = matrix_writer(path, ["one"], METADATA)
    with pytest.raises(DiskShortage, match=match), files_of_at_most(80_000), writing as writer:
        writer.add("one", torch.eye(200))
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_into_memory_is_held_in_files(tmp_path: Path) -> None:
    held = HeldOutputs(tmp_path / "held", 100)
    small, large = torch.arange(10.0), torch.arange(24.0).reshape(2, 12)[:, ::2]
    held.put("small", (small, None))
    held.put("large", {"x": [large, large.bfloat16()], "n": 3})
    assert (held.memory_bytes, held.file_bytes) == (40, 72)
    copy = held.get("small", torch.device("cpu"))[0]
    copy += 1
    assert torch.equal(held.get("small", torch.device("cpu"))[0], torch.arange(10.0))
    back = held.get("large", torch.device("cpu"))
    assert torch.equal(back["x"][0], large)
    assert torch.equal(back["x"][1], large.bfloat16())
    assert back["n"] == 3
    held.put("large", small)  # in place of it; there is room now
    assert (held.memory_bytes, held.file_bytes) == (80, 0)
    assert not list((tmp_path / "held").iterdir())
    held.put("third", small)
    held.close()
    assert not list((tmp_path / "held").iterdir())
    with pytest.raises(StatisticsError, match="a set, of which it is not known"):
        held.put("odd", {1})


def test_activations_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "held").write_text("a file")
    with pytest.raises(StatisticsError, match=r"held: activations of 40 bytes cannot be written"):
        HeldOutputs(tmp_path / "held", 0).put("x", torch.arange(10.0))
    held = HeldOutputs(tmp_path / "folder", 0)
    held.put("x", torch.arange(10.0))
    next((tmp_path / "folder").iterdir()).write_bytes(b"cut off")
    with pytest.raises(StatisticsError, match=r"activations cannot be read again"):
        held.get("x", torch.device("cpu"))
