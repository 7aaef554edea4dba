"""The suite of one's own tagged words: a tag for each word of a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from regmean_lab.suites.base import register_suite
from regmean_lab.suites.key_scores import KEY_SCORES
from regmean_lab.suites.own_data import OwnDataSettings, OwnDataSuite
from regmean_lab.suites.own_files import OwnCorpus
from regmean_lab.suites.own_labels import label_name, tag_names
from regmean_lab.suites.tables.table import SUFFIXES, Table
from regmean_lab.suites.tables.tagged_columns import TAGGED, read_tagged
from regmean_lab.suites.tables.written_lists import written_list


@dataclass
class TokenClassificationSettings(OwnDataSettings):
    """Settings of the suite, besides those of every suite of one's own data.

    Attributes:
        labels: names of the tags in the order of their ids; None: those that occur in the data (``O``, then ``B-`` and
            ``I-`` of each type; tags of no such scheme in alphabetical order). Needed where tags are numbers.
        key_score: the metric that selects epochs and is reported: ``entity_f1`` (entities as the CoNLL evaluation
            script reads them), ``entity_f1_strict`` (by IOB2), ``entity_f1_published`` (as the paper's code reads
            them), or ``token_accuracy``, for tags that are no entities, which are all measured; or with the entity
            types' mean instead of all entities together, ``entity_f1_macro``, ``entity_f1_weighted`` (by their number)
            and the same of ``entity_precision`` and ``entity_recall`` (seqeval).
    """

    labels: list[str] | None = None
    key_score: str = KEY_SCORES["token_labels"][0]


@register_suite("token_classification")
class TokenClassificationSuite(OwnDataSuite):
    """Sentences with a tag for each word (``docs/own_data.md``): column files, or tables with lists."""

    settings_type = TokenClassificationSettings
    settings: TokenClassificationSettings
    kind = "token_labels"
    endings = tuple(dict.fromkeys((*SUFFIXES, *TAGGED)))

    @override
    def read_file(self, corpus: OwnCorpus, part: str, name: str) -> Table:
        if Path(name).suffix.lower() in TAGGED:
            return read_tagged(name)
        return super().read_file(corpus, part, name)

    @override
    def labels_of(self, seen: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        if (labels := self.settings.labels) is not None:
            if twice := sorted({label for label in labels if labels.count(label) > 1}):
                raise ValueError(f"suite.labels: {', '.join(twice)} more than once")
            return tuple(labels)
        numbers = sorted({tag for own in seen.values() for tag in own if tag.isdecimal()})
        if numbers:
            raise ValueError(
                f"tags are numbers ({', '.join(numbers[:5])}); give their names in the order of the numbers, for "
                "example suite.labels=[O,B-PER,I-PER]"
            )
        names = tag_names(seen)
        if self.settings.key_score != "token_accuracy" and names[0] != "O":
            raise ValueError(
                f"{', '.join(names[:5])} are not entity tags (O, B-PER, I-PER); use suite.key_score=token_accuracy"
            )
        return names

    @override
    def seen_labels(self, table: Table, column: str) -> list[str]:
        found: dict[str, None] = {}
        for row in table.rows:
            tags = _tags(row.get(column))
            found.update(dict.fromkeys(name for tag in tags if (name := label_name(tag)) is not None))
        return list(found)


def _tags(value: Any) -> Sequence[Any]:
    """The tags of a row; none of what is no list, which is reported when examples are made."""
    if isinstance(value, str):
        try:
            return written_list(value) or ()
        except ValueError:
            return ()
    return value if isinstance(value, list | tuple) else ()
