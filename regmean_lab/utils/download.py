"""Downloads a source distribution from the Python package index, verifies it, and extracts single files.

Everything is checked against a known SHA-256 before it is used: pip runs in its hash-checking mode, so that a package
with other contents is refused before any of its code runs.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.utils.errors import UserError
from regmean_lab.utils.files import sha256_of

PIP_SECONDS = 900
"""Longest time that pip may take."""
_SHOWN_LINES = 8


class DownloadError(UserError):
    """A file that could not be brought or is not the expected one; the message says which and why."""


@dataclass(frozen=True)
class SourceDistribution:
    """One source distribution and the SHA-256 (hexadecimal) that its archive must have."""

    project: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the archive, as pip saves it."""
        return f"{self.project}-{self.version}.tar.gz"


def checked(content: bytes, sha256: str, name: str) -> bytes:
    """Return ``content`` if it has the expected SHA-256.

    Raises:
        DownloadError: if it has another one.
    """
    found = sha256_of([content])
    if found != sha256:
        raise DownloadError(f"{name}: SHA-256 is {found}, expected {sha256}: not the file that was published.")
    return content


def read_source_distribution(distribution: SourceDistribution, archive: Path) -> bytes:
    """Read a source distribution that lies on disk, and check it.

    Raises:
        DownloadError: if the archive has another SHA-256.
    """
    return checked(archive.read_bytes(), distribution.sha256, str(archive))


def download_source_distribution(distribution: SourceDistribution) -> bytes:
    """Fetch a source distribution with this interpreter's pip, and check it.

    ``pip download`` asks a source distribution for its metadata, which runs its build script in an environment of its
    own. With ``--require-hashes`` pip compares the SHA-256 first.

    Raises:
        DownloadError: if pip fails (with the last lines it wrote), takes too long, or brings another file.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        requirements = folder / "requirements.txt"
        requirements.write_text(
            f"{distribution.project}=={distribution.version} --hash=sha256:{distribution.sha256}\n", encoding="utf-8"
        )
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
        # Only this project is wanted as source: its build tools come as wheels, which is far quicker.
        command += ["--no-binary", distribution.project, "--require-hashes"]
        command += ["--dest", str(folder), "--requirement", str(requirements)]
        try:
            finished = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                encoding="utf-8",
                errors="replace",
                timeout=PIP_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DownloadError(f"pip did not bring {distribution.file_name} within {PIP_SECONDS} s.") from error
        if finished.returncode != 0:
            lines = [line for line in finished.stdout.splitlines() if line.strip()][-_SHOWN_LINES:]
            said = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
            raise DownloadError(
                f"pip could not bring {distribution.file_name} (exit status {finished.returncode}). Its last lines:\n"
                f"{said}"
            )
        archive = folder / distribution.file_name
        if not archive.is_file():
            raise DownloadError(f"pip ended well but did not save {distribution.file_name}.")
        return read_source_distribution(distribution, archive)


def archive_member(archive: bytes, member: str, name: str) -> bytes:
    """Contents of one regular file of a tar archive (compressed or not), found by its exact name.

    Nothing is written to disk, so that no name in the archive can point outside a folder.

    Args:
        archive: the bytes of the archive.
        member: the exact name of the file in it.
        name: what to call the archive in an error.

    Raises:
        DownloadError: if the archive cannot be read or holds no regular file of that name.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            file = tar.extractfile(member) if tar.getmember(member).isfile() else None
            if file is None:
                raise DownloadError(f"{name}: {member} is not a regular file.")
            return file.read()
    except KeyError as error:
        raise DownloadError(f"{name}: holds no file {member}.") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DownloadError(f"{name}: not a readable tar archive ({error}).") from error
