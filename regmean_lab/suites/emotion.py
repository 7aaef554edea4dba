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
from typing import Any, ClassVar, Literal, cast

from typing_extensions import override

from regmean_lab.suites.base import IGNORED, SPLITS, Example, Split, Task, register_suite
from regmean_lab.suites.corpora import Choices, CorpusSettings, FileSuite
from regmean_lab.suites.reading import json_object, parse_lines

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
RELEASED_MEMBERS = (
    *("dailydialog", "crowdflower", "tec", "tales-emotion", "emobank", "isear", "emoint", "ssec", "electoraltweets"),
    *("fb-valence-arousal-anon", "grounded_emotions", "emotion-cause", "affectivetext"),
)
"""``model0`` to ``model12`` of the paper's released code; emobank and two others are no corpora of the suite."""
THRESHOLDS_ON = ("probability", "logit")


@dataclass
class EmotionDataSettings(CorpusSettings):
    """Settings of every suite that reads emotion corpora, besides those of every suite. Limits count sentences.

    Attributes:
        positive_threshold: a label is positive where its value in the file is above this.
        out_of_domain: corpora that every merge is evaluated on, unless they are merged.
        skip_missing_out_of_domain: leave out, with a warning, out-of-domain corpora of which no file is there;
            otherwise they are an error.
        include_other_members: evaluate out of domain also on those of the five in-domain corpora that are not merged
            (on their test split).
        out_of_domain_examples: keep at most this many sentences of a corpus that is evaluated out of domain.
    """

    positive_threshold: float = 0.1
    out_of_domain: list[str] = field(default_factory=lambda: list(OUT_OF_DOMAIN))
    skip_missing_out_of_domain: bool = False
    include_other_members: bool = False
    out_of_domain_examples: int | None = None


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
    """Read one file: one JSON object per line, with ``text``, ``emotions`` and ``VAD``; other keys are not looked at.

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


class EmotionCorpora(FileSuite):
    """Sentences with emotions, whatever is asked about them (see the module's description).

    Files: ``<data_dir>/emotion_splits/<corpus>/{train,dev,test}.jsonl``.

    The five in-domain corpora are the members unless others are named; any corpus folder can be one. For head
    initialisation the five have the numbers 0 to 4; after them come the five published out-of-domain corpora in
    alphabetical order (5 to 9), and then any other folder below ``emotion_splits``, in alphabetical order.

    Out of domain, the five in-domain corpora are evaluated on their test split, every other corpus on train, dev and
    test together.
    """

    settings_type = EmotionDataSettings
    settings: EmotionDataSettings
    reference_order = IN_DOMAIN
    released_members = RELEASED_MEMBERS
    more_corpora = tuple(sorted(OUT_OF_DOMAIN))
    layout = "emotion_splits/{corpus}/{split}.jsonl"
    brought_by = "suite=emotion from=unified-dataset.jsonl"
    fingerprinted = ("positive_threshold",)

    def __init__(self, data_dir: Path, settings: EmotionDataSettings) -> None:
        super().__init__(data_dir, settings)
        self._warned: set[str] = set()

    def out_of_domain_problems(self) -> list[str]:
        """What is wrong with the setting ``out_of_domain``; corpora that are not there may be left out on request."""
        found = super().out_of_domain_problems()
        skipped = self.settings.skip_missing_out_of_domain
        return [problem for problem in found if not (skipped and problem.startswith("out_of_domain: no corpus"))]

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if not math.isfinite(self.settings.positive_threshold):
            found.append(f"positive_threshold: expected a finite number, got {self.settings.positive_threshold}")
        return found

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        """The corpora of the setting ``out_of_domain``, then (if wanted) other in-domain corpora; none is merged."""
        return tuple(corpus for corpus in super().out_of_domain(merged) if not self._skipped(corpus))

    def read_file(self, corpus: str, path: Path) -> list[Example]:
        """Sentences with all their labels."""
        return read_emotions(path, self.settings.positive_threshold)

    def sentences(self, corpus: str, split: Split) -> list[Example]:
        """Sentences of one split with all their labels, in the file's order, after the limits."""
        return self.limited(self.all_examples(corpus, split), split)

    def out_of_domain_sentences(self, corpus: str) -> list[Example]:
        """The test split of an in-domain corpus; train, dev and test, one after the other, of any other corpus."""
        splits: tuple[Split, ...] = ("test",) if corpus in IN_DOMAIN else SPLITS
        return self.limited([row for split in splits for row in self.all_examples(corpus, split)], "out_of_domain")

    def annotated_labels(self, corpus: str) -> tuple[bool, ...]:
        """For each label, whether any training sentence (after the limits) annotates it."""
        labels = [cast(tuple[int, ...], sentence.label) for sentence in self.sentences(corpus, "train")]
        return tuple(any(value != IGNORED for value in values) for values in zip(*labels, strict=True))

    def missing_advice(self, corpus: str) -> str:
        """What to do about missing files of a corpus."""
        advice = super().missing_advice(corpus)
        if corpus in self.out_of_domain_choice() and self._folder_above(corpus) is None:
            advice = f"To leave out what is missing: suite.skip_missing_out_of_domain=true. {advice}"
        return advice

    def _skipped(self, corpus: str) -> bool:
        """Whether an out-of-domain corpus is left out because none of its files is there (some of three: an error)."""
        if not self.settings.skip_missing_out_of_domain:
            return False
        absent = not any(self.path(corpus, split).is_file() for split in SPLITS)
        if absent and corpus not in self._warned:
            self._warned.add(corpus)
            _logger.warning(
                "%s: out-of-domain corpus %s is left out: no file in %s (skip_missing_out_of_domain is true).",
                self.name,
                corpus,
                self.folder / corpus,
            )
        return absent


@register_suite("emotion")
class EmotionSuite(EmotionCorpora):
    """Which emotions a sentence has: sixteen yes/no labels."""

    settings_type = EmotionSettings
    settings: EmotionSettings
    choices: ClassVar[Choices] = {"threshold_on": THRESHOLDS_ON}

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

    def out_of_domain_examples(self, corpus: str) -> list[Example]:
        """Sentences on which a corpus is evaluated when it is out of domain, with all their labels."""
        return self.out_of_domain_sentences(corpus)
