from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from regmean_lab.command.overrides import override_problems
from regmean_lab.config.resolvers import register_resolvers


@pytest.fixture(autouse=True)
def registered() -> None:
    register_resolvers()


@pytest.fixture
def sound(tmp_path: Path, write_emotions: Callable[[Path], Path]) -> list[str]:
    """Overrides of a job that could run."""
    return [
        "suite=emotion",
        "suite.out_of_domain=[emoint]",
        "model=pico_bert",
        "members=[tec,isear]",
        f"paths.data_dir={write_emotions(tmp_path)}",
        f"paths.zoo_dir={tmp_path / 'zoo'}",
    ]


def test_a_sound_command_line_has_no_problems(sound: list[str]) -> None:
    assert override_problems(sound) == []
    assert override_problems([*sound, "method=regmean,simple", "+method.coefficients=[0.5,0.5]"]) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method=regmaen", "method=regmaen: there is no such option; did you mean regmean"),
        ("suite=emotions", "suite=emotions: there is no such option; did you mean emotion"),
        ("model=robert_base", "did you mean roberta_base"),
        ("method=simple,fischer", "method=fischer: there is no such option; did you mean fisher"),
        ("experiment=emotion_pairwse", "did you mean emotion_pairwise"),
        ("+multirun_sweeps=dmeo", "did you mean demo"),
        ("method.off_diagnal=1", "method.off_diagnal: there is no such key; did you mean method.off_diagonal"),
        ("off_diagonal=1", "did you mean method.off_diagonal"),
        ("learning_rate=1", "training.learning_rate"),
        ("members", "missing EQUAL"),
        ("members=[a", "members=[a: "),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(override: str, expected: str) -> None:
    problems = override_problems([override], jobs_too=False)
    assert len(problems) == 1
    assert expected in problems[0]


@pytest.mark.parametrize("more", [[], ["plan=true"], ["members=[]"], ["seed=1,2"]])
def test_too_few_members_of_an_incremental_experiment_are_told_in_one_message(more: list[str]) -> None:
    """Also where the jobs are not tried, as for a plan."""
    arguments = ["experiment=emotion_incremental", "model=pico_bert", "members=[tec]", *more]
    for jobs_too in (True, False):
        (problem,) = override_problems(arguments, jobs_too=jobs_too)
        assert problem.startswith("members: too few for this experiment")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("members=tec", "members: expected a list, got tec; in brackets it is one: 'members=[tec]'"),
        ("members=tec,isear", "members: expected a list, got tec, isear; in brackets it is one: 'members=[tec,isear]'"),
        ("paths.data_dir=a=b", "in quotes it can: \"paths.data_dir='a=b'\""),
        ("members={a:1}", "members={a:1}: Cannot merge DictConfig with ListConfig"),
    ],
)
def test_values_that_want_brackets_or_quotes(sound: list[str], override: str, expected: str) -> None:
    (problem,) = override_problems([text for text in sound if not text.startswith("members")] + [override])
    assert expected in problem


def test_all_misspelt_options_are_told_at_once() -> None:
    assert len(override_problems(["method=regmaen", "suite=emotions", "model=no_such"], jobs_too=False)) == 3


def test_all_misspelt_keys_are_told_at_once() -> None:
    keys = ["trainng.epochs=1", "seeed=2", "method.off_diagnal=1"]
    assert len(override_problems(keys, jobs_too=False)) == 3


def test_all_syntax_errors_are_told_at_once() -> None:
    assert len(override_problems(["members=[a", "seed", "method=simple"], jobs_too=False)) == 2


def test_keys_of_hydra_and_new_or_deleted_keys_are_left_to_hydra() -> None:
    overrides = ["hydra.job.name=x", "++trainer.devices=1", "~method.coefficients", "hydra/launcher=basic"]
    assert override_problems(overrides, jobs_too=False) == []


def test_every_value_of_a_sweep_is_tried(sound: list[str]) -> None:
    problems = override_problems([*sound, "method.off_diagonal=0.5,2,3", "seed=1,-5"])
    assert len(problems) == 3
    assert {problem.partition(":")[0] for problem in problems} == {"method.off_diagonal", "seed"}


def test_every_value_of_an_experiments_own_sweep_is_tried(sound: list[str]) -> None:
    """Of the pairs of the experiment, most have no data here."""
    without_members = [text for text in sound if not text.startswith("members")]
    problems = override_problems([*without_members, "experiment=emotion_pairwise"])
    assert problems
    for corpus in ("dailydialog", "tales-emotion"):
        assert any(corpus in problem for problem in problems)
    assert not any("/tec/" in problem or "/crowdflower/" in problem for problem in problems)


def test_an_experiment_may_be_narrowed(sound: list[str]) -> None:
    assert override_problems([*sound, "experiment=emotion_pairwise"]) == []


def test_missing_data_is_told_with_file_and_remedy(sound: list[str], tmp_path: Path) -> None:
    (tmp_path / "emotion_splits" / "tec" / "dev.jsonl").unlink()
    (problem,) = override_problems(sound)
    assert str(tmp_path / "emotion_splits" / "tec" / "dev.jsonl") in problem
    assert "data/README.md" in problem


def test_a_wrong_type_is_told(sound: list[str]) -> None:
    (problem,) = override_problems([*sound, "seed=first"])
    assert "seed" in problem
    assert "first" in problem
