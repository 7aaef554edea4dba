"""Labels of rows: by name and by id."""

from __future__ import annotations

import pytest

from regmean_lab.suites.row_format import RowFormat


def label(names: tuple[str, ...], value: object) -> object:
    return RowFormat(columns=("text",), labels=names).example({"text": "a", "label": value}).label


def test_labels_are_given_by_name_or_id() -> None:
    assert [label(("bad", "good"), value) for value in ("good", 0, 1.0)] == [1, 0, 1]


def test_names_that_are_numbers_are_meant_by_these_numbers() -> None:
    stars = ("1", "2", "3", "4", "5")
    assert [label(stars, value) for value in (1, "4", 4, 5.0)] == [0, 3, 3, 4]
    for value in (0, 6, 2.5):
        with pytest.raises(ValueError, match="must be one of 1, 2, 3, 4, 5, found"):
            label(stars, value)
