"""What contributors and GitHub run, against the Makefile and the project's own statements."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def commands_of(target: str) -> list[str]:
    """The programs that a target of the Makefile runs, without their arguments' dot (the whole project)."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    body = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert body is not None, f"there is no target {target}"
    return [line.strip().removeprefix("$(BIN)/").removesuffix(" .") for line in body[1].splitlines()]


def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def test_before_a_commit_the_same_runs_as_in_lint() -> None:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]]

    assert entries == commands_of("lint")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_that_exist(path: Path) -> None:
    called = re.findall(r"\bmake ([a-z][a-z-]*)", path.read_text(encoding="utf-8"))

    assert called
    assert set(called) <= targets()


def test_every_supported_python_is_tested() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    supported = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text))
    matrix = read(".github/workflows/checks.yml")["jobs"]["test"]["strategy"]["matrix"]

    assert set(matrix["python"]) == supported


def test_project_citation_and_changelog_name_the_same_version() -> None:
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    citation = read("CITATION.cff")
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert citation["version"] == version
    assert headings[:2] == ["[Unreleased]", f"[{version}] - {citation['date-released']}"]
