"""What docs/migration.md says of commands, settings, files and imports of version 0.1."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from regmean_lab.__main__ import EXIT_CONFIGURATION, main
from regmean_lab.command.overrides import override_problems
from regmean_lab.command.renamed import FOLDERS, SETTINGS
from regmean_lab.command.verbs import VERBS, split_verb
from regmean_lab.config.checkpoint_commands import split_root
from regmean_lab.config.locations import use_own_folders
from regmean_lab.report.cli import read_arguments
from regmean_lab.results import SCHEMA, Result

PAGE = (Path(__file__).parents[1] / "docs" / "migration.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))

FIELDS = {
    *("fingerprint", "experiment", "suite", "model", "method", "members", "seed", "head_init", "scores", "schema"),
    *("mean_in_domain", "mean_out_of_domain", "metrics", "seconds", "peak_memory_bytes", "environment"),
    *("data_fingerprint", "diagnostics", "configuration", "model_fingerprint", "zoo"),
}
"""Of a result.json that version 0.1 wrote."""


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = re.findall(r"^\| (.*) \|$", SECTIONS[section], re.M)
    return [line.split(" | ") for line in lines[1:]]


def code(cell: str) -> str:
    """The first text between backticks."""
    (text, *_) = re.findall(r"`([^`]+)`", cell)
    return str(text)


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that is refused says."""
    monkeypatch.setattr(sys, "argv", ["regmean-lab", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    use_own_folders([])
    assert ended.value.code == EXIT_CONFIGURATION
    return capsys.readouterr().err


@pytest.mark.parametrize(("old", "new"), rows("Commands"))
def test_a_command_in_both_forms(old: str, new: str, compose_job: Callable[..., Any]) -> None:
    compose_job()  # registers schemas and resolvers
    older, verb_and_rest = shlex.split(code(old)), shlex.split(code(new))[1:]
    assert older[:2] == ["python", "-m"]
    verb, given = split_verb(verb_and_rest)
    assert verb is not None
    if VERBS[verb].config is None:
        assert older[2:] == [f"regmean_lab.{verb}", *given]
        assert importlib.util.find_spec(f"{older[2]}.__main__") is not None
        if verb == "report":
            read_arguments(given)
        return
    root, overrides = split_root(older[3:])
    assert override_problems(overrides, jobs_too=False, root=root) == []
    assert split_root([*given, *VERBS[verb].overrides], VERBS[verb].config) == (root, overrides)


@pytest.mark.parametrize("old", [code(row[0]) for row in rows("Settings")])
def test_settings_that_are_gone_are_answered(old: str, compose_job: Callable[..., Any]) -> None:
    compose_job()
    (problem,) = override_problems([old], jobs_too=False)
    assert problem.startswith(f"{old.partition('=')[0]}: ")
    assert "hydra.sweeper.until=train or hydra.sweeper.until=statistics" in problem
    new = {code(cell) for _, cell in rows("Settings") if "`" in cell}
    assert override_problems(sorted(new)[:1], jobs_too=False) == []
    assert {code(row[0]).partition("=")[0] for row in rows("Settings")} == set(SETTINGS)


@pytest.mark.parametrize(("setting", "old", "new", "override"), rows("Defaults"))
def test_defaults(setting: str, old: str, new: str, override: str, compose_job: Callable[..., Any]) -> None:
    key, method = re.findall(r"`([^`]+)`", setting)
    assert code(override) == f"{key}={old}"
    name = key.removeprefix("method.")
    assert new == "null" and compose_job(f"method={method}").method[name] is None
    assert compose_job(f"method={method}", code(override)).method[name] == int(old)


@pytest.mark.parametrize("old", [code(row[0]) for row in rows("Configuration files of your own") if ".yaml" in row[0]])
def test_folders_that_are_not_read_any_more_are_told(
    old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / old
    path.parent.mkdir(parents=True)
    path.write_text("# @package training\nepochs: 7\n")
    told = refusal(monkeypatch, capsys, "--config-dir", str(tmp_path), "plan=true")
    first = old.partition("/")[0]
    assert f"{tmp_path / first}: version 0.1 read this folder" in told
    assert FOLDERS[first] in told


def test_the_page_has_all_folders() -> None:
    assert {code(row[0]).partition("/")[0] for row in rows("Configuration files of your own")} == {*FOLDERS, "schema"}


@pytest.mark.parametrize(
    ("group", "name"), [("suite", "emotion"), ("suite", "ner"), ("method", "regmean"), ("method", "ties")]
)
def test_schemas_by_their_older_name_are_told(
    group: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / group).mkdir()
    file = tmp_path / group / "mine.yaml"
    file.write_text(f"defaults:\n  - schema/{name}@_here_\n  - _self_\n")
    told = refusal(monkeypatch, capsys, "--config-dir", str(tmp_path), f"{group}=mine")
    assert f"schema/{name}@… of version 0.1 is /schema/{group}/{name}@… now" in told
    (row,) = [new for old, new in rows("Configuration files of your own") if f"of a {group}" in old]
    assert code(row).lower() == f"/schema/{group}/{group}@_here_"
    file.write_text(f"defaults:\n  - /schema/{group}/{name}@_here_\n  - _self_\nnot_there: 1\n")
    assert "not_there" in refusal(monkeypatch, capsys, "--config-dir", str(tmp_path), f"{group}=mine")


def test_experiment_files_with_a_stage_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nexperiment: mine\nstage: train\n")
    told = refusal(monkeypatch, capsys, "--config-dir", str(tmp_path), "experiment=mine")
    assert f"stage: {SETTINGS['stage']}" in told


def test_fields_of_results() -> None:
    assert {code(row[0]) for row in rows("result.json")} == {field.name for field in fields(Result)} - FIELDS
    assert {field.name for field in fields(Result)} >= FIELDS
    assert SCHEMA == 1 and "`schema` is 1 as before" in SECTIONS["result.json"]


@pytest.mark.parametrize(("old", "new"), rows("Python"))
def test_imports(old: str, new: str) -> None:
    place = importlib.import_module("regmean_lab")
    for name in code(new).split(".")[1:]:
        if not hasattr(place, name):  # a module that nothing has imported
            importlib.import_module(f"{place.__name__}.{name}")
        place = getattr(place, name)
    module, _, name = code(old).rpartition(".")
    try:
        assert not hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        assert module.startswith(str(error.name))
