"""The verbs of ``regmean-lab``: what each one runs, how fast its help comes, and what shells complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import regmean_lab
from regmean_lab.__main__ import EXIT_CONFIGURATION, main
from regmean_lab.command.verbs import VERBS, VerbError, split_verb
from regmean_lab.config.method_settings import METHODS_FOLDER, NotDeclaredError, declared_settings
from regmean_lab.config.schema_nodes import named_settings
from regmean_lab.merging import method_types

HEAVY = ("torch", "numpy", "scipy", "transformers", "pytorch_lightning", "wandb", "matplotlib", "datasets", "pandas")
LIGHT = [
    [],
    ["--help"],
    *([verb, "--help"] for verb in VERBS),
    ["zoo"],
    ["zoo", "list"],
    ["prepare"],
    ["rum"],
    ["method=regmaen"],
    ["method.off_diagnal=0.1"],
    ["seed=one"],
    ["merge", "trainer=cpx"],
    ["collect", "chekpoint=a"],
    ["evaluate", "chekpoint=a"],
    ["extract", "chekpoint=a"],
    ["report", "result=a"],
    ["prepare", "suit=ner"],
    ["-sc", "query=bash"],
]
PROBE = """
import contextlib, io, json, sys
from regmean_lab.__main__ import main
heavy, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])
loaded = {}
for command in commands:
    sys.argv = ["regmean-lab", *command]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit:
            pass
    loaded[" ".join(command)] = [name for name in heavy if name in sys.modules], len(sys.modules)
print(json.dumps(loaded))
"""


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["regmean-lab", *arguments])
    try:
        main()
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_help_lists_and_wrong_overrides_wait_for_no_large_library(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(regmean_lab.__file__).parent.parent),
        "COMP_LINE": "regmean-lab ",
    }
    command = [sys.executable, "-c", PROBE, json.dumps(HEAVY), json.dumps(LIGHT)]
    output = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    loaded = json.loads(output.splitlines()[-1])
    assert len(loaded) == len(LIGHT)
    assert {command: names for command, (names, _) in loaded.items() if names} == {}
    assert max(count for _, count in loaded.values()) < 3000


def test_method_settings_from_the_source_are_those_of_the_classes() -> None:
    declared, real = declared_settings(METHODS_FOLDER), method_types()
    assert set(declared) == set(real)
    for name, method in real.items():
        shown = [OmegaConf.structured(named_settings(settings, name)) for settings in (declared[name], method)]
        assert OmegaConf.to_yaml(shown[0]) == OmegaConf.to_yaml(shown[1])  # keys in the same order, and defaults
        assert [shown[0]._get_node(key)._metadata.ref_type for key in shown[0]] == [
            shown[1]._get_node(key)._metadata.ref_type for key in shown[1]
        ]


@pytest.mark.parametrize(
    "source",
    [
        "@register_method('x')\n@dataclass\nclass X(Elsewhere):\n    scaling: float = 1.0\n",
        "@register_method('x')\n@dataclass\nclass X(ABC):\n    scaling: float = DEFAULT\n",
    ],
)
def test_what_the_source_does_not_state_is_not_guessed(tmp_path: Path, source: str) -> None:
    (tmp_path / "x.py").write_text(source)
    with pytest.raises(NotDeclaredError):
        declared_settings(tmp_path)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_a_page_of_help(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, verb, "--help") == 0
    page = capsys.readouterr().out
    assert (f"regmean-lab {verb}" if verb != "run" else "regmean-lab [run]") in page


def test_the_page_of_help_names_every_verb_and_what_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--help") == 0
    page = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name:<10} {verb.summary}\n" in page


def test_help_shows_the_groups_that_a_person_chooses_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--help") == 0
    page = capsys.readouterr().out
    lines = page.partition("(choose with group=option):")[2].partition("Every key")[0].split("\n")
    groups = {line.partition(":")[0].strip(): line.partition(": ")[2].split(", ") for line in lines if ":" in line}
    chosen = {"suite", "model", "method", "training", "trainer", "logger", "paths", "fidelity", "experiment", "debug"}
    assert set(groups) == {*chosen, "+multirun_sweeps", "hydra/launcher"}
    assert {"basic", "joblib", "submitit_local", "ray"} <= set(groups["hydra/launcher"])
    assert {"regmean", "fisher", "ensemble"} <= set(groups["method"])
    assert "demo" in groups["+multirun_sweeps"]


@pytest.mark.parametrize(
    ("verb", "older"),
    [
        (["run", "seed=3"], ["seed=3"]),
        (["merge", "checkpoints=[a,b]"], ["experiment=merge_checkpoints", "checkpoints=[a,b]"]),
        (
            ["merge", "checkpoints=[a,b]", "experiment=merge_checkpoints"],
            ["experiment=merge_checkpoints", "checkpoints=[a,b]"],
        ),
        (["evaluate", "checkpoint=a", "data=b"], ["experiment=evaluate", "checkpoint=a", "data=b"]),
        (["collect", "checkpoint=a", "data=b"], ["experiment=collect_statistics", "checkpoint=a", "data=b"]),
        (["extract", "checkpoint=a", "rank=2"], ["experiment=extract_adapter", "checkpoint=a", "rank=2"]),
    ],
)
def test_a_verb_is_what_the_older_form_was(
    verb: list[str], older: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = []
    for arguments in (verb, older):
        assert run_main(monkeypatch, *arguments, "--cfg", "job") == 0
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1]
    assert "experiment: " in pages[0]


def test_plan_is_run_with_plan_true(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    monkeypatch.setattr(
        "regmean_lab.__main__.show_plan", lambda overrides: planned.append(overrides) or len(planned) > 1
    )
    assert run_main(monkeypatch, "plan", "seed=3") == EXIT_CONFIGURATION  # something is missing
    assert run_main(monkeypatch, "run", "seed=3", "plan=true") == 0
    assert planned == [["seed=3", "plan=true"]] * 2


@pytest.mark.parametrize("planned", [[], ["plan=true"]])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.coefficients=[a,b]", "method.coefficients=[a,b]: Value 'a' of type 'str' could not be converted"),
        ("method.off_diagonal=abc", "method.off_diagonal=abc: Value 'abc' of type 'str' could not be converted"),
    ],
)
def test_values_of_the_wrong_type_are_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], planned: list[str], override: str, message: str
) -> None:
    assert run_main(monkeypatch, override, *planned) == EXIT_CONFIGURATION
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


def test_the_exit_code_of_a_program_is_the_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, "zoo", "list") == 0
    assert run_main(monkeypatch, "prepare", "suit=ner") == 2
    assert run_main(monkeypatch, "report", "results=nowhere") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mrege", "checkpoints=[a,b]"], "mrege: there is no such verb; did you mean merge or prepare?"),
        (["evaluation"], "evaluation: there is no such verb; did you mean evaluate?"),
        (["seed=1", "merge"], "merge: a verb comes first: regmean-lab merge …"),
        (["plan", "merge"], "plan merge: expected one verb: plan is of run alone; merge tells what stands against it"),
        (["run", "collect"], "run collect: expected one verb"),
    ],
)
def test_a_word_that_is_no_verb_is_answered_with_the_nearest(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(VerbError):
        split_verb(arguments)
    assert run_main(monkeypatch, *arguments) == EXIT_CONFIGURATION
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("folder", [["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own", "--config-dir=more"]])
def test_folders_of_settings_may_stand_before_the_verb(folder: list[str]) -> None:
    assert split_verb([*folder, "plan", "seed=1"]) == ("plan", [*folder, "seed=1"])
    assert split_verb([*folder, "seed=1"]) == (None, [*folder, "seed=1"])
    with pytest.raises(VerbError, match="a verb comes first"):
        split_verb([*folder, "seed=1", "plan"])


def test_a_verb_and_an_experiment_of_another_root_do_not_mix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "merge", "experiment=collect_statistics") == EXIT_CONFIGURATION
    assert "experiment=collect_statistics: merge_checkpoints has a separate configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected", "absent"),
    [
        ("regmean-lab ", {*VERBS, "method=", "seed="}, {"heads=", "output="}),
        ("regmean-lab me", {"merge", "method="}, {"run"}),
        ("regmean-lab run metho", {"method="}, {"merge"}),
        ("regmean-lab suite=ner_", {"suite=ner_open"}, {"suite=ner"}),
        ("regmean-lab merge chec", {"checkpoints."}, {"checkpoint="}),
        ("regmean-lab collect ", {"checkpoint=", "data="}, {*VERBS}),
        ("regmean-lab extract ", {"checkpoint=", "base=", "rank=", "output="}, {*VERBS}),
        ("regmean-lab merge adapter.", {"adapter.rank=", "adapter.space="}, set()),
        ("regmean-lab merge method=regmean_p", {"method=regmean_plusplus"}, {"method=regmean"}),
        ("regmean-lab zoo ", {"list", "verify", "prune"}, {"merge"}),
        ("regmean-lab zoo prune --dr", {"--dry-run"}, {"--broken"}),
        ("regmean-lab prepare suite=ont", {"suite=ontonotes"}, {"suite=glue"}),
        ("regmean-lab report table=dem", {"table=demo"}, {"table=table2"}),
        ("regmean-lab report ta", {"table="}, {"title="}),
    ],
)
def test_shells_complete_verbs_and_what_each_one_takes(
    line: str,
    expected: set[str],
    absent: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert run_main(monkeypatch, "-sc", "query=bash") == 0
    suggested = set(capsys.readouterr().out.split())
    assert expected <= suggested
    assert not absent & suggested


def test_bash_learns_completion_from_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--shell-completion", "install=bash") == 0
    script = capsys.readouterr().out
    assert script.rstrip().endswith("hydra_bash_completion regmean-lab")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
