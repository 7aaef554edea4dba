"""The names of a model's labels, as its configuration gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_EXPECTED = 'expected a name for each output by its number, such as {"0": "negative", "1": "positive"}'


def label_problems(content: Mapping[str, Any]) -> list[str]:
    """Why the label map of a ``config.json`` cannot be read, in one line.

    Args:
        content: the content of the file.
    """
    names = content.get("id2label")
    if names is None:
        return []
    if not isinstance(names, Mapping):
        return [f"id2label is a {type(names).__name__}; {_EXPECTED}"]
    numbers = [_number(key) for key in names]
    if odd := [str(key)[:40] for key, number in zip(names, numbers, strict=True) if number is None]:
        return [f"id2label: {', '.join(map(repr, odd[:3]))}: no number of an output; {_EXPECTED}"]
    if sorted(number for number in numbers if number is not None) != list(range(len(names))):
        shown = ", ".join(str(key)[:20] for key in list(names)[:5])
        return [f"id2label numbers the labels {shown}; expected 0 to {len(names) - 1}, in the order of the outputs"]
    if not all(isinstance(name, str | int | float) for name in names.values()):
        return [f"id2label: some labels are not text; {_EXPECTED}"]
    count = content.get("num_labels")
    if isinstance(count, int) and count != len(names):
        return [f"id2label names {len(names)} labels, but num_labels is {count}; correct one of them"]
    own = {str(name): int(key) for key, name in names.items()}
    other = content.get("label2id")
    if not isinstance(other, Mapping) or len(own) < len(names) or set(map(str, other)) != set(own):
        return []  # names of before, which nothing reads
    for name, number in other.items():
        if _number(number) != own[str(name)]:
            return [f"label2id numbers {name!r} {number!r}, id2label {own[str(name)]}; correct one of them"]
    return []


def repeated(labels: Sequence[str]) -> str | None:
    """The first name that stands for several labels, and for which."""
    for name in labels:
        if len(places := [str(place) for place, other in enumerate(labels) if other == name]) > 1:
            return f"{name!r} stands for outputs {' and '.join(places)}"
    return None


def _number(key: object) -> int | None:
    if isinstance(key, bool) or not isinstance(key, str | int):
        return None
    return int(key) if str(key).isdecimal() else None
