"""What is logged about user-supplied data before any work: what was read, and probable mistakes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

from regmean_lab.suites.base import SPLITS, Split
from regmean_lab.suites.own_splits import IDENTIFIERS, repeated
from regmean_lab.suites.tables.column_names import find_column
from regmean_lab.suites.tables.columns import Columns
from regmean_lab.suites.tables.table import Table
from regmean_lab.utils.names import abbreviated

log = logging.getLogger(__name__)


def tell_sizes(key: str, columns: Columns, splits: Mapping[Split, Sequence[Any]]) -> None:
    """Log which columns of a corpus are read, and how many examples its splits have."""
    label = "" if columns.label is None else f", label {columns.label}"
    sizes = ", ".join(f"{len(examples)} {split}" for split, examples in splits.items())
    log.info("%s: text %s%s; %s", key, " and ".join(columns.text), label, sizes)


def tell_repetitions(key: str, columns: Columns, tables: Mapping[str, Table]) -> None:
    """Warn of texts, and of identifiers where there are some, that are in two of the splits that are given."""
    parts: dict[Split, Sequence[Mapping[str, Any]]] = {split: tables[split].rows for split in SPLITS if split in tables}
    first = next(iter(tables.values()))
    identifier = next((name for usual in IDENTIFIERS if (name := find_column(first.columns, usual))), None)
    checks = [("texts", columns.text)] + ([("values of " + identifier, (identifier,))] if identifier else [])
    for what, names in checks:
        for (split, other), number in repeated(parts, names).items():
            log.warning("%s: %d %s of %s are in %s too", key, number, what, other, split)


def tell_overlaps(splits: Mapping[str, Mapping[Split, Sequence[Any]]], drawn: Mapping[str, Collection[Split]]) -> None:
    """Warn of texts that are evaluated and trained on: in splits that were drawn, and of one corpus in another.

    Args:
        splits: of each corpus its examples.
        drawn: of each corpus the splits that were drawn; what is given in two is told by `tell_repetitions`.
    """
    keys = {
        corpus: {split: [_text_of(one) for one in own] for split, own in parts.items()}
        for corpus, parts in splits.items()
    }
    trained = {corpus: set(parts.get("train", ())) for corpus, parts in keys.items()}
    for corpus, parts in keys.items():
        for split in ("dev", "test"):
            own: Sequence[Hashable] = parts.get(split, ())
            if split in drawn[corpus] and (number := sum(key in trained[corpus] for key in own)):
                log.warning(
                    "corpora.%s: %d of the %d texts of %s are in train too, as rows repeat each other; group=COLUMN "
                    "keeps rows of a group together",
                    *(corpus, number, len(own), split),
                )
        for other in trained:
            tested: Sequence[Hashable] = parts.get("test", ())
            if other != corpus and (number := sum(key in trained[other] for key in tested)):
                log.warning(
                    "corpora.%s: %d of the %d texts of test are in train of corpora.%s",
                    corpus,
                    number,
                    len(tested),
                    other,
                )


def _text_of(example: Any) -> Hashable:
    """What an example has beside its label."""
    if hasattr(example, "words"):
        return tuple(example.words)
    if hasattr(example, "text") and not hasattr(example, "target"):
        return str(example.text), getattr(example, "text_pair", None)
    return repr(example)  # an instruction may be the same in all; what is answered tells


def tell_labels(
    labels: Sequence[str], seen: Mapping[str, Sequence[str]], untrained: Mapping[str, Sequence[str]]
) -> None:
    """Log labels that not every corpus has, and warn of labels without examples.

    Args:
        labels: all labels.
        seen: for each corpus, the labels that occur in it.
        untrained: for each corpus, those that occur in no training example.
    """
    for label in labels if any(seen.values()) else ():
        there = [corpus for corpus, own in seen.items() if label in own]
        if not there:
            log.warning("labels: no example has the label %s", label)
        elif len(there) < len(seen):
            log.info("labels: %s occurs only in %s", label, abbreviated(there))
    for corpus, names in untrained.items():
        if names:
            log.warning("corpora.%s: no training example has %s", corpus, abbreviated(names))


def not_trained_on(parts: Mapping[str, Sequence[str]]) -> list[str]:
    """Labels that occur in a corpus, but in no split that is trained on; none of a corpus that is only evaluated."""
    trained = {label for part in ("all", "train") for label in parts.get(part, ())}
    return sorted({label for own in parts.values() for label in own if label not in trained}) if trained else []
