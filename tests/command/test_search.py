"""``hydra/sweeper=optuna``: settings are searched on dev, and the best of them is run on test once."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf
from test_selection import ScoringLauncher, common

from regmean_lab.command.overrides import override_problems
from regmean_lab.command.plan import show_plan
from regmean_lab.config.grids import Composer, SweepError
from regmean_lab.config.search import Search
from regmean_lab.report.read import find_runs
from regmean_lab.results import RESULT_FILE, Result, read_result
from regmean_lab.sweeps.search import run_search
from regmean_lab.sweeps.summary import SWEEPS_FOLDER, summarise

__all__ = ["common"]

ALPHA = "method.off_diagonal=interval(0,1)"
BEST = 0.62
MEMBERS = ["members=[tec,isear]", "method=regmean"]


@dataclass
class Quadratic(ScoringLauncher):
    """Scores on dev that are best at `BEST`: 80 − 100 (α − BEST)²; on test 50 + 10 α."""

    stop_after: int | None = None
    alphas: list[float] = field(default_factory=list)

    def launch(self, jobs: Sequence[Sequence[str]], number: int) -> list[JobReturn]:
        if self.stop_after is not None and len(self.jobs) >= self.stop_after:
            raise KeyboardInterrupt
        return super().launch(jobs, number)

    def score(self, config: Any) -> float:
        method = config.method
        if config.evaluate_on == "test":
            return 50 + 10 * method.off_diagonal
        self.alphas.append(method.off_diagonal)
        return 80 - 100 * (method.off_diagonal - BEST) ** 2


def searched(
    common: list[str],
    output: Path,
    launcher: ScoringLauncher,
    *overrides: str,
    params: dict[str, str] | None = None,
    **settings: Any,
) -> dict[str, Result]:
    """Runs a search; the results on test by their members."""
    search = Search(**{"n_trials": 6, **settings})
    run_search(params or {}, [], [*common, *overrides, f"paths.output_dir={output}"], launcher.launch, output, search)
    results = map(read_result, sorted(output.rglob(RESULT_FILE)))
    return {"+".join(one.members): one for one in results if one.configuration["evaluate_on"] == "test"}


def test_the_best_trial_on_dev_is_run_once_on_test(
    common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Quadratic()
    output = tmp_path / "outputs"
    result = searched(common, output, launcher, *MEMBERS, ALPHA, n_trials=20)["tec+isear"]
    trials = [job for job in launcher.jobs if "evaluate_on=dev" in job]
    assert len(trials) == 20
    assert len(launcher.jobs) == 21
    best = min(launcher.alphas, key=lambda alpha: abs(alpha - BEST))
    assert abs(best - BEST) < 0.03  # TPE has come near; 20 points at even distances would be 0.025 away at most
    assert result.configuration["method"]["off_diagonal"] == best
    assert result.mean_in_domain == 50 + 10 * best
    assert result.selection is not None
    assert result.selection["chosen"] == f"method.off_diagonal={best}"
    assert result.selection["score"] == 80 - 100 * (best - BEST) ** 2
    expected = [
        {"settings": f"method.off_diagonal={alpha}", "score": 80 - 100 * (alpha - BEST) ** 2}
        for alpha in launcher.alphas
    ]
    assert result.selection["among"] == expected
    told = {key: result.selection[key] for key in ("on", "by", "keys", "sampler", "seed", "trials", "failed")}
    assert told == {
        **{"on": "dev", "by": "mean_in_domain", "keys": ["method.off_diagonal"]},
        **{"sampler": "tpe", "seed": 1, "trials": 20, "failed": 0},
    }
    assert len(find_runs([output]).runs) == 21
    summarise(output / SWEEPS_FOLDER / "sweep")
    assert "(mean score 8" in (shown := capsys.readouterr().out) or "(mean score 7" in shown
    assert "the best of 20 trials by tpe, seed 1)" in shown


def test_the_same_seed_gives_the_same_trials(common: list[str], tmp_path: Path) -> None:
    drawn = []
    for number, seed in enumerate((1, 1, 2)):
        launcher = Quadratic()
        searched(common, tmp_path / str(number), launcher, *MEMBERS, ALPHA, seed=seed)
        drawn.append(launcher.alphas)
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 6


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "qmc"])
def test_an_interrupted_search_goes_on_where_it_was(common: list[str], tmp_path: Path, sampler: str) -> None:
    overrides = [*MEMBERS, ALPHA, "method.regularization=ridge", "method.ridge=tag(log,interval(1e-3,10))"]
    whole = Quadratic()
    expected = searched(common, tmp_path / "whole", whole, *overrides, sampler=sampler)
    first, second = Quadratic(stop_after=3), Quadratic()
    with pytest.raises(KeyboardInterrupt):
        searched(common, tmp_path / "parts", first, *overrides, sampler=sampler)
    (tmp_path / "parts" / SWEEPS_FOLDER / "sweep" / "jobs").rename(tmp_path / "records of the first command")
    found = searched(common, tmp_path / "parts", second, *overrides, sampler=sampler)
    assert first.alphas + second.alphas == whole.alphas
    assert len(second.alphas) == 3
    assert found["tec+isear"].selection == expected["tec+isear"].selection


def test_every_combination_of_members_and_seeds_has_a_search_of_its_own(common: list[str], tmp_path: Path) -> None:
    launcher = Quadratic()
    found = searched(
        *(common, tmp_path, launcher, "members=[tec,isear],[tec,crowdflower]", "method=regmean"),
        params=dict([ALPHA.split("=")]),  # as in YAML
        n_trials=3,
    )
    assert set(found) == {"tec+isear", "tec+crowdflower"}
    assert [result.selection["trials"] for result in found.values() if result.selection] == [3, 3]
    assert len(launcher.jobs) == 8


def test_a_grid_is_every_combination_once(common: list[str], tmp_path: Path) -> None:
    launcher = Quadratic()
    swept = ["method.off_diagonal=0.2,0.6,0.9", "method.keep_top=range(0,2)"]
    result = searched(common, tmp_path, launcher, *MEMBERS, *swept, sampler="grid", n_trials=100)["tec+isear"]
    dev = [OmegaConf.from_dotlist([text for text in job if text.startswith("method.")]) for job in launcher.jobs[:-1]]
    drawn = [(one.method.off_diagonal, one.method.keep_top) for one in dev]
    assert drawn == [(alpha, top) for alpha in (0.2, 0.6, 0.9) for top in (0, 1)]
    assert result.configuration["method"]["off_diagonal"] == 0.6
    assert result.selection is not None and result.selection["sampler"] == "grid"


def test_numbers_of_lists_are_drawn_together(common: list[str], tmp_path: Path) -> None:
    """Coefficients add up to 1; weights of a block are as they are drawn."""
    launcher = ScoringLauncher()
    space = [*(f"method.{key}.{member}=interval(0,1)" for key in ("coefficients",) for member in (0, 1))]
    searched(common, tmp_path / "a", launcher, "members=[tec,isear]", "method=fisher", *space, sampler="cmaes")
    for job in launcher.jobs:
        numbers = Composer().compose(job).method.coefficients
        assert sum(numbers) == pytest.approx(1, abs=1e-9)
        assert all(0 <= number <= 1 for number in numbers)
    space = [f"method.parts.block_{block}.weights.{member}=interval(-1,2)" for block in (0, 1) for member in (0, 1)]
    launcher = ScoringLauncher()
    found = searched(common, tmp_path / "b", launcher, "members=[tec,isear]", "method=simple", *space, n_trials=5)
    parts = found["tec+isear"].configuration["method"]["parts"]
    assert {part: len(own["weights"]) for part, own in parts.items()} == {"block_0": 2, "block_1": 2}
    assert found["tec+isear"].selection["keys"] == ["method.parts.block_0.weights", "method.parts.block_1.weights"]


def test_failed_trials_are_left_out_and_told(common: list[str], tmp_path: Path) -> None:
    launcher = Quadratic(failing={"method.off_diagonal=0.6"})
    with pytest.raises(SystemExit):
        searched(common, tmp_path, launcher, *MEMBERS, "method.off_diagonal=0.2,0.6,0.9", sampler="grid")
    (chosen,) = [job for job in launcher.jobs if "evaluate_on=test" in job]
    assert "method.off_diagonal=0.9" in chosen  # 0.28 away from the best, 0.2 is 0.42
    (result,) = [one for one in map(read_result, tmp_path.rglob(RESULT_FILE)) if one.selection]
    assert (result.selection["trials"], result.selection["failed"]) == (3, 1)


@pytest.fixture
def sound(common: list[str]) -> Iterator[list[str]]:
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()  # the command makes its own
    yield [*common, *MEMBERS, "hydra/sweeper=optuna"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], ["hydra/sweeper=optuna: there is nothing to search"]),
        (["method.regularization=interval(0,1)"], ["method.regularization: an interval is of numbers"]),
        (["method.diagonal=interval(0,1)"], ["method.diagonal: an interval is of numbers, and it is False"]),
        (["method.keep_top=interval(0,2)"], ["method.keep_top: it is a whole number; write method.keep_top='int("]),
        (["method.exclude_layers=interval(0,2)"], ["method.exclude_layers: an interval is of numbers, and it is a li"]),
        (["seed=interval(1,3)", ALPHA], ["seed: a search chooses among settings (method.*, training.*, statistics.*)"]),
        ([ALPHA, "evaluate_on=test"], ["evaluate_on=test: a search evaluates its trials on dev"]),
        (["method.off_diagonal=interval(0,1.5)"], ["method.off_diagonal: expected"]),
        (["method.ridge=tag(log,interval(0,1))"], ["method.ridge: a logarithmic scale begins above 0, got 0"]),
        (["method.ridge=interval(1,0)"], ["method.ridge: expected an interval from a smaller number to a larger one"]),
        (["method.coefficients.1=interval(0,1)"], ["method.coefficients: all numbers of a list are searched, from"]),
        (["method.coefficients.0=interval(0,1)"], ["method.coefficients: 1 numbers for 2 members"]),
        (["method.off_diagnal=interval(0,1)"], ["method.off_diagnal: there is no such key; did you mean"]),
        (
            [ALPHA, "hydra.sweeper.sampler=grid"],
            ["method.off_diagonal: hydra.sweeper.sampler=grid runs through values"],
        ),
        ([ALPHA, "hydra.sweeper.sampler=cmaes"], ["hydra.sweeper.sampler=cmaes: it searches two settings or more"]),
        (
            [ALPHA, "method.regularization=ridge,shrinkage", "hydra.sweeper.sampler=cmaes"],
            ["method.regularization: hydra.sweeper.sampler=cmaes draws numbers"],
        ),
        (
            [ALPHA, "hydra.sweeper.n_trials=0", "hydra.sweeper.sampler=tpee", "hydra.sweeper.select=worst"],
            [
                "hydra.sweeper.n_trials: expected a whole number of at least 1, got 0",
                "hydra.sweeper.sampler: tpee: did you mean tpe?",
                "hydra.sweeper.select: expected best or null, got 'worst'",
            ],
        ),
        ([ALPHA, "hydra/sweeper=optna"], ["hydra/sweeper=optna: there is no such option; did you mean optuna"]),
        ([ALPHA, "hydra/sweeper=staged"], ["method.off_diagonal: an interval has no values to run through"]),
    ],
)
def test_wrong_searches_are_told_before_any_work(sound: list[str], overrides: list[str], expected: list[str]) -> None:
    found = override_problems([*sound, *overrides])
    assert len(found) == len(expected), found
    for problem, beginning in zip(found, expected, strict=True):
        assert problem.startswith(beginning), problem


def test_a_sound_search_has_no_problems(sound: list[str]) -> None:
    assert override_problems([*sound, ALPHA]) == []
    assert override_problems([*sound, "method.parts.block_1.off_diagonal=interval(0,1)"]) == []


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr("regmean_lab.config.search.find_spec", lambda name: None if name == "cmaes" else there(name))
    (problem,) = Search(sampler="cmaes").problems()
    assert problem == (
        'hydra.sweeper.sampler=cmaes: cmaes not installed; get what it needs with: pip install "regmean-lab[optuna]"'
    )
    assert Search(sampler="grid").problems() == Search().problems() == []


def test_a_split_that_is_not_there_is_told_before_any_work(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regmean_lab.suites.emotion import EmotionSuite

    whole = EmotionSuite.examples
    monkeypatch.setattr(
        EmotionSuite, "examples", lambda self, corpus, split: [] if split == "dev" else whole(self, corpus, split)
    )
    launcher = Quadratic()
    with pytest.raises(
        SweepError, match=r"tec has an empty dev split, by which a search chooses\n.*isear has an empty"
    ):
        searched(common, tmp_path / "outputs", launcher, *MEMBERS, ALPHA)
    assert launcher.jobs == []


def test_a_plan_counts_the_trials(sound: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = ["members=[tec,isear],[tec,crowdflower]", "hydra.sweeper.n_trials=30"]
    assert show_plan([*sound, ALPHA, *more])
    told = capsys.readouterr().out
    assert "2 searches of 30 trials each, on dev" in told
    assert "0 found in the zoo, 3 to train" in told
    assert "merges      60 (60 regmean)" in told
    assert "note: searched by tpe, seed 1: method.off_diagonal" in told
    assert "note: then the best trial of each search is run on test" in told


def test_an_old_result_of_a_job_that_fails_now_is_not_its_score(common: list[str], tmp_path: Path) -> None:
    """Other data, so that the trials run again; one fails, whose result of before is the best."""
    overrides = [*MEMBERS, "method.off_diagonal=0.2,0.6,0.9"]
    searched(common, tmp_path, Quadratic(), *overrides, sampler="grid")
    path = next((tmp_path / "data").rglob("tec/train.jsonl"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    (tmp_path / SWEEPS_FOLDER).rename(tmp_path / "records of the first command")
    with pytest.raises(SystemExit):
        searched(common, tmp_path, Quadratic(failing={"method.off_diagonal=0.6"}), *overrides, sampler="grid")
    chosen = [one.selection for one in map(read_result, tmp_path.rglob(RESULT_FILE)) if one.selection]
    assert sorted((one["chosen"], one["failed"]) for one in chosen) == [
        ("method.off_diagonal=0.6", 0),
        ("method.off_diagonal=0.9", 1),
    ]
