"""Structures of architectures that were found once, kept between processes: what a merge wants of a model, as JSON.

To make a model, even one without weights, takes seconds of imports, and so do some configurations. What a merge of
weights wants of them follows from the content of ``config.json`` and of the headers of the weights, and from the
versions of the libraries. So it is kept in the user's cache folder (:func:`regmean_lab.utils.cache.cache_folder`).

The files that a structure is made of come from strangers. Its key is a SHA-256 over all that it follows from, so that
the structure of one checkpoint is never taken for one with other content, whoever made that and whatever it is called.
No refusal is kept. What is read is JSON and never runs; a file that is not just what was written under its key (another
format, damaged, edited) is not taken. The folder is made such that its user alone may write there.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import regmean_lab
from regmean_lab.models.headers import StoredTensor
from regmean_lab.utils.cache import cache_folder
from regmean_lab.utils.files import json_sha256, sha256, write_text

log = logging.getLogger(__name__)

FORMAT = 2
"""Changes when what is kept does."""

FOLDER = "structures"
MOST_FILES = 256
MOST_BYTES = 8_000_000
MOST_TOGETHER = 200_000_000
"""Files that are kept, the size of one, and of all: the structure of a model of 300 tensors takes 50 kB, a vocabulary
of 128,000 tokens 3 MB."""

ADDED = (
    ("transformers.models.auto.configuration_auto", "CONFIG_MAPPING"),
    ("transformers.models.auto.tokenization_auto", "TOKENIZER_MAPPING"),
    ("transformers.models.auto.tokenization_auto", "REGISTERED_TOKENIZER_CLASSES"),
    ("transformers.conversion_mapping", "USER_REGISTERED_MAPPINGS"),
)
"""Where transformers has what a program adds to it: mappings with what was added apart, or of that alone."""


def structure_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 of what a structure follows from, with the versions of all that makes it.

    Args:
        parts: JSON of the configuration's content, of what makes its model another one, and of the headers.
    """
    return json_sha256({"format": FORMAT, "versions": _versions(), **parts})


def header_content(tensors: Mapping[str, StoredTensor]) -> list[Any]:
    """What a structure follows from in headers: names, dtypes and shapes of the stored tensors, in their order."""
    return [[name, tensor.dtype, list(tensor.shape)] for name, tensor in tensors.items()]


def kept(key: str) -> dict[str, Any] | None:
    """What was kept under a key; None where nothing is, or something else."""
    if (path := _path(key)) is None:
        return None
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        file = json.loads(path.read_text(encoding="utf-8"))
        content = file["content"]
        sound = (file["format"], file["key"], file["sha256"]) == (FORMAT, key, _checksum(content))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not sound or not isinstance(content, dict):
        return None
    with suppress(OSError):
        os.utime(path)  # those that were used last stay
    return content


def keep(key: str, content: Mapping[str, Any]) -> None:
    """Keep something under a key, in place of what was used longest ago; does nothing where that cannot be."""
    if (path := _path(key)) is None:
        return
    text = json.dumps({"format": FORMAT, "key": key, "sha256": _checksum(content), "content": content})
    if len(text) > MOST_BYTES:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(path, text)
        _drop_old(path.parent)
    except OSError as error:  # no room, or nobody may write there: it is found anew each time
        log.debug("%s: cannot be kept (%s)", path, error)


def _checksum(content: object) -> str:
    return sha256(json.dumps(content))  # the order of names counts too


def _path(key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None or not _is_told_by_versions() else folder / FOLDER / f"{key}.json"


def _drop_old(folder: Path) -> None:
    files = {path: path.stat() for path in folder.glob("*.json")}
    together = 0
    for number, path in enumerate(sorted(files, key=lambda path: files[path].st_mtime_ns, reverse=True)):
        together += files[path].st_size
        if number >= MOST_FILES or together > MOST_TOGETHER:
            path.unlink(missing_ok=True)


def _is_told_by_versions() -> bool:
    """Whether versions tell what transformers makes: not of a development version, nor where classes were added."""
    if "dev" in version("transformers"):
        return False
    for module, name in ADDED:
        registry = getattr(sys.modules.get(module), name, None)  # to add a class imports the module
        if getattr(registry, "_extra_content", registry if isinstance(registry, Collection) else ()):
            return False
    return True


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {
        "transformers": version("transformers"),
        "torch": torch.__version__,
        "regmean_lab": f"{regmean_lab.__version__} {_sources()}",
    }


def _sources() -> str:
    """Tells the states of a checkout apart, which have one version: by its files' sizes and times of change."""
    root = Path(regmean_lab.__file__).parent
    states = {path.relative_to(root).as_posix(): path.stat() for path in sorted(root.rglob("*.py"))}
    return sha256(repr([(name, state.st_size, state.st_mtime_ns) for name, state in states.items()]))
