"""Upstream files: from the web, a mirror, or a folder, each checked against the SHA-256 of its first download.

Not by pooch: it knows no checksum of a first download that is kept and compared from then on, which is what files need
whose publishers state none, and no folder as a mirror.
"""

from __future__ import annotations

import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock
from tqdm import tqdm

import regmean_lab
from regmean_lab.prepare.base import PrepareError, run_all
from regmean_lab.suites.reading import parse_lines
from regmean_lab.utils.files import sha256, write_bytes

MANIFEST = "SHA256SUMS"
TIMEOUT = 30.0
"""Seconds without an answer or a byte after which a download fails."""
ADVICE = (
    "Where there is no network: fetch the files on another machine, put them in one folder, and give mirror=FOLDER."
)
_CHUNK = 1 << 16

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpstreamFile:
    """A file that is published on the web.

    Attributes:
        name: its name in the folder of upstream files, and in a mirror.
        url: where its publisher has it, in a version that does not change.
    """

    name: str
    url: str


def is_url(text: str) -> bool:
    """Whether a mirror is a base URL (and not a folder)."""
    return text.startswith(("http://", "https://"))


def read_manifest(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by name, from ``SHA256SUMS`` (as the program ``sha256sum`` writes it); empty without one.

    Raises:
        DataError: naming malformed lines.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    return dict(parse_lines(path, _parse_entry))


def _parse_entry(line: str) -> tuple[str, str]:
    digest, _, name = line.partition(" ")
    name = name.strip().removeprefix("*")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef") or not name:
        raise ValueError("expected a SHA-256 (64 hexadecimal digits) and a file name")
    return name, digest


def bring(files: Sequence[UpstreamFile], folder: Path, mirror: str | None) -> dict[str, Path]:
    """Have upstream files in a folder: those that lie there already, and the others from the mirror or the web.

    Trust on first use: the SHA-256 of a file that the folder's ``SHA256SUMS`` does not list is added to it; of one that
    is listed it is compared. A mirror folder's own ``SHA256SUMS`` is compared too.

    Args:
        files: what is needed.
        folder: where they are kept; made if it is absent.
        mirror: a folder or base URL that has files of these names, instead of the publishers' URLs.

    Returns:
        Path of each file by name.

    Raises:
        PrepareError: for all files that cannot be brought or have another SHA-256 than listed, and for a malformed
            manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        run_all({file.name: partial(_bring_one, file, folder, mirror) for file in files})
    return {file.name: folder / file.name for file in files}


def _bring_one(file: UpstreamFile, folder: Path, mirror: str | None) -> None:
    known, path = read_manifest(folder), folder / file.name
    brought = not path.is_file()
    content = _obtain(file, mirror) if brought else path.read_bytes()
    digest = sha256(content)
    if file.name not in known:
        _logger.info(
            "%s: SHA-256 %s is noted in %s and compared from now on; this first copy is taken on trust",
            file.name,
            digest,
            folder / MANIFEST,
        )
        lines = [f"{value}  {name}\n" for name, value in sorted({**known, file.name: digest}.items())]
        write_bytes(folder / MANIFEST, "".join(lines).encode())
    elif known[file.name] != digest:
        where = "the new copy" if brought else str(path)
        raise PrepareError(
            f"SHA-256 of {where} is {digest}, but {folder / MANIFEST} has {known[file.name]}: it is not "
            "the file that was brought before. "
            + ("" if brought else f"Delete {path} to bring it again. ")
            + f"If you trust the other contents, delete its line in {MANIFEST}."
        )
    if brought:
        write_bytes(path, content)


def _obtain(file: UpstreamFile, mirror: str | None) -> bytes:
    if mirror is None:
        return download(file.url, file.name)
    if is_url(mirror):
        return download(f"{mirror.rstrip('/')}/{quote(file.name)}", file.name)
    folder = Path(mirror)
    path = folder / file.name
    if not path.is_file():
        raise PrepareError(f"not in the mirror {folder}; its publisher has it at {file.url}")
    content = path.read_bytes()
    listed = read_manifest(folder).get(file.name)
    digest = sha256(content)
    if listed not in (None, digest):
        raise PrepareError(f"{path}: SHA-256 is {digest}, but {folder / MANIFEST} has {listed}")
    return content


def download(url: str, name: str) -> bytes:
    """Contents of a URL, with a progress bar where there is a terminal.

    Raises:
        PrepareError: if it cannot be had whole, naming the URL and how to do without.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"regmean_lab/{regmean_lab.__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            announced = response.headers.get("Content-Length")
            total = int(announced) if announced and announced.isdigit() else None
            content = bytearray()
            with tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None) as bar:
                while chunk := response.read(_CHUNK):
                    content += chunk
                    bar.update(len(chunk))
    except (HTTPException, OSError, ValueError) as error:  # OSError covers URLError and timeouts
        raise PrepareError(f"{url} cannot be had ({_reason(error)})", ADVICE) from error
    if total is not None and len(content) != total:
        raise PrepareError(f"{url} broke off after {len(content)} of {total} bytes", f"Run again. {ADVICE}")
    return bytes(content)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(error).__name__
