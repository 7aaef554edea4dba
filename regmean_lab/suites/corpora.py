"""What suites of corpora share: limits, paths of splits, missing files, fingerprints, and what is out of domain.

A suite declares what is its own (class attributes) and overrides a method only where its data need more.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from regmean_lab.suites.base import SPLITS, DataError, MissingDataError, Split, Suite, Task
from regmean_lab.suites.reading import limit_problems
from regmean_lab.suites.row_format import RowFormat
from regmean_lab.suites.sampling import seeded_subset
from regmean_lab.utils.errors import ProblemOf
from regmean_lab.utils.files import file_sha256, json_sha256

WITHOUT_DATA = "What runs at once, with data that come by themselves: experiment=sentiment_pairwise model=minilm."
"""The hint for users who have nothing prepared."""

Choices = Mapping[str, tuple[str | None, ...]]
"""For settings that take one of a few values, these values."""


@dataclass
class CorpusSettings:
    """Settings of every suite of corpora.

    Attributes:
        train_examples: keep at most this many training examples (None: all).
        dev_examples: the same for the dev split.
        test_examples: the same for the test split.
        sample_seed: determines which examples the limits choose.
    """

    train_examples: int | None = None
    dev_examples: int | None = None
    test_examples: int | None = None
    sample_seed: int = 0


@dataclass
class OutOfDomainSettings(CorpusSettings):
    """Settings of a suite of corpora that share their labels, besides those of every suite.

    Attributes:
        out_of_domain: corpora that every merge is evaluated on, unless they are merged; None is all of the suite's
            members.
    """

    out_of_domain: list[str] | None = None


class CorpusSuite(Suite):
    """Corpora with three splits, of which the settings choose examples.

    Attributes of a class, to be declared:
        has_out_of_domain: whether a corpus that is not merged can be evaluated.
        choices: for settings that take one of a few values, these values.
        seed_setting: the setting that determines which examples the limits choose.
        fingerprinted: further settings that determine the training or dev examples.
    """

    settings_type: ClassVar[type[Any]] = OutOfDomainSettings
    has_out_of_domain: ClassVar[bool] = True
    choices: ClassVar[Choices] = {}
    seed_setting: ClassVar[str] = "sample_seed"
    fingerprinted: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def all_examples(self, corpus: str, split: Split) -> list[Any]:
        """Examples of one split, in a fixed order, before the limits."""

    @abstractmethod
    def content(self, corpus: str) -> dict[str, Any]:
        """What identifies a corpus's data, as JSON has it: part of the fingerprint."""

    @override
    def problems(self) -> list[str]:
        limits = [entry.name for entry in fields(self.settings) if entry.name.endswith("_examples")]
        found = limit_problems(self.settings, *limits) + self.out_of_domain_problems()
        for name, allowed in self.choices.items():
            if (value := getattr(self.settings, name)) not in allowed:
                shown = ", ".join("null" if option is None else option for option in allowed)
                found.append(f"{name}: expected one of {shown}, got {value!r}")
        return found

    def out_of_domain_problems(self) -> list[str]:
        """What is wrong with the setting ``out_of_domain``, where the suite has it."""
        chosen = list(getattr(self.settings, "out_of_domain", None) or ())
        found, unknown = [], [corpus for corpus in dict.fromkeys(chosen) if corpus not in self.candidates]
        if unknown:
            near = [name for corpus in unknown for name in self.near(corpus)]
            meant = f" (did you mean {' or '.join(dict.fromkeys(near))}?)" if near else ""
            found.append(f"out_of_domain: no corpus {', '.join(unknown)}{meant}; {self.what_is_there()}")
        if len(set(chosen)) != len(chosen):
            found.append(f"out_of_domain: a corpus is named more than once in {chosen}")
        return found

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        """The corpora of :meth:`out_of_domain_choice` that are not merged, each once."""
        return tuple(corpus for corpus in dict.fromkeys(self.out_of_domain_choice()) if corpus not in merged)

    def out_of_domain_choice(self) -> tuple[str, ...]:
        """Corpora that are evaluated out of domain unless they are merged: of the setting, or all members (None).

        With ``include_other_members``, of suites that have this setting, the members come after those of the setting.
        """
        if not self.has_out_of_domain:
            return ()
        chosen: Sequence[str] | None = getattr(self.settings, "out_of_domain", None)
        others = self.members if getattr(self.settings, "include_other_members", False) else ()
        return self.members if chosen is None else (*chosen, *others)

    def examples(self, corpus: str, split: Split) -> list[Any]:
        """Examples of one split, in the file's order, after the limits."""
        return self.limited(self.all_examples(corpus, split), split)

    def out_of_domain_examples(self, corpus: str) -> list[Any]:
        """The test split.

        Raises:
            DataError: by a suite in which nothing is out of domain.
        """
        return self.examples(corpus, "test") if self.has_out_of_domain else super().out_of_domain_examples(corpus)

    def limited(self, examples: Sequence[Any], part: str) -> list[Any]:
        """Examples that the limit ``<part>_examples`` keeps, in their order."""
        limit: int | None = getattr(self.settings, f"{part}_examples")
        seed: int = getattr(self.settings, self.seed_setting)
        return [examples[index] for index in seeded_subset(len(examples), limit, seed)]

    def fingerprint(self, corpus: str) -> str:
        """Hash of the corpus's content and of the settings that choose and label training and dev examples.

        ``test_examples`` and settings that are about out-of-domain corpora are left out: they change neither a trained
        member nor its statistics. Settings that the task carries are left out too.
        """
        names = (*self.fingerprinted, self.seed_setting, "train_examples", "dev_examples")
        settings = {name: getattr(self.settings, name) for name in names}
        return json_sha256({"suite": self.name, "corpus": corpus, **self.content(corpus), **settings})


class FileSuite(CorpusSuite):
    """Corpora of which every split is a file; a folder of the right layout is a corpus, whatever its name.

    Attributes of a class, to be declared:
        layout: path of a split below ``data_dir``, with ``{corpus}`` and ``{split}``. Where ``{corpus}`` is a folder of
            its own, other folders beside those of the known corpora are corpora too.
        layouts: paths of corpora that lie elsewhere.
        more_corpora: known corpora that are no members unless they are named, in the order that numbers them.
        no_corpora: folders that hold something else.
        row_format: how rows become examples; None for a suite that overrides :meth:`read_file` and :meth:`task`.
        row_formats: those of corpora with columns or labels of their own.
        brought_by: arguments of ``python -m regmean_lab.prepare`` that download or convert the known
            corpora; None if nothing does.
    """

    layout: ClassVar[str]
    layouts: ClassVar[Mapping[str, str]] = {}
    more_corpora: ClassVar[tuple[str, ...]] = ()
    no_corpora: ClassVar[tuple[str, ...]] = ()
    row_format: ClassVar[RowFormat | None] = None
    row_formats: ClassVar[Mapping[str, RowFormat]] = {}
    brought_by: ClassVar[str | None] = None

    def __init__(self, data_dir: Path, settings: Any) -> None:
        super().__init__(data_dir, settings)
        self.folder = data_dir / self.layout.partition("{corpus}")[0]
        self._read_files: dict[Path, list[Any]] = {}

    @property
    def known(self) -> tuple[str, ...]:
        """Corpora that the suite names, whether their files are there or not."""
        return self.reference_order + self.more_corpora

    @property
    def candidates(self) -> tuple[str, ...]:
        """Known corpora, and after them every other folder below the suite's, in alphabetical order."""
        if "/{corpus}/" not in f"/{self.layout}" or not self.folder.is_dir():
            return self.known
        others = {path.name for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
        return self.known + tuple(sorted(others.difference(self.known, self.no_corpora)))

    def what_is_there(self) -> str:
        """The corpora, and where others are looked for."""
        more = f", and any other folder in {self.folder}" if "/{corpus}/" in f"/{self.layout}" else ""
        return f"{super().what_is_there()}{more}"

    def path(self, corpus: str, split: Split) -> Path:
        """The file of one split of a corpus."""
        return self.data_dir / self.layouts.get(corpus, self.layout).format(corpus=corpus, split=split)

    def read_file(self, corpus: str, path: Path) -> list[Any]:
        """All examples of a file.

        Raises:
            DataError: naming malformed lines, or if there is no example.
        """
        return self._format(corpus).read(path)

    def task(self, corpus: str) -> Task:
        """That of the row format."""
        return self._format(corpus).task

    def all_examples(self, corpus: str, split: Split) -> list[Any]:
        """All examples of a split's file, in its order; a file is read once."""
        path = self._require(corpus, split)
        if path not in self._read_files:
            self._read_files[path] = self.read_file(corpus, path)
        return self._read_files[path]

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """One message for each of ``corpora`` that is unknown, or of which a file is not there."""
        known = self.candidates
        unknown = [self._unknown_message(corpus) for corpus in corpora if corpus not in known]
        incomplete = [corpus for corpus in corpora if corpus in known and self._absent(corpus)]
        return unknown + [self._missing_message(corpus) for corpus in incomplete]

    def content(self, corpus: str) -> dict[str, Any]:
        """Hashes of the three files; where a row format is declared, also what it makes of them."""
        files = {"files": [file_sha256(self._require(corpus, split)) for split in SPLITS]}
        declared = self.row_formats.get(corpus, self.row_format)
        return files if declared is None else {**files, "rows": declared.description}

    def missing_advice(self, corpus: str) -> str:
        """What to do about missing files of a corpus, in sentences."""
        if (parent := self._folder_above(corpus)) is not None:
            return f"paths.data_dir is one folder too deep, write paths.data_dir={parent}."
        place = f"paths.data_dir at the folder that holds {self.folder.relative_to(self.data_dir)}."
        advice = [f"Place {'it' if len(self._absent(corpus)) == 1 else 'them'} there, or point {place}"]
        if self.brought_by is not None and corpus in self.known:
            command = f"python -m regmean_lab.prepare {self.brought_by}".rstrip()
            advice = [f"To get it: {command} data_dir={self.data_dir} (layout: data/README.md). Or point {place}"]
        if corpus in self.out_of_domain_choice():
            advice += ["A corpus that is only evaluated out of domain can also be left out of suite.out_of_domain."]
        return " ".join(advice)

    def _folder_above(self, corpus: str) -> Path | None:
        """The parent of ``data_dir``, where it is meant: a folder of the suite's layout was named instead of it."""
        parent = self.data_dir.absolute().parent
        path = self.layouts.get(corpus, self.layout)
        lies_there = any((parent / path.format(corpus=corpus, split=split)).is_file() for split in SPLITS)
        return self.data_dir.parent if lies_there else None

    def _format(self, corpus: str) -> RowFormat:
        declared = self.row_formats.get(corpus, self.row_format)
        if declared is None:
            raise TypeError(f"{type(self).__name__}: declare row_format, or override read_file and task")
        return declared

    def _absent(self, corpus: str) -> list[Path]:
        return [path for split in SPLITS if not (path := self.path(corpus, split)).is_file()]

    def _require(self, corpus: str, split: Split) -> Path:
        if corpus not in self.candidates:
            raise DataError(self._unknown_message(corpus))
        if not (path := self.path(corpus, split)).is_file():
            raise MissingDataError(self._missing_message(corpus))
        return path

    def _unknown_message(self, corpus: str) -> str:
        near = f"did you mean {' or '.join(self.near(corpus))}? " if self.near(corpus) else ""
        return f"{self.name}: unknown corpus {corpus!r}; {near}{self.what_is_there()}."

    def _missing_message(self, corpus: str) -> str:
        absent, advice = self._absent(corpus), self.missing_advice(corpus)
        if not self.folder.is_dir() and self._folder_above(corpus) is None:  # nothing of the suite is there
            advice += f" {WITHOUT_DATA}"
        are = "is" if len(absent) == 1 else "are"
        names = ", ".join(map(str, absent))
        several = f"{self.name}: files of the corpora {ProblemOf.SUBJECTS} are not there, in {self.folder}. {advice}"
        alone = f"{self.name}: {names} of corpus {corpus} {are} not there. {advice}"
        return ProblemOf(alone, corpus, several, self.name)
