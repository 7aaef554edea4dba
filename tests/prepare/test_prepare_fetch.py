from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest

from regmean_lab.prepare import fetch
from regmean_lab.prepare.base import PrepareError
from regmean_lab.prepare.fetch import UpstreamFile, bring, read_manifest


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest_line(content: bytes, name: str) -> str:
    return f"{sha256(content)}  {name}\n"


@pytest.fixture
def files(site: Any) -> list[UpstreamFile]:
    """Two files that the site serves."""
    site.files = {"/x/one.txt": b"one", "/y/two.txt": b"two " * 50_000}
    return [UpstreamFile("one.txt", f"{site.url}/x/one.txt"), UpstreamFile("two.txt", f"{site.url}/y/two.txt")]


def test_files_are_fetched_once_and_noted(site: Any, files: list[UpstreamFile], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "upstream"
    paths = bring(files, folder, None)
    assert {name: path.read_bytes() for name, path in paths.items()} == {"one.txt": b"one", "two.txt": b"two " * 50_000}
    assert (folder / "SHA256SUMS").read_text() == (
        manifest_line(b"one", "one.txt") + manifest_line(b"two " * 50_000, "two.txt")
    )
    assert bring(files, folder, None) == paths
    assert site.asked == ["/x/one.txt", "/y/two.txt"]


def test_a_changed_file_is_refused(site: Any, files: list[UpstreamFile], tmp_path: Path) -> None:
    bring(files, tmp_path, None)
    (tmp_path / "one.txt").write_bytes(b"changed")
    with pytest.raises(PrepareError) as caught:
        bring(files, tmp_path, None)
    message = str(caught.value)
    assert sha256(b"changed") in message and sha256(b"one") in message
    assert f"Delete {tmp_path / 'one.txt'}" in message
    (tmp_path / "one.txt").unlink()
    bring(files, tmp_path, None)
    assert (tmp_path / "one.txt").read_bytes() == b"one"


def test_other_contents_upstream_are_refused(site: Any, files: list[UpstreamFile], tmp_path: Path) -> None:
    bring(files, tmp_path, None)
    (tmp_path / "one.txt").unlink()
    site.files["/x/one.txt"] = b"other"
    with pytest.raises(PrepareError, match="not the file that was brought before"):
        bring(files, tmp_path, None)
    assert not (tmp_path / "one.txt").exists()
    assert read_manifest(tmp_path)["one.txt"] == sha256(b"one")


def test_a_mirror_folder_and_a_mirror_site(site: Any, files: list[UpstreamFile], tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "one.txt").write_bytes(b"from the folder")
    (mirror / "two.txt").write_bytes(b"2")
    assert bring(files, tmp_path / "a", str(mirror))["one.txt"].read_bytes() == b"from the folder"
    assert site.asked == []
    site.files = {"/base/one.txt": b"from the site", "/base/two.txt": b"2"}
    assert bring(files, tmp_path / "b", f"{site.url}/base/")["one.txt"].read_bytes() == b"from the site"
    assert site.asked == ["/base/one.txt", "/base/two.txt"]


def test_a_mirror_folders_own_manifest_counts(files: list[UpstreamFile], tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name in ("one.txt", "two.txt"):
        (mirror / name).write_bytes(name.encode())
    (mirror / "SHA256SUMS").write_text(manifest_line(b"one.txt", "one.txt") + manifest_line(b"damaged", "two.txt"))
    with pytest.raises(
        PrepareError, match=rf"two\.txt: SHA-256 is {sha256(b'two.txt')}, but .* has {sha256(b'damaged')}"
    ):
        bring(files, tmp_path / "a", str(mirror))
    assert (tmp_path / "a" / "one.txt").read_bytes() == b"one.txt"
    assert not (tmp_path / "a" / "two.txt").exists()


def test_all_files_that_cannot_be_had_are_named(site: Any, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/b"
    with pytest.raises(PrepareError) as caught:
        bring([UpstreamFile("a", f"{site.url}/a"), UpstreamFile("b", closed)], tmp_path, None)
    first, second, third = str(caught.value).splitlines()
    assert first == f"a: {site.url}/a cannot be had (HTTP status 404)"
    assert second.startswith(f"b: {closed} cannot be had (") and "refused" in second
    assert third.startswith("Where there is no network: fetch the files") and "mirror=FOLDER" in third
    assert not (tmp_path / "SHA256SUMS").exists()


def test_a_mirror_that_lacks_files(files: list[UpstreamFile], tmp_path: Path) -> None:
    with pytest.raises(PrepareError) as caught:
        bring(files, tmp_path / "a", str(tmp_path))
    assert str(caught.value).splitlines() == [
        f"{file.name}: not in the mirror {tmp_path}; its publisher has it at {file.url}" for file in files
    ]


def test_a_download_that_breaks_off(site: Any, files: list[UpstreamFile], tmp_path: Path) -> None:
    site.missing_bytes = 1
    with pytest.raises(PrepareError, match=r"one\.txt broke off after 2 of 3 bytes"):
        bring(files, tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_site_that_does_not_answer(
    site: Any, files: list[UpstreamFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", 0.1)
    site.silent = True
    with pytest.raises(PrepareError, match=r"one\.txt cannot be had \(timed out\)"):
        bring(files[:1], tmp_path, None)


def test_a_malformed_manifest(files: list[UpstreamFile], tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text(manifest_line(b"one", "one.txt") + "12ab  two.txt\n")
    with pytest.raises(PrepareError, match="SHA256SUMS:2: expected a SHA-256"):
        bring(files, tmp_path, None)


def test_a_manifest_of_sha256sum_in_binary_mode(tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{sha256(b'1')} *with blank.txt\n")
    assert read_manifest(tmp_path) == {"with blank.txt": sha256(b"1")}
