"""What users are told where a disk has no room, or takes no files: what was to be written, where, and what helps."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from regmean_lab.utils.errors import UserError
from regmean_lab.utils.quantities import byte_size

REMEDIES = {
    errno.ENOSPC: "make room there, or choose a folder on another disk",
    errno.EDQUOT: "remove files of yours there, have the quota raised, or choose a folder on another disk",
    errno.EFBIG: "have files be larger (ulimit -f unlimited), or choose a folder on a file system that takes them",
    errno.EROFS: "choose a folder that can be written to",
}
"""By what the system calls it when a file cannot be written for want of room: what helps."""

PROBES, PROBE_BYTES = 4, 1 << 13
"""Files, and their bytes: about what a command writes to begin with, its configuration, records and log."""

_CHOOSE = "choose a folder"

_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust (safetensors, tokenizers) tell the system's number of an error, in errors of their own."""


class DiskShortage(UserError, OSError):
    """A file could not be written for want of room.

    Attributes:
        path: the file or folder, if it is known.
        number: the system's number of the error, one of ``REMEDIES``.
    """

    path: Path | None = None
    number: int = errno.ENOSPC

    @classmethod
    def of(cls, text: str, error: DiskShortage) -> DiskShortage:
        """The same error with another text."""
        made = cls(text)
        made.path, made.number = error.path, error.number
        return made


@contextmanager
def writing(path: Path | None, what: str = "", *, temporary: Path | None = None, needed: int = 0) -> Iterator[None]:
    """Say of an error for want of room what was to be written, where, how much is free there, and what helps.

    Args:
        path: the file or folder that is written, unless the error names another one; None: whatever the error names.
        what: what it is, for people; ``gram statistics``.
        temporary: the name that it has on the way; what lies there is removed by the caller.
        needed: its bytes, if they are known.

    Raises:
        DiskShortage: in the place of the error. All others pass as they are.
    """
    try:
        yield
    except Exception as error:
        number = shortage_number(error)
        if number is None or (isinstance(error, DiskShortage) and not _is_within(error.path, temporary)):
            raise
        named, written = _named(error), 0 if temporary is None else _size(temporary)
        if path is not None and (named is None or named == path or _is_within(named, temporary)):
            raise _shortage(number, path, what, written, needed) from error
        raise _shortage(number, named, "", 0, 0) from error  # another file, which is written meanwhile


def shortage_number(error: BaseException) -> int | None:
    """The system's number of an error for want of room, one of ``REMEDIES``; None for any other error.

    Libraries raise errors of their own in its place, or while they handle it.
    """
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        if isinstance(following, DiskShortage):
            return following.number
        if isinstance(following, UserError):
            return None  # it has been told
        number = following.errno if isinstance(following, OSError) else None
        if number is None and (match := _NUMBER.search(str(following))) is not None:
            number = int(match[1])
        if number in REMEDIES:
            return number
        seen.add(id(following))
        following = following.__cause__ or following.__context__
    return None


def named_setting(text: str, path: Path | None, folders: Mapping[str, Path]) -> str:
    """What a shortage says, with the setting that chooses the folder, where one of these does.

    Args:
        text: what it says.
        path: the file.
        folders: by setting, the folder that it names; of several the nearest above the file counts.
    """
    if path is None:
        return text
    above = {
        setting: folder.absolute()
        for setting, folder in folders.items()
        if _is_within(path.absolute(), folder.absolute())
    }
    if not above:
        return text
    setting = max(above, key=lambda setting: len(above[setting].parts))
    return text.replace(_CHOOSE, f"{_CHOOSE} ({setting}=FOLDER)")


def write_problem(folder: Path) -> str | None:
    """Why not even the records that a command begins with could be written below a folder; None if they could."""
    probe = _existing(folder) / f".probe-{os.getpid()}"
    try:
        with writing(folder, temporary=probe):
            try:
                probe.mkdir()
                for number in range(PROBES):
                    (probe / str(number)).write_bytes(bytes(PROBE_BYTES))
            finally:
                shutil.rmtree(probe, ignore_errors=True)
    except DiskShortage as error:
        return str(error)
    except OSError:
        return None  # told where it is written
    return None


def _shortage(number: int, path: Path | None, what: str, written: int, needed: int) -> DiskShortage:
    named = " ".join(part for part in (what, "" if path is None else str(path)) if part) or "a file"
    facts = [f"cannot write {named}: {os.strerror(number)}"]
    if size := max(written, needed):
        facts.append(f"it takes {'' if needed >= written else 'more than '}{byte_size(size)}")
    if path is not None and number in (errno.ENOSPC, errno.EDQUOT):
        # What was written of it is removed.
        facts.append(f"{byte_size(shutil.disk_usage(_existing(path)).free + written)} are free there")
    if number == errno.EFBIG and (limit := _largest_file()) is not None:
        facts.append(f"files may have at most {byte_size(limit)} here")
    error = DiskShortage(
        f"{'; '.join(facts)}\n  nothing half-written is left, and what was there before is there still"
        f"\n  {REMEDIES[number]}; the same command then goes on from there"
    )
    error.path, error.number = path, number
    return error


def _named(error: BaseException) -> Path | None:
    """The file that an error names, itself or in what led to it."""
    following: BaseException | None = error
    while following is not None:
        if isinstance(following, DiskShortage):
            return following.path
        if isinstance(following, OSError) and isinstance(following.filename, str | os.PathLike):
            return Path(following.filename)
        following = following.__cause__ or following.__context__
    return None


def _is_within(path: Path | None, folder: Path | None) -> bool:
    """Whether a file lies at or below a temporary name, of which nobody should be told."""
    return path is not None and folder is not None and path.is_relative_to(folder)


def _existing(path: Path) -> Path:
    """The nearest folder at or above a path that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _largest_file() -> int | None:
    """Bytes that a file of this process may have at most; None where there is no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit
