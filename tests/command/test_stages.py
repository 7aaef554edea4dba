"""The order of a sweep's stages, and what happens when a job of one fails; jobs are not really run here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hydra import compose
from hydra.core.utils import JobReturn, JobStatus

from regmean_lab.config.grids import SweepError, whole_composition
from regmean_lab.sweeps.lost_jobs import lost_job
from regmean_lab.sweeps.stages import run_sweep
from regmean_lab.sweeps.steps import STEP_KEY, Step, step_of
from regmean_lab.sweeps.summary import SWEEPS_FOLDER


@dataclass
class FakeLauncher:
    """Notes what it is to run; jobs that have all overrides of `failing`, and its step, fail, or are `lost`."""

    failing: set[str] = field(default_factory=set)
    lost: str | None = None
    batches: list[list[list[str]]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def launch(self, jobs: Sequence[Sequence[str]], number: int) -> list[JobReturn]:
        self.batches.append([list(job) for job in jobs])
        self.numbers.append(number)
        failed = [
            bool(self.failing) and self.failing <= set(job) and steps([list(job)]) == steps([sorted(self.failing)])
            for job in jobs
        ]
        if self.lost is not None:
            return [
                lost_job(job, self.lost) if part else JobReturn(status=JobStatus.COMPLETED)
                for job, part in zip(jobs, failed, strict=True)
            ]
        return [JobReturn(status=JobStatus.FAILED if part else JobStatus.COMPLETED) for part in failed]


def records(tmp_path: Path) -> list[dict]:
    folder = tmp_path / "outputs" / SWEEPS_FOLDER / "sweep" / "jobs"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def steps(batch: list[list[str]]) -> set[Step | None]:
    """What each of the jobs is, as the job itself finds out: Hydra composes its overrides."""
    found = set()
    for job in batch:
        texts = [text for text in job if text.startswith(f"+{STEP_KEY}")]
        config = whole_composition("config", texts)
        found.add(step_of(config.hydra.sweeper))
    return found


def training(member: str) -> str:
    return next(text for text in Step(member).overrides([], "x/y") if STEP_KEY in text)


def collecting(member: str) -> str:
    return next(text for text in Step(member, "gram").overrides([], "x/y") if STEP_KEY in text)


PAIRS = {"members": "[tec,isear],[tec,crowdflower]", "method": "ensemble,regmean"}


def test_members_are_trained_then_statistics_collected_then_the_jobs_run(common: list[str], tmp_path: Path) -> None:
    launcher = FakeLauncher()
    run_sweep(PAIRS, [], common, launcher.launch, tmp_path / "outputs")
    train, collect, jobs = launcher.batches
    members = ("tec", "isear", "crowdflower")
    assert steps(train) == {Step(member) for member in members}
    assert len(train) == 3
    assert steps(collect) == {Step(member, "gram") for member in members}
    assert len(collect) == 3
    assert len(jobs) == 4
    assert steps(jobs) == {None}
    folders = [text for job in (*train, *collect) for text in job if text.startswith("hydra.sweep.subdir=")]
    assert len(set(folders)) == 6  # logs of each are its own
    assert launcher.numbers == [0, 3, 6]


def test_comparators_need_no_statistics_and_an_empty_stage_is_not_launched(common: list[str], tmp_path: Path) -> None:
    launcher = FakeLauncher()
    run_sweep(
        {"method": "ensemble,individual", "members": "[tec,isear]"}, [], common, launcher.launch, tmp_path / "outputs"
    )
    assert [len(batch) for batch in launcher.batches] == [2, 2]


def test_jobs_that_lack_a_member_are_not_run_and_say_why(common: list[str], tmp_path: Path) -> None:
    launcher = FakeLauncher(failing={training("crowdflower")})
    with pytest.raises(SystemExit) as caught:
        run_sweep(PAIRS, [], common, launcher.launch, tmp_path / "outputs")
    assert caught.value.code == 1
    _, collect, jobs = launcher.batches
    assert steps(collect) == {Step(member, "gram") for member in ("tec", "isear")}
    assert {text for job in jobs for text in job if text.startswith("members=")} == {"members=[tec,isear]"}
    assert len(jobs) == 2
    errors = [record["error"] for record in records(tmp_path)]
    assert errors == ["not run: crowdflower, seed 1, could not be trained"] * 2


def test_jobs_that_lack_statistics_are_not_run_and_the_others_are(common: list[str], tmp_path: Path) -> None:
    launcher = FakeLauncher(failing={collecting("tec")})
    with pytest.raises(SystemExit):
        run_sweep(PAIRS, [], common, launcher.launch, tmp_path / "outputs")
    *_, jobs = launcher.batches
    assert {text for job in jobs for text in job if text.startswith("method=")} == {"method=ensemble"}
    assert {record["error"] for record in records(tmp_path)} == {
        "not run: gram statistics of tec, seed 1 could not be collected"
    }


def test_a_job_that_fails_makes_the_sweep_fail_after_all_have_run(common: list[str], tmp_path: Path) -> None:
    launcher = FakeLauncher(failing={"method=ensemble"})
    with pytest.raises(SystemExit) as caught:
        run_sweep(PAIRS, [], common, launcher.launch, tmp_path / "outputs")
    assert caught.value.code == 1
    assert len(launcher.batches[-1]) == 4


def test_a_step_that_is_lost_leaves_a_record_of_its_own(common: list[str], tmp_path: Path) -> None:
    """Its process could not write one."""
    launcher = FakeLauncher(failing={training("crowdflower")}, lost="job 3 was cancelled")
    with pytest.raises(SystemExit) as caught:
        run_sweep(PAIRS, [], common, launcher.launch, tmp_path / "outputs", last="train")
    assert caught.value.code == 1
    record, *others = records(tmp_path)
    assert record["error"] == "train crowdflower: job 3 was cancelled"
    assert [other["error"] for other in others] == ["not run: crowdflower, seed 1, could not be trained"] * 2
    place = launcher.batches[0].index(next(job for job in launcher.batches[0] if training("crowdflower") in job))
    (subdir,) = (text for text in launcher.batches[0][place] if text.startswith("hydra.sweep.subdir="))
    assert record["folder"] == str(tmp_path / "outputs" / subdir.partition("=")[2].strip('"'))


def test_a_job_that_is_lost_is_told_with_the_reason(common: list[str], tmp_path: Path) -> None:
    launcher = FakeLauncher(failing={"method=ensemble", "members=[tec,isear]"}, lost="job 3 was cancelled")
    with pytest.raises(SystemExit):
        run_sweep(PAIRS, [], common, launcher.launch, tmp_path / "outputs")
    (record,) = records(tmp_path)
    assert record["error"] == "job 3 was cancelled"
    assert {"method=ensemble", "members=[tec,isear]"} <= set(record["overrides"])


def test_a_job_whose_configuration_is_wrong_is_told_and_the_others_run(common: list[str], tmp_path: Path) -> None:
    launcher = FakeLauncher()
    params = {"method": "simple", "method.coefficients": "[0.5,0.5],[1,1,1]", "members": "[tec,isear]"}
    with pytest.raises(SystemExit):
        run_sweep(params, [], common, launcher.launch, tmp_path / "outputs")
    assert len(launcher.batches[-1]) == 1
    (record,) = records(tmp_path)
    assert "method.coefficients" in record["error"]


def test_a_job_that_cannot_be_composed_is_told_and_the_others_run(common: list[str], tmp_path: Path) -> None:
    launcher = FakeLauncher()
    with pytest.raises(SystemExit):
        run_sweep({"seed": "1,two", "members": "[tec,isear]"}, [], common, launcher.launch, tmp_path / "outputs")
    assert len(launcher.batches[-1]) == 1
    (record,) = records(tmp_path)
    assert record["overrides"][-2:] == ["seed=two", "members=[tec,isear]"]


@pytest.mark.parametrize(("last", "stages"), [("train", 1), ("statistics", 2), ("jobs", 3)])
def test_a_sweep_ends_after_the_stage_that_is_asked_for(
    last: str, stages: int, common: list[str], tmp_path: Path
) -> None:
    launcher = FakeLauncher()
    run_sweep(PAIRS, [], common, launcher.launch, tmp_path / "outputs", last)
    assert len(launcher.batches) == stages
    assert records(tmp_path) == []


def test_a_stage_that_there_is_not_is_told(common: list[str], tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"hydra\.sweeper\.until: expected train, statistics or jobs, got 'merge'"):
        run_sweep(PAIRS, [], common, FakeLauncher().launch, tmp_path / "outputs", "merge")


@pytest.mark.parametrize("member", ["tec", 'it\'s a "name"', "a,b=c", "{x: 1}", "null"])
def test_any_name_of_a_member_travels_as_it_is(member: str, common: list[str]) -> None:
    config = compose("config", Step(member, "gram").overrides([], "experiment/rest"), return_hydra_config=True)
    assert step_of(config.hydra.sweeper) == Step(member, "gram")
    assert config.hydra.sweep.subdir == f"experiment/steps/rest/gram-{member}"
