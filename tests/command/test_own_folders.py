"""``--config-dir`` and ``hydra.searchpath``: a person's own methods, suites and experiments."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from regmean_lab.__main__ import EXIT_CONFIGURATION, main
from regmean_lab.command.own_folders import split_folders
from regmean_lab.config.locations import use_own_folders

YAML = {
    "method/gentle.yaml": "defaults: [regmean, _self_]\noff_diagonal: 0.25\n",
    "suite/short.yaml": "defaults: [sentiment, _self_]\ntrain_examples: 7\n",
    "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /method: gentle\n  - override /suite: short\n"
    "experiment: mine\nseed: 9\n",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name, text in YAML.items():
        path = tmp_path / "own conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield tmp_path / "own conf"
    use_own_folders([])


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["regmean-lab", *arguments])
    try:
        main()
    except SystemExit as error:
        return int(error.code or 0)
    return 0


@pytest.mark.parametrize(
    "given", [["--config-dir", "own conf"], ["--config-dir=own conf"], ["hydra.searchpath=['own conf']"]]
)
def test_an_experiment_of_ones_own_composes(
    given: list[str], own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, *given, "experiment=mine", "--cfg", "job") == 0
    config = OmegaConf.create(capsys.readouterr().out)
    assert (config.experiment, config.seed) == ("mine", 9)
    assert (config.method.name, config.method.off_diagonal) == ("regmean", 0.25)
    assert (config.suite.name, config.suite.train_examples) == ("sentiment", 7)


def test_jobs_plans_and_wrong_names_know_the_folder(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs: list[dict[str, object]] = []
    monkeypatch.setattr("regmean_lab.evaluation.checks.check_files", lambda settings: None)
    monkeypatch.setattr("regmean_lab.__main__.show_plan", lambda overrides: jobs.append({"plan": overrides}) or True)
    assert run_main(monkeypatch, "plan", "--config-dir", "own conf", "method=gentle,simple", "-m") == 0
    assert jobs == [{"plan": ["method=gentle,simple", "plan=true"]}]
    assert run_main(monkeypatch, "--config-dir", "own conf", "method=gentel") == EXIT_CONFIGURATION
    assert "did you mean gentle or ensemble?" in capsys.readouterr().err
    assert run_main(monkeypatch, "--config-dir", "own conf", "--help") == 0
    assert "gentle" in capsys.readouterr().out
    assert run_main(monkeypatch, "method=gentle") == EXIT_CONFIGURATION  # another command does not


def test_a_folder_that_is_not_there_is_told(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config-dir", "nowhere", "hydra.searchpath=[elsewhere,pkg://here]"]
    assert run_main(monkeypatch, *arguments) == EXIT_CONFIGURATION
    told = capsys.readouterr().err
    assert "--config-dir: there is no folder 'nowhere'" in told
    assert "hydra.searchpath: there is no folder 'elsewhere'" in told
    assert split_folders(["hydra.searchpath=[pkg://here]", "-m"]) == (["pkg://here"], ["-m"], [])


def test_an_experiment_that_varies_something_has_to_say_that_it_is_a_sweep(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    varies = "# @package _global_\nexperiment: varies\nhydra:\n  sweeper:\n    params: {seed: '1,2'}\n"
    (own / "experiment/varies.yaml").write_text(varies)
    monkeypatch.setattr("regmean_lab.evaluation.checks.check_files", lambda settings: None)
    runs: list[str] = []
    monkeypatch.setattr("regmean_lab.__main__._hydra_command", lambda config: lambda: runs.append(config))
    arguments = ["--config-dir", "own conf", "experiment=varies"]
    assert run_main(monkeypatch, *arguments) == EXIT_CONFIGURATION
    assert "hydra.sweeper: it varies seed, but nothing says that this is a sweep" in capsys.readouterr().err
    assert runs == []
    assert run_main(monkeypatch, "-m", *arguments) == 0
    (own / "experiment/varies.yaml").write_text(varies.replace("hydra:\n", "hydra:\n  mode: MULTIRUN\n"))
    assert run_main(monkeypatch, *arguments) == 0
    assert runs == ["config", "config"]
