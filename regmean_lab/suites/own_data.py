"""What the suites of user-supplied data share: corpora by name from files of any usual format, checked all at once.

A suite of one kind of task declares the kind, its scores, and what its labels are; nothing of it is tied to a corpus.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from regmean_lab.suites.base import SPLITS, DataError, Split, Task, TaskKind
from regmean_lab.suites.corpora import CorpusSuite, OutOfDomainSettings
from regmean_lab.suites.key_scores import key_score_problem
from regmean_lab.suites.own_files import OwnCorpus, OwnCorpusError, own_corpus, text_columns
from regmean_lab.suites.own_notes import not_trained_on, tell_labels, tell_overlaps, tell_repetitions, tell_sizes
from regmean_lab.suites.own_splits import drawn_splits
from regmean_lab.suites.tables.columns import Columns, choose_columns, examples_fingerprint, examples_of
from regmean_lab.suites.tables.table import SUFFIXES, Table, is_file_name, missing_file, read_table

MOST_READ = 4
"""Sets of corpora whose examples are kept: a command and all jobs of a sweep read the same files."""

_READ: dict[str, tuple[list[str], dict[str, Mapping[Split, Sequence[Any]]], tuple[str, ...]]] = {}


@dataclass
class OwnDataSettings(OutOfDomainSettings):
    """Settings of every suite of one's own data.

    Attributes:
        corpora: by name, a file (``.csv``, ``.tsv``, ``.jsonl``, ``.json``, ``.parquet``, ``.txt``), a folder with a
            file for each split (``train``, ``dev`` or ``validation``, ``test``), or a data set that the library
            ``datasets`` finds; or a mapping with such a name under ``data``, or one for each split under ``train``,
            ``dev`` and ``test``, and with ``text``, ``label``, ``target``, ``group``, ``header``, ``subset`` and
            ``revision`` of its own. Relative names are relative to where the command runs, or else to
            ``paths.data_dir``.
        text: column of the text, or two of a pair; None: the obvious one.
        label: column of the label; None: the obvious one.
        group: column whose equal values stay in one split where splits are drawn (a document, an author); None: none.
        header: of ``.csv`` and ``.tsv``, whether the first line holds the columns' names; None: it must tell itself.
        dev_share: share of the rows that become the dev split where none is given.
        test_share: share of the rows that become the test split where none is given.
        split_seed: determines which rows.
        rows: read only the first N rows of each file or data set (data sets are then streamed); None: all.
    """

    corpora: dict[str, Any] = field(default_factory=dict)
    text: Any = None
    label: str | None = None
    group: str | None = None
    header: bool | None = None
    dev_share: float = 0.1
    test_share: float = 0.2
    split_seed: int = 0
    rows: int | None = None


@dataclass(frozen=True)
class _Read:
    """The tables of one corpus, by split (or ``all``), and the columns that are read of each."""

    corpus: OwnCorpus
    tables: Mapping[str, Table]
    columns: Mapping[str, Columns]


class OwnDataSuite(CorpusSuite):
    """Corpora that the settings name. All files are read and checked before any work.

    Members are all corpora but those that ``out_of_domain`` names; a corpus that it names needs no training split, and
    where it is a single file, all its rows are evaluated.

    Attributes of a class, to be declared:
        kind: kind of the task.
    """

    settings: Any
    reference_order: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[TaskKind]
    endings: ClassVar[tuple[str, ...]] = SUFFIXES
    """Endings of files that can be read."""

    def __init__(self, data_dir: Path, settings: OwnDataSettings) -> None:
        super().__init__(data_dir, settings)
        self._problems: list[str] | None = None
        self._examples: dict[str, Mapping[Split, Sequence[Any]]] = {}
        self._labels: tuple[str, ...] = ()

    @abstractmethod
    def labels_of(self, seen: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """The labels in the order of their ids, from those that occur in each corpus.

        Raises:
            ValueError: saying why they are no labels.
        """

    def seen_labels(self, table: Table, column: str) -> list[str]:
        """The labels that occur in a table, each once; none of a task that has no names of labels."""
        return []

    def labelled(self, row: Mapping[str, Any], column: str) -> Any:
        """The label of a row in the form in which examples are made of it (:func:`examples_of`): as it is."""
        return row[column]

    @override
    @classmethod
    def members_by_default(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        evaluated = settings.get("out_of_domain") or ()
        return tuple(str(name) for name in settings.get("corpora") or () if name not in evaluated)

    @property
    def members(self) -> tuple[str, ...]:
        """All corpora but those that ``suite.out_of_domain`` names, in the order in which they are given."""
        return self.members_by_default(vars(self.settings))

    @property
    def candidates(self) -> tuple[str, ...]:
        """All corpora, members first."""
        return tuple(dict.fromkeys((*self.members, *map(str, self.settings.corpora))))

    def out_of_domain_choice(self) -> tuple[str, ...]:
        """The corpora of the setting, or all (None)."""
        chosen = self.settings.out_of_domain
        return self.candidates if chosen is None else tuple(chosen)

    @override
    def member_problems(self, members: Sequence[str]) -> list[str]:
        found = super().member_problems(members)
        evaluated = [name for name in members if name in (self.settings.out_of_domain or ())]
        return found + [
            f"members: {name} is only evaluated; to train on it, leave it out of suite.out_of_domain"
            for name in evaluated
        ]

    @override
    def problems(self) -> list[str]:
        if self._problems is None:
            key = self._key()
            if key not in _READ:
                found = self._settings_problems() + self._data_problems()
                while len(_READ) >= MOST_READ:
                    del _READ[next(iter(_READ))]
                _READ[key] = (found, self._examples, self._labels)
            self._problems, self._examples, self._labels = _READ[key]
        return self._problems

    def _key(self) -> str:
        """What the examples depend on: the settings, and the files as they are now."""
        files = sorted({name for corpus in self._described[0] for name in corpus.files.values()})
        states = [(name, path.stat()) for name in files if (path := Path(name).expanduser()).is_file()]
        stamps = [(name, state.st_mtime_ns, state.st_size) for name, state in states]
        return repr((self.name, self.data_dir, Path.cwd(), self.settings, files, stamps))

    def task(self, corpus: str) -> Task:
        """The same for all corpora.

        Raises:
            DataError: with everything that is wrong with the data.
        """
        if found := self.problems():
            raise DataError("\n".join(f"suite.{problem}" for problem in found))
        return Task(self.kind, self._labels, self.settings.key_score)

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """One message for each unknown corpus; files that are not there are problems of the settings."""
        return [
            f"{self.name}: unknown corpus {name!r}; {self.what_is_there()}" for name in corpora if not self._has(name)
        ]

    def all_examples(self, corpus: str, split: Split) -> list[Any]:
        """Examples of one split, in the order of their rows."""
        self.task(corpus)
        return list(self._examples[corpus][split])

    def content(self, corpus: str) -> dict[str, Any]:
        """Hashes of the examples of each split, wherever and in whatever format they lie, and the labels."""
        task = self.task(corpus)
        hashes = {split: examples_fingerprint(examples) for split, examples in self._examples[corpus].items()}
        return {"examples": hashes, "labels": list(task.labels)}

    def what_is_there(self) -> str:
        """The corpora, or how to name one."""
        return super().what_is_there() if self.settings.corpora else "none is named: suite.corpora.NAME=FILE"

    def _has(self, corpus: str) -> bool:
        return corpus in self.settings.corpora

    @cached_property
    def _described(self) -> tuple[list[OwnCorpus], list[str]]:
        """The corpora, and what is wrong with their descriptions."""
        settings, corpora, found = self.settings, [], list[str]()
        defaults = OwnCorpus(
            "", {}, text=text_columns(settings.text), label=settings.label, group=settings.group, header=settings.header
        )
        for name, given in settings.corpora.items():
            try:
                corpora.append(
                    own_corpus(
                        str(name),
                        self._located(given),
                        replace(defaults, target=getattr(settings, "target", None)),
                        evaluated_only=name in (settings.out_of_domain or ()),
                        endings=self.endings,
                    )
                )
            except OwnCorpusError as error:
                found += error.problems
        return corpora, found

    def _located(self, given: Any) -> Any:
        """A description with the paths of files that lie below ``data_dir`` and not where the command runs."""
        if isinstance(given, Mapping):
            return {
                key: self._located(value) if key in ("data", *SPLITS) and isinstance(value, str) else value
                for key, value in given.items()
            }
        if isinstance(given, str) and not Path(given).expanduser().exists() and (self.data_dir / given).exists():
            return str(self.data_dir / given)
        return given

    def _settings_problems(self) -> list[str]:
        settings = self.settings
        found = super().problems() + self._described[1]
        if not settings.corpora:
            found.append(
                "corpora: none is named; give each a name and a file, for example suite.corpora.a=a.csv "
                "suite.corpora.b=b.jsonl"
            )
        for name in ("dev_share", "test_share"):
            if not 0 < getattr(settings, name) < 1:
                found.append(f"{name}: expected a share above 0 and below 1, got {getattr(settings, name)}")
        if settings.dev_share + settings.test_share >= 1:
            found.append("dev_share, test_share: nothing would be left for training; expected a sum below 1")
        if problem := key_score_problem(settings.key_score, self.kind):
            found.append(f"key_score: {problem}")
        if settings.rows is not None and settings.rows < 1:
            found.append(f"rows: expected at least 1 or null, got {settings.rows}")
        return found

    def _data_problems(self) -> list[str]:
        """Read everything; whatever is wrong, in all files. Nothing is fetched while a local file is wrong."""
        corpora = self._described[0]
        absent, found = list[tuple[str, str]](), list[str]()
        for corpus in corpora:
            for name in corpus.files.values():
                if self._is_local(name) and not Path(name).expanduser().is_file():
                    absent.append((corpus.key, name))
                elif Path(name).suffix.lower() not in self.endings and (wrong := missing_file(name, corpus.key)):
                    found.append(wrong)
        if absent:
            keys, names = (", ".join(dict.fromkeys(part)) for part in zip(*absent, strict=True))
            found.append(f"{keys}: no such file: {names}")
        wrong_keys = {*dict(absent), *(problem.partition(":")[0] for problem in found)}
        there = [corpus for corpus in corpora if corpus.key not in wrong_keys]
        local = [corpus for corpus in there if all(self._is_local(name) for name in corpus.files.values())]
        read = self._read_all(local, found)
        if not found:
            read += self._read_all([corpus for corpus in there if corpus not in local], found)
        if not found:
            self._make_examples(sorted(read, key=lambda one: corpora.index(one.corpus)), found)
        return found

    def _is_local(self, name: str) -> bool:
        return is_file_name(name) or Path(name).suffix.lower() in self.endings

    def read_file(self, corpus: OwnCorpus, part: str, name: str) -> Table:
        """The rows of one file or data set.

        Args:
            corpus: how it is read.
            part: the split, or ``all``.
            name: the file, or the name of the data set.

        Raises:
            DataError: naming file and line.
        """
        split = corpus.splits.get(part, "train" if part == "all" else part)
        return read_table(
            name,
            subset=corpus.subset,
            split=split,
            revision=corpus.revision,
            header=corpus.header,
            typed=[*(corpus.text or ()), *filter(None, (corpus.label, corpus.target, corpus.group))],
            most=self.settings.rows,
            key=corpus.key,
        )

    def _read_all(self, corpora: Sequence[OwnCorpus], found: list[str]) -> list[_Read]:
        read = []
        for corpus in corpora:
            files = dict(corpus.files)
            if corpus.splits:  # the named splits of one data set
                files = dict.fromkeys(corpus.splits, files["all"])
            tables, columns = {}, {}
            for part, name in files.items():
                try:
                    table = self.read_file(corpus, part, name)
                    tables[part] = replace(table, rows=list(islice(table.rows, self.settings.rows)))
                    columns[part] = self.columns(corpus, tables[part])
                except DataError as error:
                    found += _told(corpus, name, error)
            read.append(_Read(corpus, tables, columns))
        return read

    def columns(self, corpus: OwnCorpus, table: Table) -> Columns:
        """The columns of a table that are read.

        Raises:
            DataError: for a column that there is not, or that is not obvious.
        """
        if corpus.group is not None and corpus.group not in table.columns:
            raise DataError(
                f"group: there is no column {corpus.group!r}; {table.name} has the columns {', '.join(table.columns)}"
            )
        return choose_columns(
            table,
            Task(self.kind, ("",), ""),
            text=corpus.text,
            target=corpus.target,
            label=corpus.label,
            has_encoder=getattr(self.settings, "form", None) != "causal",
            needs_label=self.kind != "text",
        )

    def _make_examples(self, read: Sequence[_Read], found: list[str]) -> None:
        by_part = {
            one.corpus.name: {
                part: self.seen_labels(table, one.columns[part].label or "") for part, table in one.tables.items()
            }
            for one in read
        }
        seen = {name: [label for own in parts.values() for label in own] for name, parts in by_part.items()}
        untrained = {name: not_trained_on(parts) for name, parts in by_part.items()}
        if hidden := [name for name, labels in untrained.items() if "-1" in labels]:
            found.append(
                f"{', '.join(f'corpora.{name}' for name in hidden)}: the label -1 occurs in no training example: "
                "labels of this split are hidden; leave the split out, and one is drawn from the training examples"
            )
            return
        try:
            self._labels = self.labels_of(seen)
        except ValueError as error:
            found.append(f"labels: {error}")
            return
        for one in read:
            made: dict[str, list[Any]] = {}
            for part, table in one.tables.items():
                try:
                    made[part] = examples_of(self.prepared(table, one.columns[part]), one.columns[part], self._task())
                except DataError as error:
                    found += _told(one.corpus, table.name, error)
            if len(made) == len(one.tables):
                try:
                    self._examples[one.corpus.name] = self._splits(one, made)
                except ValueError as error:
                    found.append(f"{one.corpus.key}: {error}")
        if not found:
            self._tell(read, seen, untrained)

    def _tell(
        self, read: Sequence[_Read], seen: Mapping[str, Sequence[str]], untrained: Mapping[str, Sequence[str]]
    ) -> None:
        """Log what was read."""
        for one in read:
            columns = next(iter(one.columns.values()))
            tell_sizes(one.corpus.key, columns, self._examples[one.corpus.name])
            tell_repetitions(one.corpus.key, columns, one.tables)
        given = {one.corpus.name: one.tables for one in read}
        tell_overlaps(
            {name: self._examples[name] for name in given},
            {name: [split for split in SPLITS if split not in tables] for name, tables in given.items()},
        )
        tell_labels(self._labels, seen, untrained)

    def _task(self) -> Task:
        return Task(self.kind, self._labels, self.settings.key_score)

    def prepared(self, table: Table, columns: Columns) -> Table:
        """A table as examples are made of it: with labels by their names."""
        name = columns.label
        if name is None:
            return table
        rows = [{**row, name: self.labelled(row, name)} if name in row else row for row in table.rows]
        return replace(table, rows=rows)

    def _splits(self, one: _Read, made: Mapping[str, list[Any]]) -> dict[Split, list[Any]]:
        """The examples of each split: those that are given, and others drawn from ``all`` or from ``train``."""
        if "all" in made and one.corpus.name in (self.settings.out_of_domain or ()):
            return {"train": [], "dev": [], "test": made["all"]}
        given: dict[Split, list[Any]] = {split: made[split] for split in SPLITS if split in made}
        source = "all" if "all" in made else "train"
        shares = {"dev": self.settings.dev_share, "test": self.settings.test_share}
        needed: dict[Split, float] = {split: shares[split] for split in ("test", "dev") if split not in given}
        if source not in made:  # evaluated only
            return {split: given.get(split, []) for split in SPLITS}
        if needed:
            column = one.corpus.group
            groups = None if column is None else [repr(row.get(column)) for row in one.tables[source].rows]
            drawn = drawn_splits(len(made[source]), needed, self.settings.split_seed, groups)
            given.update({split: [made[source][row] for row in rows] for split, rows in drawn.items()})
        return {split: given[split] for split in SPLITS}


def _told(corpus: OwnCorpus, name: str, error: DataError) -> list[str]:
    """What an error says of a file: a problem for each line that names the file, with the lines that explain it."""
    problems: list[str] = []
    for line in str(error).splitlines():
        if problems and not line.startswith(f"{name}:"):
            problems[-1] += f"; {line}"
        else:
            problems.append(line if line.startswith(corpus.key) else f"{corpus.key}: {line}")
    return problems
