"""The labels of user-supplied data, and their names."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from regmean_lab.suites.tables.columns import is_missing
from regmean_lab.utils.names import abbreviated

MOST_LABELS = 200
"""A column with more different values is taken for no label."""

_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}(?:\.0*)?")


def label_name(value: Any) -> str | None:
    """The name of a label as a row has it: whole numbers are written alike in all formats; None where it is missing.

    ``1``, ``1.0``, ``"1"`` and ``" 1.0 "`` are all ``"1"``, and true and false are words.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).strip()
    if isinstance(value, int | float | str) and _WHOLE_NUMBER.fullmatch(text):
        return str(int(float(text))) if "." in text else str(int(text))
    if isinstance(value, str):
        return None if is_missing(text) and text.casefold() not in ("none", "null") else text
    return text


def label_names(seen: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names of all labels in the order of their ids: numbers by size, words in alphabetical order.

    Args:
        seen: for each corpus, the names of its labels (:func:`label_name`), in any order.

    Raises:
        ValueError: where some are numbers and others words, where two differ in capital letters only, or where there
            are too many to be labels, or a single one.
    """
    names = sorted({name for own in seen.values() for name in own})
    numbers = [name for name in names if _WHOLE_NUMBER.fullmatch(name)]
    words = [name for name in names if name not in numbers]
    if numbers and words:
        raise ValueError(
            f"labels are numbers ({abbreviated(numbers)} in {_corpora(seen, numbers)}) and words ({abbreviated(words)} "
            f"in {_corpora(seen, words)}); give the names in the order of the numbers, for example "
            f"suite.labels=[{','.join(words[:3])}], or write them alike in all files"
        )
    if (len(numbers) == 1 and not words) or len(words) == 1:
        raise ValueError(f"all rows have the label {names[0]!r}; expected at least two labels")
    if len(names) > MOST_LABELS:
        raise ValueError(
            f"{len(names)} different values ({abbreviated(names)}), too many to be class labels; name the column of "
            "the label with suite.label=, or use suite=text_regression for numbers on a scale"
        )
    _check_not_alike(words)
    return tuple(sorted(numbers, key=int)) or tuple(words)


def _check_not_alike(names: Iterable[str]) -> None:
    """Raise for names that are probably meant to be one.

    Raises:
        ValueError: where two differ in capital letters, or in how letters with accents are encoded, only.
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    twice = [" and ".join(repr(name) for name in same) for same in alike.values() if len(same) > 1]
    if not twice:
        return
    how = "capital letters"
    if any(len({unicodedata.normalize("NFC", name) for name in same}) == 1 for same in alike.values() if len(same) > 1):
        how = "how accents are encoded (Unicode's NFC and NFD)"
    raise ValueError(f"{'; '.join(twice)} differ in {how} only; write them alike")


def tag_names(seen: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names of all tags of words in the order of their ids: ``O`` first, then ``B-`` and ``I-`` of each type.

    Tags that are of no such scheme, parts of speech for example, are in alphabetical order. Where one of ``B-X`` and
    ``I-X`` occurs, both are tags.

    Args:
        seen: for each corpus, the tags that occur, in any order.

    Raises:
        ValueError: for tags of the schemes IOBES and BILOU, for those that differ in capital letters only, or too many.
    """
    tags = {tag for own in seen.values() for tag in own}
    if other := sorted(tag for tag in tags if re.fullmatch(r"[SEUL]-.+", tag)):
        raise ValueError(
            f"{abbreviated(other)} in {_corpora(seen, other)}: of another scheme; in BIO, S- and U- are written as B-, "
            "and E- and L- as I-"
        )
    types = sorted({tag[2:] for tag in tags if re.fullmatch(r"[BI]-.+", tag)})
    rest = sorted(tag for tag in tags if tag[2:] not in types and tag != "O") if types else sorted(tags)
    if types and rest:
        raise ValueError(
            f"{abbreviated(rest)} in {_corpora(seen, rest)}: expected O, or B- or I- and a type as in {_corpora(seen)}"
        )
    _check_not_alike(types or rest)
    names = ("O", *(f"B-{name}" for name in types), *(f"I-{name}" for name in types)) if types else tuple(rest)
    if len(names) > MOST_LABELS:
        raise ValueError(f"{len(names)} different tags ({abbreviated(names)}); is it the column of the tags?")
    if len(names) < 2:
        raise ValueError(f"all words have the tag {names[0]!r}; expected at least two tags")
    return names


def _corpora(seen: Mapping[str, Sequence[str]], names: Sequence[str] = ()) -> str:
    """The corpora in which any of some labels occurs (all, if none are given)."""
    return abbreviated(corpus for corpus, own in seen.items() if not names or not set(own).isdisjoint(names))
