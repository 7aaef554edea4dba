"""The store: finds members by address, trains missing ones once, and removes entries on request."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from regmean_lab.utils.disk import writing
from regmean_lab.utils.files import WEIGHTS_FILE, file_sha256, share
from regmean_lab.zoo.address import ADDRESS_LENGTH, JSON, member_address, plain
from regmean_lab.zoo.entry import (
    ENTRY_NAME,
    LOCKS_FOLDER,
    TRAINING_FILE,
    TRAINING_FOLDER,
    ZooEntry,
    ZooError,
)
from regmean_lab.zoo.locks import hold, hold_if_free

log = logging.getLogger(__name__)

_TEMPORARY_NAME = re.compile(rf"\.tmp-(?P<address>[0-9a-f]{{{ADDRESS_LENGTH}}})-[0-9a-f]+")
_LOCK_NAME = re.compile(rf"[0-9a-f]{{{ADDRESS_LENGTH}}}(-.+)?\.lock")
_RECORDED = ("address", "description", "weights_sha256", "created")


@dataclass
class Pruned:
    """What was removed, or would be.

    Attributes:
        entries: names of entries.
        temporary: names of folders that killed jobs left behind.
        locks: names of lock files that no job holds.
        in_use: names of entries and temporary folders that stay, because a job works on them.
    """

    entries: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    locks: list[str] = field(default_factory=list)
    in_use: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Zoo:
    """A folder of trained members, each under the address of what determines its weights.

    Any number of processes may use one zoo. A member appears whole or not at all: it is written into a temporary
    folder, which is renamed when everything is in it.

    Attributes:
        root: the folder; it is created when the first member is trained.
    """

    root: Path

    def entries(self) -> list[ZooEntry]:
        """All entries sorted by name, damaged ones included."""
        if not self.root.is_dir():
            return []
        return [
            ZooEntry(path)
            for path in sorted(self.root.iterdir())
            if path.is_dir() and ENTRY_NAME.fullmatch(path.name) is not None
        ]

    def find(self, address: str) -> ZooEntry | None:
        """The entry at an address, or None.

        Raises:
            ZooError: if the entry is there but its training record cannot be read.
        """
        for entry in self.entries():
            if entry.address == address:
                _ = entry.training  # a damaged entry is reported now, not when a job has half used it
                return entry
        return None

    def find_or_train(
        self, description: Mapping[str, JSON], prefix: str, train: Callable[[Path], Mapping[str, JSON]]
    ) -> tuple[ZooEntry, bool]:
        """The member that a description determines, trained now if it is not there yet.

        Of several processes that ask for the same member at once, one trains it and the others wait.

        Args:
            description: everything that determines the member's weights, and nothing else: see `member_address`.
            prefix: how the entry's name begins, for people; characters that do not suit a file name become ``-``.
            train: trains the member, writes it as a Hugging Face folder (``config.json`` and ``model.safetensors`` at
                least) into the empty folder it is given, and returns what ``training.json`` is to say beside the
                description. Of this, ``scores`` (scores on dev by name, times 100) and ``key_score`` (the name of
                the one that counts) are shown in lists; numbers that are not finite are written as null.

        Returns:
            The entry, and whether it was trained now.

        Raises:
            ZooError: if ``train`` did not write the files, or an entry at this address is damaged.
            ValueError: if ``train`` returns a key that the zoo writes itself.
            DiskShortage: where there is no room for the entry.
        """
        address = member_address(description)
        if (entry := self.find(address)) is not None:
            return entry, False
        path = self.root / f"{_file_name(prefix)}-{address}"
        with hold(self._lock_path(address), f"training {path.name}"):
            if (entry := self.find(address)) is not None:
                return entry, False
            self._remove_temporary(address)
            temporary = self._temporary_path(address)
            try:
                with writing(path, "a member", temporary=temporary):
                    temporary.mkdir()
                    extra = train(temporary)
                    _write_training(temporary, address, description, extra)
                    _flush_folder(temporary)
                    temporary.rename(path)
                    _flush(self.root)
                shutil.rmtree(self._training_folder(address), ignore_errors=True)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return ZooEntry(path), True

    def prune(self, entries: Iterable[ZooEntry] = (), *, dry_run: bool = False) -> Pruned:
        """Remove entries, folders that killed jobs left behind, and lock files that no job holds.

        What a running job works on stays.

        Args:
            entries: the entries to remove.
            dry_run: remove nothing, only tell what would be removed.
        """
        pruned = Pruned()
        if not self.root.is_dir():
            return pruned
        locks_before = self._lock_files()
        for entry in entries:
            with ExitStack() as held:
                if not all(held.enter_context(hold_if_free(path)) for path in self._entry_locks(entry.address)):
                    pruned.in_use.append(entry.name)
                    continue
                if not entry.path.exists():  # removed by another job meanwhile
                    continue
                pruned.entries.append(entry.name)
                if not dry_run:
                    # Renamed first: an entry is there whole or not at all, even if this process is killed.
                    doomed = self._temporary_path(entry.address)
                    entry.path.rename(doomed)
                    shutil.rmtree(doomed)
        left = [(path, path.name) for path in sorted((self.root / TRAINING_FOLDER).glob("*"))]
        for path, address in [*self._temporary_folders(), *left]:
            with hold_if_free(self._lock_path(address)) as free:
                if not path.exists():  # its job has just finished
                    continue
                (pruned.temporary if free else pruned.in_use).append(path.name)
                if free and not dry_run:
                    shutil.rmtree(path)
        for path in self._lock_files():
            with hold_if_free(path) as free:
                if free and path in locks_before:
                    pruned.locks.append(path.name)
                if free and not (dry_run and path in locks_before):
                    # Safe while it is held: a job that has just opened it sees that it is gone and starts anew.
                    path.unlink()
        return pruned

    def training_folder(self, description: Mapping[str, JSON]) -> Path:
        """Where the training of a member keeps its state, for whoever goes on if it is killed; removed at its end."""
        return self._training_folder(member_address(description))

    @contextmanager
    def work(self, description: Mapping[str, JSON], what: str) -> Iterator[Path]:
        """Long work whose result is no entry: a folder for its state, under a lock; removed when the work is done.

        Args:
            description: everything that determines the result.
            what: what another job that waits is told.
        """
        address = member_address(description)
        with hold(self._lock_path(address), what):
            yield self._training_folder(address)
            shutil.rmtree(self._training_folder(address), ignore_errors=True)

    def _training_folder(self, address: str) -> Path:
        return self.root / TRAINING_FOLDER / address

    def _lock_path(self, address: str) -> Path:
        return self.root / LOCKS_FOLDER / f"{address}.lock"

    def _lock_files(self) -> list[Path]:
        return sorted(path for path in (self.root / LOCKS_FOLDER).glob("*.lock") if _LOCK_NAME.fullmatch(path.name))

    def _entry_locks(self, address: str) -> list[Path]:
        """The lock of an entry's training, and those of its statistics that there are."""
        own = self._lock_path(address)
        return [own, *(path for path in self._lock_files() if path.name.startswith(f"{address}-"))]

    def _temporary_path(self, address: str) -> Path:
        return self.root / f".tmp-{address}-{uuid.uuid4().hex[:8]}"

    def _temporary_folders(self) -> Iterator[tuple[Path, str]]:
        for path in sorted(self.root.glob(".tmp-*")):
            if (match := _TEMPORARY_NAME.fullmatch(path.name)) is not None:
                yield path, match["address"]

    def _remove_temporary(self, address: str) -> None:
        """Remove what killed jobs left of a member whose lock is held."""
        for path, owner in self._temporary_folders():
            if owner == address:
                log.info("Removing %s, which a job that did not finish left behind", path)
                shutil.rmtree(path)


def _file_name(prefix: str) -> str:
    """``prefix`` with only letters, digits, ``.``, ``_``, ``+`` and ``-``, of at most 100 characters."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", prefix).strip(".-")[:100]
    return name or "member"


def _write_training(folder: Path, address: str, description: Mapping[str, JSON], extra: Mapping[str, JSON]) -> None:
    """Write ``training.json``, the last file of an entry."""
    if missing := [name for name in ("config.json", WEIGHTS_FILE) if not (folder / name).is_file()]:
        raise ZooError(f"training did not write {' and '.join(missing)} into {folder}: save_pretrained must be called")
    if taken := [name for name in _RECORDED if name in extra]:
        raise ValueError(f"{', '.join(taken)}: written by the zoo itself, training must not return it")
    content = {
        "address": address,
        "description": description,
        "weights_sha256": file_sha256(folder / WEIGHTS_FILE),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **extra,
    }
    text = json.dumps(plain(content, finite=True), indent=2, allow_nan=False)
    (folder / TRAINING_FILE).write_text(text + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    """Have the system write a file or a folder's list of files to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Flush all files below a folder, and the folders: a renamed entry must be whole even after a power cut.

    Files get the permissions that the umask asks for.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            share(path)
        _flush(path)
    _flush(folder)
