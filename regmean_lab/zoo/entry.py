"""One trained member in the zoo: a Hugging Face folder with its training record and its statistics."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Any

from regmean_lab.utils.errors import UserError
from regmean_lab.utils.files import ADAPTER_FOLDER, STATISTICS_FOLDER, TRAINING_FILE, WEIGHTS_FILE, file_sha256
from regmean_lab.zoo.address import ADDRESS_LENGTH, member_address
from regmean_lab.zoo.locks import hold

LOCKS_FOLDER = ".locks"
TRAINING_FOLDER = ".training"

ENTRY_NAME = re.compile(rf"(?P<prefix>[^.].*)-(?P<address>[0-9a-f]{{{ADDRESS_LENGTH}}})")
_KIND = re.compile(r"[a-z0-9_]+(-[a-z0-9_]+)*")
_KEY = re.compile(rf"[0-9a-f]{{{ADDRESS_LENGTH}}}")


class ZooError(UserError, RuntimeError):
    """Something in the zoo is not as it should be; the message says what, where, and what to do."""


@dataclass(frozen=True)
class ZooEntry:
    """A trained member. Making one reads nothing; files are read when they are asked for.

    Attributes:
        path: its folder, ``<zoo>/<prefix>-<address>``.
    """

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def address(self) -> str:
        """The hash of what determines the weights, as the folder's name tells it."""
        return self.name[-ADDRESS_LENGTH:]

    @cached_property
    def training(self) -> dict[str, Any]:
        """The content of ``training.json``: how the member was trained, and how well it does.

        Raises:
            ZooError: if the file is missing or holds no JSON object.
        """
        path = self.path / TRAINING_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ZooError(f"{path} cannot be read ({error}). {self._advice}") from error
        if not isinstance(content, dict) or not isinstance(content.get("description"), dict):
            raise ZooError(f"{path} holds no training record with a 'description'. {self._advice}")
        return content

    @property
    def description(self) -> dict[str, Any]:
        """What determines the weights: the content of the address."""
        description: dict[str, Any] = self.training["description"]
        return description

    @property
    def dev_scores(self) -> dict[str, float | None]:
        """Scores on dev after training, times 100; None where a score was not a finite number."""
        return dict(self.training.get("scores") or {})

    @property
    def weights_path(self) -> Path:
        """The file of weights."""
        return self.path / WEIGHTS_FILE

    @property
    def statistics_dir(self) -> Path:
        """The folder of statistics; it exists only if some were collected."""
        return self.path / STATISTICS_FOLDER

    def statistics_path(self, kind: str, key: str) -> Path:
        """The file of statistics of one kind (such as ``gram``) for the settings that ``key`` is the hash of.

        Raises:
            ValueError: if ``kind`` is not made of small letters, digits, ``_`` and ``-``, or ``key`` did not come from
                `statistics_key`.
        """
        return self.statistics_dir / f"{_statistics_name(kind, key)}.safetensors"

    def statistics_lock(self, kind: str, key: str) -> AbstractContextManager[None]:
        """A lock under which to look for statistics and, if they are not there, to collect them.

        Raises:
            ValueError: as `statistics_path` does.
        """
        path = self.path.parent / LOCKS_FOLDER / f"{self.address}-{_statistics_name(kind, key)}.lock"
        return hold(path, f"collecting {kind} statistics of {self.name}")

    def predictions_lock(self) -> AbstractContextManager[None]:
        """A lock under which to look for the member's predictions and, if they are not there, to make them."""
        path = self.path.parent / LOCKS_FOLDER / f"{self.address}-predictions.lock"
        return hold(path, f"evaluating {self.name}")

    def statistics_files(self) -> list[Path]:
        """The files of statistics that are there, sorted by name."""
        return sorted(path for path in self.statistics_dir.glob("*.safetensors") if not path.name.startswith("."))

    @property
    def size_bytes(self) -> int:
        """Size in bytes of all its files, statistics included."""
        total = 0
        for path in self.path.rglob("*"):
            with suppress(FileNotFoundError):  # another job may have renamed its temporary file meanwhile
                status = path.stat()
                total += status.st_size if S_ISREG(status.st_mode) else 0
        return total

    def verify(self) -> list[str]:
        """Check all files, one tensor in memory at a time.

        Returns:
            The problems found, each with the file's name; empty if all is well.
        """
        problems: list[str] = []
        recorded_hash = None
        try:
            recorded_hash = self.training.get("weights_sha256")
            if (address := member_address(self.description)) != self.address:
                problems.append(f"{TRAINING_FILE}: its description has the address {address}, not {self.address}")
        except ZooError as error:
            problems.append(str(error))
        except (TypeError, ValueError) as error:
            problems.append(f"{TRAINING_FILE}: its description has no address ({error})")
        try:
            json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(f"config.json: cannot be read ({error})")
        if not self.weights_path.is_file():
            problems.append(f"{WEIGHTS_FILE}: missing")
        else:
            if recorded_hash is not None and file_sha256(self.weights_path) != recorded_hash:
                problems.append(f"{WEIGHTS_FILE}: its SHA-256 is not the one recorded in {TRAINING_FILE}")
            problems += _safetensors_problems(self.weights_path, WEIGHTS_FILE)
        for path in sorted(self.path.glob("*.safetensors")):  # heads of a joint model
            if path.name != WEIGHTS_FILE:
                problems += _safetensors_problems(path, path.name)
        for path in sorted(self.path.glob(f"{ADAPTER_FOLDER}/*.safetensors")):
            problems += _safetensors_problems(path, f"{ADAPTER_FOLDER}/{path.name}")
        for path in self.statistics_files():
            problems += _safetensors_problems(path, f"statistics/{path.name}", metadata_key="kind")
        return problems

    @property
    def _advice(self) -> str:
        return f"Remove the entry, and it is trained again: python -m regmean_lab.zoo prune {self.name}"


def _statistics_name(kind: str, key: str) -> str:
    if not _KIND.fullmatch(kind):
        raise ValueError(f"kind={kind!r}: a kind is made of small letters, digits, '_' and '-'")
    if not _KEY.fullmatch(key):
        raise ValueError(f"key={key!r}: a key is what statistics_key returns, {ADDRESS_LENGTH} hexadecimal digits")
    return f"{kind}-{key}"


def _safetensors_problems(path: Path, name: str, metadata_key: str | None = None) -> list[str]:
    """What is wrong with a safetensors file: unreadable, without a piece of metadata, or with values not finite."""
    # Imported here, so that listing the zoo does not wait for PyTorch.
    import torch
    from safetensors import SafetensorError, safe_open

    problems = []
    try:
        with safe_open(path, framework="pt") as file:
            if metadata_key is not None and metadata_key not in (file.metadata() or {}):
                problems.append(f"{name}: its metadata has no '{metadata_key}'")
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                tensor = file.get_tensor(key)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    problems.append(f"{name}: tensor '{key}' holds values that are not finite")
    except (OSError, SafetensorError) as error:
        problems.append(f"{name}: cannot be read ({error})")
    return problems
