"""The suite of one's own labelled texts: one of several labels for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from regmean_lab.suites.base import register_suite
from regmean_lab.suites.key_scores import KEY_SCORES, key_score_problem
from regmean_lab.suites.own_data import OwnDataSettings, OwnDataSuite
from regmean_lab.suites.own_labels import label_name, label_names
from regmean_lab.suites.tables.table import Table


@dataclass
class TextClassificationSettings(OwnDataSettings):
    """Settings of the suite, besides those of every suite of one's own data.

    Attributes:
        labels: names of the labels in the order of their ids; None: those that occur in the data (numbers by size,
            words in alphabetical order).
        key_score: the metric that selects epochs and is reported: ``accuracy``, ``macro_f1``, ``matthews``, or with two
            labels ``binary_f1`` (of the second). All are measured.
    """

    labels: list[str] | None = None
    key_score: str = KEY_SCORES["single_label"][0]


@register_suite("text_classification")
class TextClassificationSuite(OwnDataSuite):
    """Texts, or pairs of texts, with one label each (``docs/own_data.md``)."""

    settings_type = TextClassificationSettings
    settings: TextClassificationSettings
    kind = "single_label"

    @override
    def labels_of(self, seen: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        given = self.settings.labels
        if given is None:
            found = label_names(seen)
        elif len(set(given)) != len(given) or len(given) < 2:
            raise ValueError(f"expected at least two different names, got {list(given)}")
        else:
            found = tuple(given)
        chosen = self.settings.key_score
        told = key_score_problem(chosen, self.kind)  # what needs no labels, and is a problem of its own
        if not told and (problem := key_score_problem(chosen, self.kind, len(found))):
            raise ValueError(f"key_score={problem}: {', '.join(found)}")
        return found

    @override
    def seen_labels(self, table: Table, column: str) -> list[str]:
        names = (label_name(row.get(column)) for row in table.rows)
        return list(dict.fromkeys(name for name in names if name is not None))

    @override
    def labelled(self, row: Mapping[str, Any], column: str) -> Any:
        name = label_name(row[column])
        return row[column] if name is None else name
