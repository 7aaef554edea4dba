"""The emotion suite: corpora of the unified emotion format, as sixteen yes/no labels of which each corpus knows some.

The format is that of Bostan & Klinger, "An Analysis of Annotated Corpora for Emotion Classification in Text", COLING
2018, divided into splits; the choice of corpora is that of Jin et al., "Dataless Knowledge Fusion by Merging Weights of
Language Models", ICLR 2023.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from regmean_lab.suites.base import (
    IGNORED,
    SPLITS,
    Example,
    MissingDataError,
    Split,
    Suite,
    Task,
    register_suite,
)
from regmean_lab.suites.reading import json_object, limit_problems, parse_lines
from regmean_lab.suites.sampling import seeded_subset
from regmean_lab.utils.files import file_sha256, json_sha256

_logger = logging.getLogger(__name__)

EMOTIONS = (
    "joy",
    "anger",
    "sadness",
    "disgust",
    "fear",
    "trust",
    "surprise",
    "love",
    "noemo",
    "confusion",
    "anticipation",
    "shame",
    "guilt",
)
DIMENSIONS = ("valence", "arousal", "dominance")
LABELS = EMOTIONS + DIMENSIONS
"""All labels in the order of their ids: 13 emotions, then the three dimensions of the VAD model."""

IN_DOMAIN = ("dailydialog", "crowdflower", "tec", "tales-emotion", "isear")
OUT_OF_DOMAIN = ("emoint", "ssec", "electoraltweets", "grounded_emotions", "affectivetext")
THRESHOLDS_ON = ("probability", "logit")


@dataclass
class EmotionDataSettings:
    """Settings of every suite that reads emotion corpora.

    Attributes:
        positive_threshold: a label is positive where its value in the file is above this.
        out_of_domain: corpora that every merge is evaluated on, unless they are merged.
        skip_missing_out_of_domain: leave out, with a warning, out-of-domain corpora of which no file is there;
            otherwise they are an error.
        include_other_members: evaluate out of domain also on those of the five in-domain corpora that are not merged
            (on their test split).
        train_examples: keep at most so many sentences of the training split (None: all).
        dev_examples: the same for the dev split.
        test_examples: the same for the test split.
        out_of_domain_examples: the same for the sentences of a corpus that is evaluated out of domain.
        sample_seed: determines which sentences the limits choose.
    """

    positive_threshold: float = 0.1
    out_of_domain: list[str] = field(default_factory=lambda: list(OUT_OF_DOMAIN))
    skip_missing_out_of_domain: bool = False
    include_other_members: bool = False
    train_examples: int | None = None
    dev_examples: int | None = None
    test_examples: int | None = None
    out_of_domain_examples: int | None = None
    sample_seed: int = 0


@dataclass
class EmotionSettings(EmotionDataSettings):
    """Settings of the emotion suite.

    Attributes:
        threshold_on: whether a label is predicted when its ``probability`` is above 0.5 (sound) or when its ``logit``
            is (as published).
        threshold_inclusive: predict a label also when that is exactly 0.5 (as published).
    """

    threshold_on: str = "probability"
    threshold_inclusive: bool = False


def read_emotions(path: Path, positive_threshold: float) -> list[Example]:
    """Read one file: a JSON object a line, with ``text``, ``emotions`` and ``VAD``; other keys are not looked at.

    ``emotions`` and ``VAD`` map label names to a number or null. A number above ``positive_threshold`` gives 1, another
    number 0; null, and a name that is not there, give ``IGNORED``. ``VAD`` may be absent or null.

    Raises:
        DataError: naming up to ten malformed lines, or if there is no example.
    """
    return parse_lines(path, lambda line: _parse_line(line, positive_threshold))


def _parse_line(line: str, positive_threshold: float) -> Example:
    row = json_object(line)
    if "text" not in row or "emotions" not in row:
        absent = " and ".join(f'"{key}"' for key in ("text", "emotions") if key not in row)
        raise ValueError(f"the object has no {absent}")
    if not isinstance(row["text"], str):
        raise ValueError(f'"text" must be a string, found {json.dumps(row["text"])[:60]}')
    dimensions = row.get("VAD")
    values = {
        **_values(row["emotions"], "emotions", EMOTIONS),
        **_values({} if dimensions is None else dimensions, "VAD", DIMENSIONS),
    }
    label = tuple(
        IGNORED if (value := values.get(name)) is None else int(value > positive_threshold) for name in LABELS
    )
    return Example(row["text"], label)


def _values(group: Any, key: str, names: Sequence[str]) -> dict[str, float | None]:
    if not isinstance(group, dict):
        raise ValueError(f'"{key}" must be an object, found {json.dumps(group)[:60]}')
    for name, value in group.items():
        if name not in names:
            raise ValueError(f'"{key}" has an unknown label {name!r}; known are {", ".join(names)}')
        # bool is a kind of int in Python, but true is not a rating.
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise ValueError(f'"{key}": the value of {name} must be a finite number or null, found {json.dumps(value)}')
    return group


class EmotionCorpora(Suite):
    """Sentences with emotions, whatever is asked about them (see the module's description).

    Files: ``<data_dir>/emotion_splits/<corpus>/{train,dev,test}.jsonl``.

    The five in-domain corpora are the members unless others are named; any corpus folder can be one. For head
    initialisation the five have the numbers 0 to 4; after them come the five published out-of-domain corpora in
    alphabetical order (5 to 9), and then any other folder below ``emotion_splits``, in alphabetical order.

    Out of domain, the five in-domain corpora are evaluated on their test split, every other corpus on train, dev and
    test together.
    """

    settings_type = EmotionDataSettings
    reference_order = IN_DOMAIN
    settings: EmotionDataSettings

    def __init__(self, data_dir: Path, settings: EmotionDataSettings) -> None:
        super().__init__(data_dir, settings)
        self.folder = data_dir / "emotion_splits"
        self._read_files: dict[Path, list[Example]] = {}
        self._warned: set[str] = set()

    def problems(self) -> list[str]:
        """What is wrong with the settings."""
        settings = self.settings
        found = limit_problems(settings, "train_examples", "dev_examples", "test_examples", "out_of_domain_examples")
        if not math.isfinite(settings.positive_threshold):
            found.append(f"positive_threshold: expected a finite number, got {settings.positive_threshold}")
        if len(set(settings.out_of_domain)) != len(settings.out_of_domain):
            found.append(f"out_of_domain: a corpus is named more than once in {settings.out_of_domain}")
        return found

    @property
    def candidates(self) -> tuple[str, ...]:
        """All corpora that can be members, in the order that numbers them."""
        known = (*IN_DOMAIN, *sorted(OUT_OF_DOMAIN))
        folders = [path.name for path in self.folder.iterdir() if path.is_dir()] if self.folder.is_dir() else []
        return known + tuple(sorted(name for name in folders if name not in known and not name.startswith(".")))

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        """The corpora of the setting ``out_of_domain``, then (if wanted) other in-domain corpora; none is merged."""
        others = IN_DOMAIN if self.settings.include_other_members else ()
        corpora = dict.fromkeys((*self.settings.out_of_domain, *others))
        return tuple(corpus for corpus in corpora if corpus not in merged and not self._skipped(corpus))

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """One message for each of ``corpora`` of which a file is not there."""
        return [self._missing_message(corpus) for corpus in corpora if self._absent(corpus)]

    def sentences(self, corpus: str, split: Split) -> list[Example]:
        """Sentences of one split with all their labels, in the file's order, after the limits."""
        limit: int | None = getattr(self.settings, f"{split}_examples")
        return self._limited(self._read(corpus, split), limit)

    def out_of_domain_sentences(self, corpus: str) -> list[Example]:
        """The test split of an in-domain corpus; train, dev and test, one after the other, of any other corpus."""
        splits: tuple[Split, ...] = ("test",) if corpus in IN_DOMAIN else SPLITS
        everything = [example for split in splits for example in self._read(corpus, split)]
        return self._limited(everything, self.settings.out_of_domain_examples)

    def fingerprint(self, corpus: str) -> str:
        """Hash of the three files and of the settings that choose and label training and dev examples.

        ``test_examples`` and the out-of-domain settings are left out: they change neither a trained member nor its
        statistics. Settings that the task carries are left out too.
        """
        settings = self.settings
        content = {
            "suite": self.name,
            "corpus": corpus,
            "files": [file_sha256(self._require(corpus, split)) for split in SPLITS],
            "positive_threshold": settings.positive_threshold,
            "sample_seed": settings.sample_seed,
            "train_examples": settings.train_examples,
            "dev_examples": settings.dev_examples,
        }
        return json_sha256(content)

    def annotated_labels(self, corpus: str) -> tuple[bool, ...]:
        """For each label, whether any training sentence (after the limits) annotates it."""
        labels = [cast(tuple[int, ...], sentence.label) for sentence in self.sentences(corpus, "train")]
        return tuple(any(value != IGNORED for value in values) for values in zip(*labels, strict=True))

    def _path(self, corpus: str, split: Split) -> Path:
        return self.folder / corpus / f"{split}.jsonl"

    def _require(self, corpus: str, split: Split) -> Path:
        path = self._path(corpus, split)
        if not path.is_file():
            raise MissingDataError(self._missing_message(corpus))
        return path

    def _read(self, corpus: str, split: Split) -> list[Example]:
        path = self._require(corpus, split)
        if path not in self._read_files:
            self._read_files[path] = read_emotions(path, self.settings.positive_threshold)
        return self._read_files[path]

    def _limited(self, examples: list[Example], limit: int | None) -> list[Example]:
        return [examples[index] for index in seeded_subset(len(examples), limit, self.settings.sample_seed)]

    def _skipped(self, corpus: str) -> bool:
        """Whether an out-of-domain corpus is left out because none of its files is there (some of three: an error)."""
        if not self.settings.skip_missing_out_of_domain:
            return False
        absent = not any(self._path(corpus, split).is_file() for split in SPLITS)
        if absent and corpus not in self._warned:
            self._warned.add(corpus)
            _logger.warning(
                "%s: out-of-domain corpus %s is left out: no file in %s (skip_missing_out_of_domain is true).",
                self.name,
                corpus,
                self.folder / corpus,
            )
        return absent

    def _absent(self, corpus: str) -> list[Path]:
        return [path for split in SPLITS if not (path := self._path(corpus, split)).is_file()]

    def _missing_message(self, corpus: str) -> str:
        message = (
            f"{self.name}: corpus {corpus} is not there: no {', '.join(map(str, self._absent(corpus)))}. Point "
            "paths.data_dir at the folder that holds emotion_splits, or make it from the unified corpus: "
            "python -m regmean_lab.prepare suite=emotion from=unified-dataset.jsonl (layout: data/README.md)."
        )
        if corpus in self.settings.out_of_domain or (self.settings.include_other_members and corpus in IN_DOMAIN):
            message += (
                " A corpus that is only evaluated out of domain can also be left out: name the others in "
                "suite.out_of_domain=[…], or set suite.skip_missing_out_of_domain=true."
            )
        return message


@register_suite("emotion")
class EmotionSuite(EmotionCorpora):
    """Which emotions a sentence has: sixteen yes/no labels."""

    settings_type = EmotionSettings
    settings: EmotionSettings

    def problems(self) -> list[str]:
        """What is wrong with the settings."""
        found = super().problems()
        if self.settings.threshold_on not in THRESHOLDS_ON:
            allowed = ", ".join(THRESHOLDS_ON)
            found.append(f"threshold_on: expected one of {allowed}, got {self.settings.threshold_on!r}")
        return found

    def task(self, corpus: str) -> Task:
        """Sixteen yes/no labels: the same for every corpus."""
        threshold_on = cast(Literal["probability", "logit"], self.settings.threshold_on)
        return Task(
            "multi_label",
            LABELS,
            "macro_f1",
            threshold=0.5,
            threshold_on=threshold_on,
            threshold_inclusive=self.settings.threshold_inclusive,
        )

    def examples(self, corpus: str, split: Split) -> list[Example]:
        """Sentences of one split with all their labels, in the file's order, after the limits."""
        return self.sentences(corpus, split)

    def out_of_domain_examples(self, corpus: str) -> list[Example]:
        """Sentences on which a corpus is evaluated when it is out of domain, with all their labels."""
        return self.out_of_domain_sentences(corpus)
