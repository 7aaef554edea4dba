"""What every suite provides: members, out-of-domain corpora, and their examples.

A suite is one file in this package and one YAML in ``conf/suite``. It registers itself with :func:`register_suite`;
the rest of the project meets it only through the classes below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from regmean_lab.suites.released_names import released_corpus
from regmean_lab.utils import plugins
from regmean_lab.utils.errors import UserError
from regmean_lab.utils.labels import IGNORED as IGNORED
from regmean_lab.utils.names import nearest
from regmean_lab.utils.registry import Registry

TaskKind = Literal["multi_label", "single_label", "regression", "token_labels", "answers", "text", "unlabelled"]
"""Form of a task: labels of a whole text (any number, one, a real value), labels of its words, generated answers to
questions, text as it is, which a language model writes, or texts that are only read."""

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


class DataError(UserError):
    """Data that cannot be read; the message names the file and line, what was expected, and what to do."""


class MissingDataError(DataError):
    """Data that is not there; the message says what is missing, where it was looked for, and which command gets it."""


@dataclass(frozen=True)
class Task:
    """What a model of one corpus predicts.

    Attributes:
        kind: the form of the labels, and with it module, encoding and metrics.
        labels: label names in the order of their ids; one name for a regression.
        key_score: the metric that selects epochs and is reported as the score (times 100).
        threshold: for ``multi_label``, the value above which a label is predicted.
        threshold_on: whether ``threshold`` applies to the probability (sound) or to the raw logit (as published).
        threshold_inclusive: whether a label is predicted also at the threshold itself (as published).
        answer_by: for ``answers``, whether an answer is the more probable of those that are possible (``scoring``) or
            what the model writes (``generation``).
    """

    kind: TaskKind
    labels: tuple[str, ...]
    key_score: str
    threshold: float = 0.5
    threshold_on: Literal["probability", "logit"] = "probability"
    answer_by: Literal["scoring", "generation"] = "scoring"
    # Not in the representation, by which predictions are kept: it changes no logit.
    threshold_inclusive: bool = field(default=False, repr=False)


@dataclass(frozen=True)
class Example:
    """One sentence, or a pair of sentences, with its label.

    ``label`` is an int (``single_label``), a float (``regression``), or a tuple of 0, 1 and ``IGNORED``, one for each
    label of the task (``multi_label``).
    """

    text: str
    label: int | float | tuple[int, ...]
    text_pair: str | None = None


class Suite(ABC):
    """A family of corpora that share a task: what is trained on, and what is evaluated on.

    Attributes:
        name: the suite's name, equal to its YAML's.
        data_dir: the folder below which the suite's files lie (``paths.data_dir``).
        settings: the suite's own settings, an instance of ``settings_type``.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Any]]
    reference_order: ClassVar[tuple[str, ...]]
    """All members in the order that numbers them ("member number i") for head initialisation."""
    released_members: ClassVar[tuple[str, ...]] = ()
    """What ``model0``, ``model1``, … of the paper's released code stand for; some may be no corpora of the suite."""
    own_heads: ClassVar[bool] = False
    """Whether members solve tasks of their own, so that each keeps its head and only encoders are merged."""

    def __init__(self, data_dir: Path, settings: Any) -> None:
        self.data_dir = data_dir
        self.settings = settings

    @property
    def members(self) -> tuple[str, ...]:
        """Corpora whose models are merged unless others are named."""
        return self.reference_order

    @classmethod
    def members_by_default(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """The :attr:`members` of a suite with these settings, which need not have been checked; nothing is read."""
        return cls.reference_order

    @property
    def candidates(self) -> tuple[str, ...]:
        """All corpora that can be members: :attr:`members`, and after them those that must be named."""
        return self.members

    def member_number(self, member: str) -> int:
        """Number of a member, from 0, in the order that numbers members for head initialisation."""
        return self.candidates.index(member)

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each, beginning with the setting's name."""
        return []

    def member_problems(self, members: Sequence[str]) -> list[str]:
        """What is wrong with a choice of members: unknown names, with the nearest valid ones, and repetitions.

        Names of the paper's released code (``model0``) are explained together.
        """
        meant = {name: corpus for name in members if (corpus := self.released_name(name)) is not None}
        found = []
        if meant:
            are, standing = ("is a name", "it stands for") if len(meant) == 1 else ("are names", "they stand for")
            absent = [corpus for corpus in dict.fromkeys(meant.values()) if corpus not in self.candidates]
            instead = ",".join(dict.fromkeys(meant.get(name, name) for name in members))
            then = f": members=[{instead}]"
            if absent:
                then = f"; the suite has no corpus {', '.join(absent)}; {self.what_is_there()}"
            found.append(
                f"members: {', '.join(meant)} {are} of the paper's released code; in suite {self.name} {standing} "
                f"{', '.join(meant.values())}{then} (docs/from_the_release.md)"
            )
        for member in dict.fromkeys(members):
            if member not in self.candidates and member not in meant:
                near = self.near(member)
                hint = f"did you mean {' or '.join(near)}?" if near else self.what_is_there()
                found.append(f"members: suite {self.name} has no {member!r}; {hint}")
            if list(members).count(member) > 1:
                found.append(f"members: {member!r} is named more than once")
        if not members:
            found.append("members: expected at least one")
        return found

    def released_name(self, name: str) -> str | None:
        """The corpus that ``name`` stands for in the paper's released code, if it is a name of that.

        It need not be among :attr:`candidates`: that code numbers corpora that are none of the suite.
        """
        return released_corpus(name, self.released_members, self.candidates)

    def near(self, corpus: str) -> list[str]:
        """Names of corpora that ``corpus`` may be meant for, at most two: the one that it stands for, or near ones."""
        if (meant := self.released_name(corpus)) is not None:
            return [meant] if meant in self.candidates else []
        return nearest(corpus, self.candidates, most=2, cutoff=0.6)

    def what_is_there(self) -> str:
        """The names that a corpus can have, for messages."""
        return f"there are {', '.join(self.candidates)}"

    @abstractmethod
    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        """Corpora that count as out of domain when the members ``merged`` are merged."""

    @abstractmethod
    def task(self, corpus: str) -> Task:
        """The task of one corpus."""

    @abstractmethod
    def missing(self, corpora: Sequence[str]) -> list[str]:
        """One message for each file that is missing for ``corpora`` and that :meth:`prepare` does not bring."""

    def prepare(self, corpora: Sequence[str]) -> None:  # noqa: B027 - optional: most suites have nothing to bring
        """Bring data that the suite can bring by itself; do nothing when it is there already."""

    @abstractmethod
    def examples(self, corpus: str, split: Split) -> list[Any]:
        """Examples of one split of a corpus, in a fixed order, after the settings' limits.

        They have the form that the encoding of the task's kind takes: :class:`Example`, for whole texts.
        """

    def out_of_domain_examples(self, corpus: str) -> list[Any]:
        """Examples on which a corpus is evaluated when it is out of domain.

        Raises:
            DataError: by a suite in which nothing ever is.
        """
        raise DataError(f"{self.name}: {corpus} is never out of domain")

    def evaluated_out_of_domain(self, corpus: str, merged: Sequence[str]) -> list[Any]:
        """The :meth:`out_of_domain_examples` on which a merge of ``merged`` is evaluated (all, unless overridden)."""
        return self.out_of_domain_examples(corpus)

    @abstractmethod
    def fingerprint(self, corpus: str) -> str:
        """Hash (SHA-256, hexadecimal) of all of a corpus's data and of the settings that choose examples from it."""

    def annotated_labels(self, corpus: str) -> tuple[bool, ...]:
        """For each label of the task, whether the training data of ``corpus`` annotates it (all, unless overridden)."""
        return (True,) * len(self.task(corpus).labels)


_SUITES: Registry[Suite] = Registry("suite", plugins.SUITES)
register_suite = _SUITES.register
"""Class decorator: make a suite known under a name."""


def suite_types() -> Mapping[str, type[Suite]]:
    """All suites by name, those of other packages among them."""
    return _SUITES.with_plugins()
