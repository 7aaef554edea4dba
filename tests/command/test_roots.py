"""Experiments with a root configuration of their own: how the command finds, checks and runs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import regmean_lab.checkpoints.collect_command
from regmean_lab.__main__ import EXIT_CONFIGURATION, main
from regmean_lab.command.overrides import compose_first_job, override_problems
from regmean_lab.config.checkpoint_commands import ROOTS, RootError, root_module, split_root
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models.pretrained import ModelError

COLLECT = "collect_statistics"
VERB_OF = {COLLECT: "collect", "evaluate": "evaluate", "extract_adapter": "extract", "merge_checkpoints": "merge"}


@pytest.fixture(autouse=True)
def registered(compose_job: Callable[..., Any]) -> None:
    compose_job()  # registers schemas and resolvers


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["suite=ner", "-m"], (None, ["suite=ner", "-m"])),
        (["experiment=emotion_pairwise", "seed=1"], (None, ["experiment=emotion_pairwise", "seed=1"])),
        (["experiment=a,b", "-m"], (None, ["experiment=a,b", "-m"])),
        (["data=x", f"experiment={COLLECT}", "-m"], (COLLECT, ["data=x", "-m"])),
        (["experiment=merge_checkpoints"], ("merge_checkpoints", [])),
        ([], (None, [])),
    ],
)
def test_the_experiment_chooses_the_root(arguments: list[str], expected: tuple[str | None, list[str]]) -> None:
    assert split_root(arguments) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        [f"experiment={COLLECT},merge_checkpoints"],
        [f"experiment=emotion_pairwise,{COLLECT}"],
        [f"experiment={COLLECT}", "experiment=emotion_pairwise"],
    ],
)
def test_experiments_of_several_roots_do_not_mix(arguments: list[str]) -> None:
    with pytest.raises(RootError, match=r"experiment: .* has a separate configuration"):
        split_root(arguments)


@pytest.mark.parametrize("name", sorted(ROOTS))
def test_every_root_composes_and_has_what_the_command_needs(name: str, tmp_path: Path) -> None:
    module = root_module(name)
    assert callable(module.check) and callable(module.run)
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        config = compose_first_job([f"paths.output_dir={tmp_path}", "trainer=cpu"], name)
    assert config.experiment == name
    assert config.trainer.accelerator == "cpu"
    assert config.paths.output_dir == str(tmp_path)
    with pytest.raises(ConfigurationError, match="required, but not given"):
        module.check(config)


def test_unknown_keys_and_options_are_answered_with_the_nearest() -> None:
    first, second = override_problems(["chekpoint=a", "trainer.precison=b"], root=COLLECT)
    assert first == "chekpoint: there is no such key; did you mean checkpoint?"
    assert second.startswith("trainer.precison: there is no such key; did you mean trainer.precision")
    assert override_problems(["trainer=cpx"], root=COLLECT) == [
        "trainer=cpx: there is no such option; did you mean cpu?"
    ]
    assert override_problems(["training.epochs=3"], root=COLLECT, jobs_too=False)


def test_a_misspelt_root_is_answered_with_it() -> None:
    (problem,) = override_problems(["experiment=colect_statistics"])
    assert problem.startswith("experiment=colect_statistics: there is no such option; did you mean collect_statistics")


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Exit status of the command; None where it just returned."""
    monkeypatch.setattr(sys, "argv", ["regmean_lab", *arguments])
    try:
        main()
    except SystemExit as error:
        return error.code
    return None


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Checkpoint and folder of each job of the root that runs; one called ``broken`` fails."""
    seen: list[tuple[str, Path]] = []

    def check(config: DictConfig) -> None:
        if config.checkpoint == "unknown":
            raise ConfigurationError(["checkpoint: unknown"])

    def run(config: DictConfig, folder: Path) -> None:
        seen.append((config.checkpoint, folder))
        if config.checkpoint == "broken":
            raise ModelError("checkpoint: broken")

    monkeypatch.setattr(regmean_lab.checkpoints.collect_command, "check", check)
    monkeypatch.setattr(regmean_lab.checkpoints.collect_command, "run", run)
    return seen


def test_one_job_runs_in_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jobs: list[tuple[str, Path]]
) -> None:
    arguments = [f"experiment={COLLECT}", "checkpoint=models/mine", "data=x.txt", f"paths.output_dir={tmp_path}"]
    assert run_main(monkeypatch, *arguments) is None
    ((checkpoint, folder),) = jobs
    assert checkpoint == "models/mine"
    assert folder.parent == tmp_path / COLLECT
    assert folder.name.startswith("mine-")
    assert folder.is_dir()


def test_a_sweep_runs_every_job_and_fails_if_one_does(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    jobs: list[tuple[str, Path]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = ["checkpoint=a,broken,b", "data=x.txt", f"paths.output_dir={tmp_path}"]
    assert run_main(monkeypatch, *arguments, "-m", f"experiment={COLLECT}") == 1
    assert [checkpoint for checkpoint, _ in jobs] == ["a", "broken", "b"]
    assert len({folder for _, folder in jobs}) == 3
    captured = capfd.readouterr()
    assert "checkpoint: broken" in captured.out + captured.err


def test_a_failing_job_has_the_status_of_a_failing_job(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    jobs: list[tuple[str, Path]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = [f"experiment={COLLECT}", "checkpoint=broken", "data=x.txt", f"paths.output_dir={tmp_path}"]
    assert run_main(monkeypatch, *arguments) == 1
    shown = capfd.readouterr().err
    assert "checkpoint: broken" in shown
    assert "Traceback" not in shown


def test_a_configuration_that_cannot_work_runs_nothing(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    jobs: list[tuple[str, Path]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [f"experiment={COLLECT}", "data=x.txt", f"paths.output_dir={tmp_path}"]
    assert run_main(monkeypatch, *arguments, "checkpoint=a,unknown", "-m") == EXIT_CONFIGURATION
    assert "- checkpoint: unknown" in capsys.readouterr().err
    assert run_main(monkeypatch, *arguments, "checkpoint=a", "nothing=1") == EXIT_CONFIGURATION
    assert "- nothing: there is no such key" in capsys.readouterr().err
    assert run_main(monkeypatch, "checkpoint=a", f"experiment={COLLECT},emotion_pairwise") == EXIT_CONFIGURATION
    assert "a separate configuration" in capsys.readouterr().err
    assert jobs == []


@pytest.mark.parametrize("root", ["config", *sorted(ROOTS)])
def test_help_mentions_the_roots(root: str) -> None:
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        shown = compose(root, return_hydra_config=True).hydra.help.template
    mentioned = {name for name in ROOTS if f"regmean-lab {VERB_OF[name]} " in shown}
    assert mentioned == (set(ROOTS) if root == "config" else {root})


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs whose checkpoints and data need not be there."""
    for name in ROOTS:
        monkeypatch.setattr(root_module(name), "check", lambda config: None)


MERGE = ["checkpoints=[a,b]", "method=simple,slerp"]


@pytest.mark.parametrize(
    ("arguments", "jobs"),
    [
        ([*MERGE, "output=x"], 2),
        ([*MERGE, "output=x,./x"], 4),
        (["checkpoints=[a,b]", "method=simple", "output=x,x/y"], 2),
        ([*MERGE, "output='x/${method.name}'"], 0),
        ([*MERGE], 0),
        (["checkpoints=[a,b]", "method=simple", "output=x"], 0),
        (["checkpoints=[a,b]", "method=simple", "output=x,xy"], 0),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_jobs_that_would_write_one_folder_are_refused(arguments: list[str], jobs: int) -> None:
    problems = override_problems(arguments, root="merge_checkpoints")
    if not jobs:
        assert problems == []
        return
    (problem,) = problems
    assert problem.startswith(f"output: {jobs} jobs of the sweep would write {Path('x').absolute()}")
    assert ("output='FOLDER/${method.name}'" in problem.replace("'\"'\"'", "'")) == ("method=simple,slerp" in arguments)


@pytest.mark.usefixtures("unchecked")
def test_jobs_that_would_push_to_one_repository_are_refused() -> None:
    (problem,) = override_problems([*MERGE, "push=me/merged"], root="merge_checkpoints")
    assert problem.startswith("push: 2 jobs of the sweep would push to me/merged, each over what the one before")
    assert override_problems([*MERGE, "push='me/merged-${method.name}'"], root="merge_checkpoints") == []
    statistics = ["checkpoint=owner/a,owner/b", "data=x.txt", "push=me/one"]
    (problem,) = override_problems(statistics, root=COLLECT)
    assert problem.startswith("push: 2 jobs of the sweep would push to me/one")


@pytest.mark.usefixtures("unchecked")
def test_jobs_that_would_write_the_same_statistics_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    a, data = f"checkpoint={tmp_path / 'a'}", "data=x.txt"
    (problem,) = override_problems([a, data, "form=packed,full"], root=COLLECT)
    assert problem.startswith(f"checkpoint: 2 jobs of the sweep would write {tmp_path}/a/statistics/gram.safetensors")
    (problem,) = override_problems([f"checkpoint={tmp_path / 'a'},owner/b", data, "output=x"], root=COLLECT)
    assert problem.startswith("output: 2 jobs")
    assert override_problems([a, data, "kinds=[gram],[fisher]"], root=COLLECT) == []
    assert override_problems(["checkpoint=owner/a,owner/b", data], root=COLLECT) == []
