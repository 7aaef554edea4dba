from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from regmean_lab.utils import files
from regmean_lab.utils.files import file_sha256, json_sha256, new_folder, sha256, sha256_of, write_bytes


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # The test vector of FIPS 180-4.
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha256_of_a_file_larger_than_a_piece(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 1_000_000 + b"b" * 1_000_000)
    whole = hashlib.sha256(b"a" * 1_000_000 + b"b" * 1_000_000).hexdigest()
    assert file_sha256(tmp_path / "a") == whole


def test_sha256_of_parts_is_that_of_all_together() -> None:
    assert sha256("äbc") == hashlib.sha256("äbc".encode()).hexdigest() == sha256("äbc".encode())
    assert sha256_of(["a", b"b", "ç"]) == hashlib.sha256("abç".encode()).hexdigest()
    assert sha256_of([]) == hashlib.sha256().hexdigest()


def test_sha256_of_json_does_not_depend_on_the_order_of_keys() -> None:
    assert json_sha256({"b": [1], "a": None}) == hashlib.sha256(b'{"a": null, "b": [1]}').hexdigest()
    assert json_sha256({"a": None, "b": [1]}) == json_sha256({"b": [1], "a": None})


def test_written_file_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder"
    with new_folder(target) as folder:
        (folder / "first").write_text("1")
        assert not target.exists()
    with pytest.raises(RuntimeError), new_folder(target) as folder:
        (folder / "second").write_text("2")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["first"]
    with new_folder(target) as folder:
        (folder / "third").write_text("3")
        (folder / "third").chmod(0o600)  # as safetensors leaves files
    assert [path.name for path in target.iterdir()] == ["third"]
    mask = os.umask(0)
    os.umask(mask)
    assert (target / "third").stat().st_mode & 0o777 == 0o666 & ~mask
    assert target.stat().st_mode & 0o777 == 0o755
    assert list(target.parent.iterdir()) == [target]


def test_permissions_of_a_file_that_others_share_stay(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    (tmp_path / "outside").chmod(0o600)
    with new_folder(tmp_path / "folder") as folder:
        os.link(tmp_path / "outside", folder / "linked")
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o600
