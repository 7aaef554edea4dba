"""docs/methods.md and README.md against the methods themselves."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from regmean_lab.config.baselines import comparator_types
from regmean_lab.merging import MergeMethod, method_types

ROOT = Path(__file__).parents[1]
ROWS = {
    cells[0].strip("` "): cells
    for line in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| `[a-z_]+` \|", line)
    and len(cells := [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]) == 4
}
SHARED = {field.name for field in fields(MergeMethod)}


def test_every_method_has_a_row() -> None:
    assert set(ROWS) == set(method_types())


@pytest.mark.parametrize("name", sorted(method_types()))
def test_settings_and_defaults_are_those_of_the_method(name: str) -> None:
    own = {field.name: field for field in fields(method_types()[name]) if field.init and field.name not in SHARED}
    listed = re.findall(r"`([a-z_]+)(?:=([^`]*))?`", ROWS[name][2])
    assert {setting for setting, _ in listed if setting != "coefficients"} == set(own)
    for setting, default in listed:
        if default:
            first = default.split("\\|")[0]
            value = own[setting].default
            assert (float(first) == value) if isinstance(value, int | float) else (first == value), setting


def test_the_readme_names_every_method() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Methods")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+)`", section))
    assert set(method_types()) | set(comparator_types()) <= named
