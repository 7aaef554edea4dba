"""The documentation's tables against the methods and suites themselves."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from regmean_lab.merging import MergeMethod, method_types

ROOT = Path(__file__).parents[1]
ROWS = {
    cells[0].strip("` "): cells
    for line in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").partition("## Means")[2].splitlines()
    if re.match(r"\| `[a-z_]+` \|", line)
    and len(cells := [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]) == 4
}
"""The formulas of docs/methods.md, which are written by hand."""

SHARED = {field.name for field in fields(MergeMethod)}


def script() -> ModuleType:
    """docs/tables.py."""
    sys.path.insert(0, str(ROOT / "docs"))  # where Python finds what the script imports when it is run
    try:
        return importlib.import_module("tables")
    finally:
        sys.path.remove(str(ROOT / "docs"))


TABLES = script()


@pytest.mark.parametrize("path", TABLES.TABLES)
def test_tables_are_as_the_docstrings_say(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == TABLES.written(path), "run make tables"


def test_tables_name_every_method_and_suite() -> None:
    """Against the names of the files of conf."""
    for path, group in (("README.md", "method"), ("docs/methods.md", "method"), ("docs/experiments.md", "suite")):
        text = (ROOT / path).read_text(encoding="utf-8").partition("written by make tables -->")[2].partition("<!--")[0]
        named = re.findall(r"^\| `([a-z_]+)` \| \S", text, re.M)
        assert sorted(named) == sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml"))


def test_a_table_in_markdown() -> None:
    assert TABLES.table(("a", "b"), [("1|2", ""), ("3", "4")]) == "| a | b |\n| --- | --- |\n| 1\\|2 | |\n| 3 | 4 |\n"


def test_a_place_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TABLES, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("<!-- methods: written by make tables -->\n")
    with pytest.raises(ValueError, match=r"README\.md: expected .* and after it <!-- end -->"):
        TABLES.written("README.md")


@pytest.mark.parametrize("name", sorted(ROWS))
def test_settings_and_defaults_are_those_of_the_method(name: str) -> None:
    own = {field.name: field for field in fields(method_types()[name]) if field.init and field.name not in SHARED}
    listed = re.findall(r"`([a-z_]+)(?:=([^`]*))?`", ROWS[name][2])
    assert {setting for setting, _ in listed if setting != "coefficients"} == set(own)
    for setting, default in listed:
        if default:
            first = default.split("\\|")[0]
            value = own[setting].default
            assert (float(first) == value) if isinstance(value, int | float) else (first == value), setting


def test_formulas_are_there() -> None:
    assert {"simple", "fisher", "regmean", "task_arithmetic", "ties", "tsv"} <= set(ROWS) and len(ROWS) >= 19
