"""What is told where there is no room for a file, by each way in which libraries report that."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_disks import files_of_at_most, small_disk
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from regmean_lab.statistics import save_gram
from regmean_lab.statistics.gram import GramStatistics
from regmean_lab.training.snapshots import TensorCheckpoints
from regmean_lab.utils.disk import DiskShortage, named_setting, shortage_number, write_problem, writing
from regmean_lab.utils.errors import UserError
from regmean_lab.utils.files import new_file, new_folder, write_bytes, write_json
from regmean_lab.utils.memory import is_memory_error

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)


def save_tensors(path: Path) -> None:
    with new_file(path) as temporary:
        save_file({"a": torch.zeros(10_000)}, temporary)


def save_tokenizer(path: Path) -> None:
    with new_folder(path) as temporary:
        Tokenizer(WordLevel({str(number): number for number in range(2000)})).save(str(temporary / "tokenizer.json"))


def save_statistics(path: Path) -> None:
    save_gram(path, GramStatistics({"one": torch.eye(100)}, {"one": "one"}, {"one": 1}, 1, 1), {})


WRITERS = {
    "bytes": lambda path: write_bytes(path, bytes(10_000)),
    "JSON": lambda path: write_json(path, {"a": "b" * 10_000}),
    "tensors": save_tensors,
    "tokenizer": save_tokenizer,
    "statistics": save_statistics,
    "state of training": lambda path: TensorCheckpoints().save_checkpoint({"a": torch.zeros(10_000)}, path),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("before", [False, True], ids=["new", "replaced"])
def test_whatever_writes_tells_where_and_leaves_what_was_there(tmp_path: Path, kind: str, before: bool) -> None:
    path = tmp_path / "new" / "file"
    if before:
        path.parent.mkdir()
        path.write_bytes(b"earlier")
    match = f"^cannot write .*{path}: File too large; .*at most 5 kB"
    with pytest.raises(DiskShortage, match=match) as told, files_of_at_most(5000):
        WRITERS[kind](path)
    assert (told.value.path, told.value.number) == (path, errno.EFBIG)
    assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [("file", b"earlier")] * before
    path.unlink(missing_ok=True)
    WRITERS[kind](path)
    assert path.exists()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk(tmp_path: Path, kind: str) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        match = f"^cannot write .*{disk.folder}/file: No space left on device; .*kB are free there\n.*\n.*make room"
        with pytest.raises(DiskShortage, match=match) as told:
            WRITERS[kind](disk.folder / "file")
        assert told.value.number == errno.ENOSPC
        assert not list(disk.folder.iterdir())
        disk.make_room(200)
        WRITERS[kind](disk.folder / "file")


def test_what_is_free_is_told_as_it_is_afterwards(tmp_path: Path) -> None:
    match = r"it takes more than 28\.7 kB; 32\.8 kB are free there"
    with small_disk(tmp_path / "disk", 32) as disk:
        file = new_file(disk.folder / "file")
        with pytest.raises(DiskShortage, match=match), file as temporary:
            temporary.write_bytes(bytes(28_672))
            raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize("number", NO_ROOM)
def test_each_number_has_its_own_remedy(tmp_path: Path, number: int) -> None:
    with pytest.raises(DiskShortage, match=os.strerror(number)) as told, writing(tmp_path / "file", "a member"):
        raise OSError(number, os.strerror(number))
    assert str(told.value).startswith(f"cannot write a member {tmp_path / 'file'}: ")
    assert "choose a folder" in str(told.value)
    assert not is_memory_error(told.value)
    copy = pickle.loads(pickle.dumps(told.value))  # processes of several devices send it
    assert (str(copy), copy.path, copy.number) == (str(told.value), told.value.path, number)


def test_the_numbers_that_count() -> None:
    counted = {number for number in errno.errorcode if shortage_number(OSError(number, "text")) is not None}
    assert counted == set(NO_ROOM)
    assert shortage_number(RuntimeError("(os error 2)")) is None
    assert shortage_number(UserError("(os error 28)")) is None
    wrapped = RuntimeError("unexpected pos 64 vs 0")
    wrapped.__context__ = OSError(errno.ENOSPC, "full")
    assert shortage_number(wrapped) == errno.ENOSPC


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "none"), PermissionError(errno.EACCES, "no"), ValueError("x")])
def test_other_errors_pass(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as passed, writing(tmp_path / "file"):
        raise error
    assert passed.value is error


def test_a_file_inside_a_folder_is_told_as_the_folder_and_another_file_as_itself(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(DiskShortage) as told, files_of_at_most(10), new_folder(target, "the model") as temporary:
        write_bytes(temporary / "inner", bytes(20))
    assert told.value.path == target
    assert str(told.value).startswith(f"cannot write the model {target}: ")
    with pytest.raises(DiskShortage) as told, new_folder(target, "the model"):
        raise OSError(errno.ENOSPC, "full", "/elsewhere/file")
    assert str(told.value).startswith("cannot write /elsewhere/file: ")
    assert not list(tmp_path.iterdir())


def test_the_setting_that_chooses_the_folder(tmp_path: Path) -> None:
    folders = {"paths.output_dir": tmp_path, "paths.zoo_dir": tmp_path / "zoo", "output": tmp_path / "other"}
    told = "make room there, or choose a folder on another disk"
    assert named_setting(told, tmp_path / "zoo" / "a", folders) == (
        "make room there, or choose a folder (paths.zoo_dir=FOLDER) on another disk"
    )
    assert "paths.output_dir" in named_setting(told, tmp_path / "b", folders)
    assert named_setting(told, Path("/elsewhere"), folders) == named_setting(told, None, folders) == told


def test_a_folder_in_which_nothing_can_be_written(tmp_path: Path) -> None:
    assert write_problem(tmp_path / "new") is None
    with files_of_at_most(100):
        assert str(write_problem(tmp_path / "new")).startswith(f"cannot write {tmp_path / 'new'}: File too large")
    assert not list(tmp_path.iterdir())
    with small_disk(tmp_path / "disk", 64) as disk:
        (disk.folder / "full").write_bytes(bytes(40_000))
        assert "No space left on device" in str(write_problem(disk.folder))
        disk.read_only()
        assert str(write_problem(disk.folder / "new")).startswith(f"cannot write {disk.folder}/new: Read-only file sys")
