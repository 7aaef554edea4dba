"""Where the corpora of a suite of one's own data lie: one file, a folder of splits, or a data set, and its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from regmean_lab.suites.base import SPLITS, Split
from regmean_lab.suites.tables.table import SUFFIXES
from regmean_lab.utils.names import did_you_mean

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "valid": "dev",
    "val": "dev",
    "validation": "dev",
    "development": "dev",
    "eval": "dev",
    "test": "test",
    "testing": "test",
}
"""What the files of splits are called in a folder, without their endings."""


@dataclass(frozen=True)
class OwnCorpus:
    """One corpus: what it consists of, and how it is read.

    Attributes:
        name: its name.
        files: for each split that is given, a file or the name of a data set; ``all`` stands for rows of which the
            splits are drawn.
        splits: of a data set, the name of its split for each of ours that is given.
        subset: configuration of a data set.
        revision: revision of a data set on the hub.
        text: columns of the text, or of the two texts of a pair; None: the obvious ones.
        label: column of the label; None: the obvious one.
        target: column of the text to be written; None: the obvious one.
        group: column whose equal values stay together when splits are drawn.
        header: of ``.csv`` and ``.tsv``, whether the first line holds the columns' names; None: it must tell itself.
    """

    name: str
    files: Mapping[str, str]
    splits: Mapping[str, str] = field(default_factory=dict)
    subset: str | None = None
    revision: str | None = None
    text: tuple[str, ...] | None = None
    label: str | None = None
    target: str | None = None
    group: str | None = None
    header: bool | None = None

    @property
    def key(self) -> str:
        """The setting that describes the corpus."""
        return f"corpora.{self.name}"


class OwnCorpusError(ValueError):
    """What is wrong with the description of a corpus, one message each in ``problems``."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


KEYS = ("data", *SPLITS, "subset", "revision", "text", "label", "target", "group", "header")
"""What can be said of a corpus besides the name of its file."""


def own_corpus(
    name: str, given: Any, defaults: OwnCorpus, *, evaluated_only: bool = False, endings: Sequence[str] = SUFFIXES
) -> OwnCorpus:
    """The corpus that a value of ``suite.corpora`` describes.

    Args:
        name: the corpus's name.
        given: a file, a folder of splits, or the name of a data set; or a mapping with such a name under ``data``, or
            one for each split under ``train``, ``dev`` and ``test``, and with settings of its own.
        defaults: what the suite says of all its corpora.
        evaluated_only: whether the corpus needs no training split.
        endings: of files, those that can be read.

    Raises:
        OwnCorpusError: when it describes none.
    """
    key = f"corpora.{name}"
    described = given if isinstance(given, Mapping) else {"data": given}
    found = [
        f"{key}.{other}: there is no such key; {did_you_mean(str(other), KEYS)}"
        for other in described
        if other not in KEYS
    ]
    for part in ("data", *SPLITS, "subset", "revision", "label", "target", "group"):
        if described.get(part) is not None and not isinstance(described[part], str):
            found.append(f"{key}.{part}: expected a name, got {described[part]!r}")
    if described.get("header") not in (None, True, False):
        found.append(f"{key}.header: expected true, false or null, got {described['header']!r}")
    whole, parts = described.get("data"), [split for split in SPLITS if described.get(split) is not None]
    needed = "test" if evaluated_only else "train"
    if whole is None and needed not in parts:
        found.append(f"{key}: expected a file, a folder or a data set, or one for {needed} at least")
    if found:
        raise OwnCorpusError(found)
    named = {entry.name for entry in fields(OwnCorpus)}
    own = {part: value for part, value in described.items() if part in named and value is not None}
    if (text := text_columns(described.get("text"))) is not None:
        own["text"] = text
    files: dict[str, str] = {}
    splits: dict[str, str] = {}
    if whole is not None:
        files = _splits_in(key, whole, needed, endings)
        # Beside a data set, train, dev and test name splits of it.
        splits = {split: str(described[split]) for split in parts} if files.get("all") == whole else {}
    if not splits:
        files.update({split: str(described[split]) for split in parts})
    if "train" in files and "all" in files:
        raise OwnCorpusError([f"{key}: data and train both say what is trained on; name one of them"])
    return replace(defaults, name=name, files=files, splits=splits, **own)


def text_columns(given: Any) -> tuple[str, ...] | None:
    """Columns of the text from a setting: a name, a list of one or two, or None."""
    if given is None:
        return None
    return (given,) if isinstance(given, str) else tuple(map(str, given))


def _splits_in(key: str, data: str, needed: str, endings: Sequence[str]) -> dict[str, str]:
    """The files of a folder by split; of anything else, all rows under ``all``.

    Raises:
        OwnCorpusError: for a folder that lacks the file of the split that is needed, or holds two of one split.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        return {"all": data}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(path.stem.lower())
        if path.is_file() and path.suffix.lower() in endings and split is not None:
            found.setdefault(split, []).append(path)
    wrong = [
        f"{key}: {folder} holds {' and '.join(path.name for path in paths)}, both for {split}; name the one with "
        f"{key}.{split}="
        for split, paths in found.items()
        if len(paths) > 1
    ]
    if needed not in found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        wrong.append(
            f"{key}: the folder {folder} has no file {needed}{{{','.join(endings)}}} (it holds {there}); name "
            f"the files with {key}.train=, {key}.dev= and {key}.test="
        )
    if wrong:
        raise OwnCorpusError(wrong)
    return {split: str(paths[0]) for split, paths in found.items()}
