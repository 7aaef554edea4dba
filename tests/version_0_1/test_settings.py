"""Settings of version 0.1: they are there by the same name, with the same default.

``settings.json`` holds, by the overrides that were composed, what version 0.1 had: of none the whole configuration, of
others what differs from it, and the whole root configurations of the two commands on checkpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from regmean_lab.command.renamed import SETTINGS

BEFORE: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("settings.json").read_text(encoding="utf-8"))
ROOTS = ("collect_statistics", "merge_checkpoints")
PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
CHANGED = {
    (f"method={method}", key) for key, method in re.findall(r"^\| `([\w.]+)` of `(\w+)` \| \d+ \| null \|", PAGE, re.M)
}
"""Defaults that the page on migration says are others now, by what is chosen and the key."""


def flat(config: DictConfig) -> dict[str, Any]:
    """Values by dotted key, interpolations as they stand."""
    found: dict[str, Any] = {}

    def collect(node: Any, key: str) -> None:
        if isinstance(node, dict) and node:
            for name, value in node.items():
                collect(value, f"{key}.{name}" if key else str(name))
        else:
            found[key] = node

    collect(OmegaConf.to_container(config, resolve=False), "")
    return found


@pytest.mark.parametrize("chosen", BEFORE)
def test_names_and_defaults_are_what_they_were(chosen: str, compose_job: Callable[..., DictConfig]) -> None:
    now = flat(compose_job(root=chosen) if chosen in ROOTS else compose_job(*chosen.split()))
    before = {key: value for key, value in BEFORE[chosen].items() if key not in SETTINGS}

    assert before.keys() - now.keys() == set()
    assert {key for key, value in before.items() if now[key] != value} == {
        key for option, key in CHANGED if option == chosen
    }


def test_the_page_names_what_has_another_default() -> None:
    assert {(f"method={name}", "method.examples") for name in ("regmean_sequential", "regmean_plusplus")} == CHANGED
