from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from regmean_lab.utils import download
from regmean_lab.utils.download import (
    DownloadError,
    SourceDistribution,
    archive_member,
    checked,
    download_source_distribution,
    read_source_distribution,
)

CONTENT = b"an archive"
DISTRIBUTION = SourceDistribution("thing", "1.0", hashlib.sha256(CONTENT).hexdigest())


def tar(files: dict[str, bytes], mode: str = "w:gz", link: tuple[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo(link[0])
            entry.type, entry.linkname = tarfile.SYMTYPE, link[1]
            archive.addfile(entry)
    return buffer.getvalue()


def pip(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], tuple[int, str]]) -> list[list[str]]:
    """Put a stand-in in pip's place: it gets the destination folder and returns exit status and output."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        status, output = act(Path(command[command.index("--dest") + 1]))
        return SimpleNamespace(returncode=status, stdout=output)

    monkeypatch.setattr(download.subprocess, "run", run)
    return commands


def test_checked() -> None:
    assert checked(CONTENT, DISTRIBUTION.sha256, "it") == CONTENT
    with pytest.raises(DownloadError, match=rf"^it: SHA-256 is [0-9a-f]{{64}}, expected {DISTRIBUTION.sha256}"):
        checked(b"other", DISTRIBUTION.sha256, "it")


def test_distribution_on_disk(tmp_path: Path) -> None:
    path = tmp_path / DISTRIBUTION.file_name
    assert path.name == "thing-1.0.tar.gz"
    path.write_bytes(CONTENT)
    assert read_source_distribution(DISTRIBUTION, path) == CONTENT
    path.write_bytes(b"other")
    with pytest.raises(DownloadError, match=r"thing-1\.0\.tar\.gz: SHA-256"):
        read_source_distribution(DISTRIBUTION, path)


def test_pip_is_told_the_hash_and_asked_for_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = []

    def act(folder: Path) -> tuple[int, str]:
        requirements.append((folder / "requirements.txt").read_text())
        (folder / "thing-1.0.tar.gz").write_bytes(CONTENT)
        return 0, "Saved"

    commands = pip(monkeypatch, act)
    assert download_source_distribution(DISTRIBUTION) == CONTENT
    assert requirements == [f"thing==1.0 --hash=sha256:{DISTRIBUTION.sha256}\n"]
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} <= set(command)
    assert command[command.index("--no-binary") + 1] == "thing"
    assert not Path(command[command.index("--dest") + 1]).exists()


def test_last_lines_of_pip_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, lambda _: (2, "\n".join(f"line {number}" for number in range(30)) + "\n\nERROR: no network\n"))
    with pytest.raises(DownloadError) as caught:
        download_source_distribution(DISTRIBUTION)
    lines = str(caught.value).splitlines()
    assert "thing-1.0.tar.gz (exit status 2)" in lines[0]
    assert lines[-1] == "  ERROR: no network"
    assert 5 <= len(lines) <= 12


def test_interpreter_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real child process: an interpreter that has no module of that name."""
    run = subprocess.run

    def without_pip(command: list[str], **options: object) -> object:
        return run([command[0], "-m", "no_such_module_as_pip", *command[3:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(download.subprocess, "run", without_pip)
    with pytest.raises(DownloadError, match="No module named no_such_module_as_pip"):
        download_source_distribution(DISTRIBUTION)


def test_pip_that_brings_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(folder: Path) -> tuple[int, str]:
        (folder / "thing-1.0.tar.gz").write_bytes(b"other")
        return 0, ""

    pip(monkeypatch, other)
    with pytest.raises(DownloadError, match="SHA-256"):
        download_source_distribution(DISTRIBUTION)


def test_pip_that_brings_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, lambda _: (0, ""))
    with pytest.raises(DownloadError, match=r"did not save thing-1\.0\.tar\.gz"):
        download_source_distribution(DISTRIBUTION)


def test_pip_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 900)

    monkeypatch.setattr(download.subprocess, "run", hang)
    with pytest.raises(DownloadError, match=r"thing-1\.0\.tar\.gz within 900 s"):
        download_source_distribution(DISTRIBUTION)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_member_of_an_archive(mode: str) -> None:
    archive = tar({"folder/one": b"1", "folder/two": b"2"}, mode)
    assert archive_member(archive, "folder/two", "it") == b"2"


def test_member_is_found_by_its_exact_name() -> None:
    with pytest.raises(DownloadError, match=r"^it: holds no file one"):
        archive_member(tar({"../one": b"1", "folder/one": b"1"}), "one", "it")


def test_link_is_not_followed() -> None:
    archive = tar({"target": b"secret"}, link=("data", "target"))
    with pytest.raises(DownloadError, match="data is not a regular file"):
        archive_member(archive, "data", "it")


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", tar({"one": b"1" * 5000})[:60]], ids=["empty", "other", "truncated"]
)
def test_unreadable_archive(content: bytes) -> None:
    with pytest.raises(DownloadError, match=r"^it: not a readable tar archive"):
        archive_member(content, "one", "it")
