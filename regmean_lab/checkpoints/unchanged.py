"""Whether files stay as they are while they are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from regmean_lab.utils.names import abbreviated

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

    def change(self, of: str, again: str) -> str | None:
        """What to tell where any of the files is not any more what it was; None where all are.

        Args:
            of: what was read from them, and may be of neither state.
            again: what to do when nothing else writes there.
        """
        if changed := self.changed(self.stamps):
            return (
                f"{abbreviated(list(map(str, changed)))}: changed while it was read, so that {of} may be of neither "
                f"state; nothing was written. {again} when nothing else writes there"
            )
        return None


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
