"""Helpers for files that several users read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from regmean_lab.utils.disk import writing

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CARD_FILE = "README.md"
TRAINING_FILE = "training.json"
STATISTICS_FOLDER = "statistics"
ADAPTER_FOLDER = "adapter"
"""Names in a model's folder, as Hugging Face has them; statistics lie in a folder beside the weights, and beside those
of a zoo's entry the record of how it was trained, and the adapter that a member was trained as: among the weights'
files, transformers would add it to them once more."""


def name_problem(key: str, name: str) -> str | None:
    """Why a name cannot be that of a folder of its own, inside the one where it is made; None if it can.

    Args:
        key: the configuration's key, for the message.
        name: the name.
    """
    if name and not name.startswith(".") and name.isprintable() and not any(mark in name for mark in "/\\:"):
        return None
    return f"{key}: {name!r} names a folder; expected a name without '/', '\\' and ':' that does not begin with '.'"


def sha256(content: str | bytes) -> str:
    """SHA-256 of a text (UTF-8) or of bytes, hexadecimal."""
    return sha256_of([content])


def sha256_of(parts: Iterable[str | bytes]) -> str:
    """SHA-256 of texts (UTF-8) or bytes, one after the other, hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal; read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@lru_cache(maxsize=64)
def contents_sha256(files: tuple[tuple[str, int, int], ...]) -> str:
    """SHA-256 of several files' names, sizes and contents, hexadecimal.

    Args:
        files: path, size and time of the last change (ns) of each, so that a changed file is read again.
    """
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{Path(name).name}:{size}\n".encode())
        with open(name, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def json_sha256(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON with sorted keys, hexadecimal: the same for equal content."""
    return sha256(json.dumps(content, sort_keys=True))


def share(path: Path) -> None:
    """Give a file the permissions that the umask asks for: safetensors makes files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextmanager
def new_file(path: Path, what: str = "", needed: int = 0) -> Iterator[Path]:
    """A temporary name beside ``path``: what is written to it gets the name ``path`` when nothing went wrong.

    So a file is either absent (or as it was before) or complete. Folders above it are made.

    Args:
        path: the file.
        what: what it is, to tell where there is no room for it.
        needed: its bytes, if they are known.

    Raises:
        DiskShortage: where there is no room for it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with writing(path, what, temporary=temporary, needed=needed):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, what: str = "", needed: int = 0) -> Iterator[Path]:
    """A temporary folder that becomes ``path``, in place of one that is there, when nothing went wrong.

    Its files are shared as the umask says. Folders above it are made.

    Args:
        path: the folder.
        what: what it is, to tell where there is no room for it.
        needed: bytes of its files, if they are known.

    Raises:
        DiskShortage: where there is no room for it.
    """
    with writing(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
    try:
        with writing(path, what, temporary=temporary, needed=needed):
            yield temporary
            temporary.chmod(0o755)
            for file in temporary.rglob("*"):
                if file.is_file() and file.stat().st_nlink == 1:  # what is linked belongs to somebody else as well
                    share(file)
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file, whole or not at all; returns its path.

    Raises:
        DiskShortage: where there is no room for it.
    """
    with new_file(path, needed=len(content)) as temporary:
        temporary.write_bytes(content)
    return path


def write_text(path: Path, content: str) -> Path:
    """Write a text (UTF-8), whole or not at all; returns its path."""
    return write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write JSON, whole or not at all; NaN and infinity become null."""
    return write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
