"""Whether files stay as they are while they are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

Stamp = tuple[int, int, int]


@dataclass
class ReadFiles:
    """Files that are read, and what told them from later states of themselves when they were first looked at.

    Attributes:
        stamps: size, time of the last change and number on the disk of each file.
    """

    stamps: dict[Path, Stamp] = field(default_factory=dict)

    def add(self, paths: Iterable[Path]) -> None:
        """Look at files, but those that were looked at before."""
        for path in paths:
            if path not in self.stamps and (stamp := _stamp(path)) is not None:
                self.stamps[path] = stamp

    def changed(self, paths: Iterable[Path]) -> list[Path]:
        """Those among some files that are not any more what they were."""
        return [path for path in dict.fromkeys(paths) if path in self.stamps and _stamp(path) != self.stamps[path]]


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
