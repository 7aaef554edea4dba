"""A full disk, files that change while they are read, and NaN in mid-merge: told clearly, and nothing is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from checkpoint_folders import merge_into, save_classifier, tensors_of
from safetensors.torch import load_file, save_file
from small_disks import files_of_at_most

from regmean_lab.checkpoints import output
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.output import write_output
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.checkpoints.writing import _ShardWriter
from regmean_lab.merging import MergeError, pieces
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.ties import Ties
from regmean_lab.utils.disk import DiskShortage

EMBEDDING = "bert.embeddings.word_embeddings.weight"
Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def folders(tmp_path: Path, pico_cache: Path) -> list[Path]:
    for seed, name in enumerate(("a", "b", "base")):
        save_classifier(tmp_path / name, pico_cache, seed)
    return [tmp_path / "a", tmp_path / "b"]


@pytest.fixture
def merged(tmp_path: Path, folders: list[Path]) -> Path:
    """What was merged before, which a failure must leave."""
    return merge_into(tmp_path / "out", folders, Simple())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def fails(folder: Path, match: str, error: type[Exception] = MergeError) -> Iterator[None]:
    """A merge fails with one message, and all files of the folder stay as they were."""
    before = contents(folder)
    with pytest.raises(error, match=match):
        yield
    assert contents(folder) == before


def test_files_that_may_not_grow(tmp_path: Path, folders: list[Path], merged: Path) -> None:
    """The system's own limit of a file's size stands for a full disk: writing fails in the middle of the weights."""
    told = f"^cannot write the merged model {merged}: File too large; it takes [1-9].*at most 20 kB"
    with fails(tmp_path, told, DiskShortage), files_of_at_most(20_000):
        merge_into(merged, folders, Simple(coefficients=[0.3, 0.7]))


@pytest.mark.parametrize("piece", [1, 5])
def test_a_disk_that_is_full_after_some_pieces(
    tmp_path: Path, folders: list[Path], merged: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 500)
    written, write = [0], _ShardWriter.write

    def full(writer: _ShardWriter, tensor: torch.Tensor) -> None:
        written[0] += 1
        if written[0] == piece:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(writer, tensor)

    monkeypatch.setattr(_ShardWriter, "write", full)
    for method in (Simple(), Ties(scope="parameter")):
        written[0] = 0
        with fails(tmp_path, f"^cannot write the merged model {merged}: No space left on device", DiskShortage):
            merge_into(merged, folders, method, base=str(tmp_path / "base"))


def test_too_little_room_is_told_before_weights_are_read(
    tmp_path: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 1000, 1000))
    prepared = prepare_merge(MergeRequest([str(path) for path in folders], Simple()))
    monkeypatch.setattr(FileWeights, "_read", lambda *_: pytest.fail("weights are read"))
    with fails(tmp_path, "output: .*/new/out: the merged weights take .* kB, and 1 kB are free there"):
        write_output(prepared, tmp_path / "new" / "out", {"name": "simple"})


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" ")


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def replaced(path: Path) -> None:
    state = path.stat()
    shutil.copyfile(path, path.with_suffix(".new"))
    os.utime(path.with_suffix(".new"), ns=(state.st_atime_ns, state.st_mtime_ns))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("change", [appended, rewritten, replaced])
@pytest.mark.parametrize("name", ["a/model.safetensors", "b/config.json", "base/model.safetensors"])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], name: str
) -> None:
    write = output.write_merged_weights

    def and_change(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        change(tmp_path / name)

    monkeypatch.setattr(output, "write_merged_weights", and_change)
    with pytest.raises(MergeError, match=f"{name}: changed while it was read.*nothing was written. Merge again"):
        merge_into(tmp_path / "out", folders, Ties(), base=str(tmp_path / "base"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".tmp", "out"))]


def test_a_file_that_changed_between_its_header_and_its_weights(tmp_path: Path, folders: list[Path]) -> None:
    prepared = prepare_merge(MergeRequest([str(path) for path in folders], Simple()))
    rewritten(folders[0] / "model.safetensors")
    with pytest.raises(MergeError, match=r"a/model\.safetensors: changed while it was read"):
        write_output(prepared, tmp_path / "out", {"name": "simple"})
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_cut_off_in_mid_merge(
    tmp_path: Path, folders: list[Path], merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 500)
    prepared = prepare_merge(MergeRequest([str(path) for path in folders], Simple()))
    os.truncate(folders[1] / "model.safetensors", 60_000)
    with fails(tmp_path, r"b/model\.safetensors: cut off while it was read"):
        write_output(prepared, merged, {"name": "simple"})


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_a_piece_comes_with_its_own_message(
    tmp_path: Path, folders: list[Path], merged: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 500)
    tensors = load_file(folders[1] / "model.safetensors")
    tensors[EMBEDDING][-1, -1] = float("nan")
    save_file(tensors, folders[1] / "model.safetensors", metadata={"format": "pt"})
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for method in (Simple(), Ties(), Ties(scope="parameter")):
            with fails(tmp_path, f"^{EMBEDDING}: NaN or infinity in the weights of b$"):
                merge_into(merged, folders, method, base=str(tmp_path / "base"))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_record_has_the_checksums_of_what_was_read(tmp_path: Path, folders: list[Path], merged: Path) -> None:
    """They are computed while weights are merged."""
    for source in json.loads((merged / "merge.json").read_text())["checkpoints"]:
        assert set(source["sha256"]) >= {"model.safetensors", "config.json"}
        for name, digest in source["sha256"].items():
            assert digest == hashlib.sha256((tmp_path / source["name"] / name).read_bytes()).hexdigest()


def test_files_are_the_same_whatever_the_pieces(
    tmp_path: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in (Simple(), Ties(scope="parameter")):
        whole = merge_into(tmp_path / "whole", folders, method, base=str(tmp_path / "base"), dtype=torch.bfloat16)
        expected = tensors_of(whole)
        with monkeypatch.context() as patch:
            patch.setattr(pieces, "BLOCK_ELEMENTS", 300)
            parts = merge_into(tmp_path / "parts", folders, method, base=str(tmp_path / "base"), dtype=torch.bfloat16)
        assert all(torch.equal(value, expected[name]) for name, value in tensors_of(parts).items())
