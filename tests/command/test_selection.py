"""``hydra.sweeper.select=best``: settings are chosen on dev, and what was chosen is run on test once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from regmean_lab import experiment
from regmean_lab.command.plan import show_plan
from regmean_lab.config.grids import Composer, SweepError
from regmean_lab.config.resolvers import job_folder
from regmean_lab.config.schema import ConfigurationError, settings_of
from regmean_lab.evaluation.checks import check_files
from regmean_lab.report.entries import entries_of
from regmean_lab.report.grid import sections_of
from regmean_lab.report.read import find_runs
from regmean_lab.results import RESULT_FILE, Result, combine_fingerprints, fingerprint, read_result
from regmean_lab.sweeps.stages import run_sweep
from regmean_lab.sweeps.steps import STEP_KEY
from regmean_lab.sweeps.summary import SWEEPS_FOLDER, summarise

DEV = {
    ("tec", "isear", "0.1"): 40.0,
    ("tec", "isear", "0.5"): 60.0,
    ("tec", "isear", "0.9"): 60.0,
    ("tec", "crowdflower", "0.1"): 71.0,
    ("tec", "crowdflower", "0.5"): 70.0,
    ("tec", "crowdflower", "0.9"): 69.5,
}


@dataclass
class ScoringLauncher:
    """Writes results with the dev scores of `DEV`, and 50 on test; nothing is computed."""

    failing: set[str] = field(default_factory=set)
    jobs: list[list[str]] = field(default_factory=list)
    composer: Composer | None = None

    def launch(self, jobs: Sequence[Sequence[str]], number: int) -> list[JobReturn]:
        returned = []
        for job in jobs:
            status = JobStatus.COMPLETED
            if not any(text.startswith(f"+{STEP_KEY}=") for text in job):
                self.jobs.append(list(job))
                if self.failing and self.failing <= set(job):
                    status = JobStatus.FAILED
                else:
                    self.write(job, number)
            number += 1
            returned.append(JobReturn(status=status))
        return returned

    def score(self, config: DictConfig) -> float:
        alpha = str(config.method.get("off_diagonal", ""))
        return DEV.get((*config.members, alpha), 30.0) if config.evaluate_on == "dev" else 50.0

    def write(self, job: Sequence[str], number: int) -> None:
        self.composer = self.composer or Composer()
        config = self.composer.compose(job)
        settings = settings_of(config)
        members, folder = list(settings.members), Path(config.paths.output_dir) / job_folder(config)
        score = self.score(config)
        Result(
            *(fingerprint(settings.resolved), config.experiment, settings.suite.name, config.model.name),
            *(settings.method.name, members, config.seed, config.head_init),
            scores={"in_domain": dict.fromkeys(members, score), "out_of_domain": {}},
            mean_in_domain=score,
            mean_out_of_domain=None,
            **{"metrics": {}, "seconds": {}, "peak_memory_bytes": 0, "environment": {}},
            **{"zoo": {}, "configuration": settings.resolved, "unknown_labels": {}},
            data_fingerprint=combine_fingerprints(map(settings.suite.fingerprint, settings.corpora)),
            model_fingerprint=check_files(settings).fingerprint,
            selection=settings.resolved["selection"],
        ).write(folder)
        record = {"overrides": list(job), "folder": str(folder), "error": None, "computed": True}
        path = Path(config.paths.output_dir) / SWEEPS_FOLDER / "sweep" / "jobs" / f"{number:05d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert not path.exists()  # every job has a number of its own
        path.write_text(json.dumps(record))


@pytest.fixture
def common(common: list[str]) -> list[str]:
    return [*common, "seed=1"]


GRIDS = [
    {"method": "regmean", "method.off_diagonal": "0.1,0.5,0.9", "members": "[tec,isear],[tec,crowdflower]"},
    {"method": "simple", "members": "[tec,isear]"},
]


def test_each_group_is_run_on_dev_and_its_best_once_on_test(
    common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every pair of members chooses for itself; of equal scores the first; what has no choice goes to test at once."""
    launcher = ScoringLauncher()
    run_sweep({}, GRIDS, common, launcher.launch, tmp_path / "outputs", select="best")
    dev = [job for job in launcher.jobs if "evaluate_on=dev" in job]
    assert len(dev) == 6 and len(launcher.jobs) == 9
    results = {
        (result.method, *result.members): result
        for result in map(read_result, (tmp_path / "outputs").rglob(RESULT_FILE))
        if result.configuration["evaluate_on"] == "test"
    }
    assert {key: result.configuration["method"].get("off_diagonal") for key, result in results.items()} == {
        ("regmean", "tec", "isear"): 0.5,
        ("regmean", "tec", "crowdflower"): 0.1,
        ("simple", "tec", "isear"): None,
    }
    assert results["simple", "tec", "isear"].selection is None
    assert results["regmean", "tec", "crowdflower"].selection == {
        **{"on": "dev", "by": "mean_in_domain", "keys": ["method.off_diagonal"]},
        **{"chosen": "method.off_diagonal=0.1", "score": 71.0},
        "among": [
            {"settings": f"method.off_diagonal={alpha}", "score": DEV["tec", "crowdflower", alpha]}
            for alpha in ("0.1", "0.5", "0.9")
        ],
    }
    summarise(tmp_path / "outputs" / SWEEPS_FOLDER / "sweep")
    shown = capsys.readouterr().out
    assert "3 results" in shown
    assert (
        "regmean of tec+isear, seed 1: method.off_diagonal=0.5 was chosen on dev (mean score 60.00, the best of 3)"
        in shown
    )
    (section,) = sections_of(entries_of(find_runs([tmp_path / "outputs"]).runs))
    columns = {column.label: [row.label for row in column.rows] for column in section.columns}
    assert columns == {
        "evaluate_on=dev": ["regmean off_diagonal=0.1", "regmean off_diagonal=0.5", "regmean off_diagonal=0.9"],
        "evaluate_on=test": ["simple", "regmean"],
    }
    (notice,) = section.notices
    told = notice.partition("regmean: off_diagonal chosen on dev among 3 by the mean score in domain: ")[2]
    assert sorted(told.split(", ")) == ["method.off_diagonal=0.1 (1 result)", "method.off_diagonal=0.5 (1 result)"]


def test_nothing_is_chosen_in_a_group_with_a_failed_job(common: list[str], tmp_path: Path) -> None:
    launcher = ScoringLauncher({"method.off_diagonal=0.9", "members=[tec,isear]"})
    with pytest.raises(SystemExit):
        run_sweep({}, GRIDS, common, launcher.launch, tmp_path / "outputs", select="best")
    chosen = [job for job in launcher.jobs if "evaluate_on=dev" not in job]
    assert [[text for text in job if text.startswith(("members", "method="))] for job in chosen] == [
        ["method=simple", "members=[tec,isear]"],
        ["method=regmean", "members=[tec,crowdflower]"],
    ]


def test_the_split_is_the_sweepers_to_choose(common: list[str], tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"evaluates on dev, and what it has chosen on test, by itself; leave it out"):
        run_sweep({}, GRIDS, [*common, "evaluate_on=test"], ScoringLauncher().launch, tmp_path, select="best")
    with pytest.raises(SweepError, match=r"select: expected best or null, got 'worst'"):
        run_sweep({}, GRIDS, common, ScoringLauncher().launch, tmp_path, select="worst")


def test_results_on_test_have_the_fingerprint_that_they_had(compose_job: Callable[..., DictConfig]) -> None:
    def hashed(*overrides: str) -> str:
        resolved = OmegaConf.to_container(compose_job(*overrides), resolve=True)
        return fingerprint(resolved)

    plain = dict(OmegaConf.to_container(compose_job(), resolve=True))
    before = {key: value for key, value in plain.items() if key not in ("evaluate_on", "selection")}
    assert hashed() == fingerprint(before)
    assert hashed("evaluate_on=dev") != hashed() != hashed("selection={on: dev}")
    with pytest.raises(ConfigurationError) as caught:
        settings_of(compose_job("suite=emotion", "evaluate_on=train", "order=greedy", "selection=mine"))
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["evaluate_on", "selection"]


def test_scores_on_dev_are_those_of_the_members_dev_splits(
    made_up_sentiment: Path, compose_job: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """The merged model, run by transformers on the dev examples and scored by scikit-learn; nothing out of domain."""
    overrides = [
        *("suite=sentiment", "model=pico_bert", "members=[tweets,nyt]", "method=simple", "save_merged=true"),
        *("trainer=cpu", "trainer.progress_bar=false", "logger=none", "training.epochs=1", "evaluate_on=dev"),
        *(f"paths.data_dir={made_up_sentiment}", f"paths.zoo_dir={tmp_path / 'zoo'}", "training.learning_rate=1e-3"),
    ]
    config = compose_job(*overrides)
    result, _ = experiment.run(config, tmp_path / "job", overrides)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "job" / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "job" / "merged")
    suite = settings_of(config).suite
    for member in ("tweets", "nyt"):
        examples = suite.examples(member, "dev")
        with torch.no_grad():
            predicted = [int(model(**tokenizer(one.text, return_tensors="pt")).logits.argmax()) for one in examples]
        macro = 100 * f1_score([one.label for one in examples], predicted, average="macro")
        assert result.scores["in_domain"][member] == pytest.approx(macro, abs=1e-3)
    assert (result.scores["out_of_domain"], result.mean_out_of_domain) == ({}, None)


def test_a_plan_shows_what_runs_on_dev_and_how_much_is_chosen(
    common: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    GlobalHydra.instance().clear()  # the command makes its own
    swept = ["method=regmean,simple", "members=[tec,isear],[tec,crowdflower]"]
    assert show_plan([*common, swept[1], "method.off_diagonal=0.1,0.5", "hydra.sweeper.select=best"])
    told = capsys.readouterr().out
    assert "4 jobs" in told
    assert "then the best of each of 2 groups of settings is run on test" in told
    assert show_plan([*common, *swept, "hydra.sweeper.select=best"])
    assert "of each of 0 groups" in capsys.readouterr().out


def test_a_plan_of_many_jobs_says_at_once_what_it_does(
    common: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    GlobalHydra.instance().clear()  # the command makes its own
    jobs = [*common, "members=[tec,isear]", "method=simple", "seed=1,2,3"]
    assert show_plan(jobs)
    assert "Composing" not in capsys.readouterr().err
    monkeypatch.setattr("regmean_lab.command.plan.MANY_JOBS", 3)
    assert show_plan(jobs)
    assert "Composing 3 jobs, to see what each needs …" in capsys.readouterr().err
