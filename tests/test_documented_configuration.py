"""The YAML files that people open: every setting is there, with its default and a comment."""

from __future__ import annotations

import itertools
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from regmean_lab.config.groups import ModelConfig
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.schema import all_methods
from regmean_lab.merging import MergeMethod
from regmean_lab.suites import suite_types
from regmean_lab.suites.corpora import OutOfDomainSettings

CONF = configuration_root() / "conf"
SET_BY_SUITES = {
    "sentiment": {"train_examples": 1500, "dev_examples": 300, "test_examples": 1000},
    "sentiment_partition": {"dev_examples": 300, "test_examples": 1000, "partition_seed": "${seed}"},
    "glue_partition": {"partition_seed": "${seed}"},
}
"""What the YAML of a suite sets on purpose to something else than the default of the class."""


def default(entry: Field[Any]) -> Any:
    return entry.default if entry.default is not MISSING else entry.default_factory()  # type: ignore[misc]


def plain(path: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key != "defaults"}


def comments(path: Path, keys: list[str], indent: str = "") -> list[str]:
    """The keys that have no comment on the line above."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        key
        for key in keys
        if not any(
            line.startswith(f"{indent}{key}:") and before.startswith(f"{indent}# ")
            for before, line in itertools.pairwise(lines)
        )
    ]


def needed(expected: dict[str, Any], shown: dict[str, Any], base: type[Any]) -> list[str]:
    """The keys that a file must show: its own settings, and those that all have either all or none."""
    common = {entry.name for entry in fields(base) if entry.init}
    return [key for key in expected if key not in common or not common.isdisjoint(shown)]


@pytest.mark.parametrize("name", sorted(all_methods()))
def test_a_methods_file_shows_its_settings_defaults_and_paper(name: str) -> None:
    path = CONF / "method" / f"{name}.yaml"
    expected = {entry.name: default(entry) for entry in fields(all_methods()[name]) if entry.init}
    shown = plain(path)
    assert shown == {key: expected[key] for key in needed(expected, shown, MergeMethod)}
    assert {key: type(value) for key, value in shown.items()} == {key: type(expected[key]) for key in shown}
    assert comments(path, list(shown)) == []
    text = path.read_text(encoding="utf-8")
    assert "# https://" in text or "# No paper" in text


@pytest.mark.parametrize("name", sorted(suite_types()))
def test_a_suites_file_shows_its_settings_defaults_and_source(name: str) -> None:
    path = CONF / "suite" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    nested = "# @package _global_" in text
    expected = {entry.name: default(entry) for entry in fields(suite_types()[name].settings_type) if entry.init}
    shown = plain(path)["suite"] if nested else plain(path)
    values = {**expected, **SET_BY_SUITES.get(name, {})}
    assert shown == {key: values[key] for key in needed(expected, shown, OutOfDomainSettings)}
    assert comments(path, list(shown), "  " if nested else "") == []
    assert "# https://" in text or "docs/own_data.md" in text or "# No paper" in text


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_models_file_shows_its_settings_and_where_it_comes_from(path: Path) -> None:
    expected = {entry.name: default(entry) for entry in fields(ModelConfig)}
    content = plain(path)
    nested = "# @package _global_" in path.read_text(encoding="utf-8")  # it says how the model is trained, too
    shown = content["model"] if nested else content
    assert list(shown) == list(expected)
    assert shown == {**expected, "name": path.stem, "checkpoint": shown["checkpoint"]}
    assert comments(path, list(expected), "  " if nested else "") == []
    assert comments(path, list(content["training"]) if nested else [], "  ") == []
    assert "# https://" in path.read_text(encoding="utf-8") or shown["checkpoint"].startswith("pico:")
