from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig
from safetensors import safe_open
from transformers import AutoModel

from regmean_lab.config.resolvers import job_folder
from regmean_lab.experiment import run
from regmean_lab.sweeps import estimate as estimates
from regmean_lab.sweeps.estimate import estimate, size_of
from regmean_lab.sweeps.plan import Plan, make_plan
from regmean_lab.sweeps.plan_text import plan_text
from regmean_lab.utils.quantities import byte_size, duration

MEMBERS = ("tec", "isear", "crowdflower")


@dataclass
class Workspace:
    """Where plans are made and jobs run."""

    folder: Path
    compose: Callable[..., DictConfig]

    def configuration(self, *more: str) -> DictConfig:
        return self.compose(
            "suite=emotion",
            "suite.out_of_domain=[emoint]",
            "model=pico_bert",
            "members=[tec,isear]",
            "logger=none",
            "trainer=cpu",
            "trainer.progress_bar=false",
            "training.epochs=1",
            "statistics.gram.examples=16",
            "statistics.fisher.examples=8",
            f"paths.data_dir={self.folder / 'data'}",
            f"paths.zoo_dir={self.folder / 'zoo'}",
            f"paths.output_dir={self.folder / 'outputs'}",
            *more,
        )

    def plan(self, *jobs: list[str]) -> Plan:
        return make_plan((job, self.configuration(*job)) for job in jobs)

    def run(self, *more: str) -> None:
        config = self.configuration(*more)
        run(config, self.folder / "outputs" / job_folder(config), list(more))


@pytest.fixture
def workspace(
    tmp_path: Path, write_emotions: Callable[[Path], Path], compose_job: Callable[..., DictConfig]
) -> Workspace:
    write_emotions(tmp_path / "data")
    return Workspace(tmp_path, compose_job)


def trained(plan: Plan) -> set[tuple[str, int]]:
    return {("+".join(member.training.corpora), member.training.seed) for member in plan.to_train}


def test_members_and_statistics_are_shared_among_jobs(workspace: Workspace) -> None:
    pairs = ["[tec,isear]", "[tec,crowdflower]", "[isear,crowdflower]"]
    plan = workspace.plan(
        *([f"members={pair}", f"method={method}"] for pair in pairs for method in ("simple", "fisher", "regmean"))
    )
    assert len(plan.jobs) == len(plan.unfinished) == 9
    assert trained(plan) == {(member, 1) for member in MEMBERS}
    assert {(part.member.training.name, part.kind) for part in plan.to_collect} == {
        (member, kind) for member in MEMBERS for kind in ("gram", "fisher")
    }
    assert len(plan.to_collect) == 6


def test_head_initialisations_share_the_members_of_equal_seeds(workspace: Workspace) -> None:
    plan = workspace.plan(
        *([f"head_init={kind}", f"seed={seed}"] for kind in ("same", "different") for seed in range(1, 6))
    )
    assert trained(plan) == {(member, seed) for member in ("tec", "isear") for seed in range(1, 6)}


def test_joint_training_needs_one_model_of_its_own(workspace: Workspace) -> None:
    plan = workspace.plan(["method=multitask"], ["method=multitask", "head_init=different"], ["method=ensemble"])
    assert trained(plan) == {("tec+isear", 1), ("tec", 1), ("isear", 1)}
    assert plan.statistics == []


def test_what_was_done_is_found(workspace: Workspace) -> None:
    workspace.run("method=regmean")
    plan = workspace.plan(["method=regmean"], ["method=fisher"], ["method=regmean", "statistics.gram.examples=12"])
    assert [job.finished for job in plan.jobs] == [True, False, False]
    assert plan.to_train == []
    found = {(part.kind, part.examples, part.found) for part in plan.statistics}
    assert found == {("fisher", 8, False), ("gram", 12, False)}
    forced = workspace.plan(["method=regmean", "force=true"])
    assert [job.finished for job in forced.jobs] == [False]
    assert [part.found for part in forced.statistics] == [True, True]
    assert workspace.plan(["method=regmean", "save_merged=true"]).unfinished


def test_changed_data_make_everything_new(workspace: Workspace) -> None:
    workspace.run("method=regmean")
    path = workspace.folder / "data" / "emotion_splits" / "tec" / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    plan = workspace.plan(["method=regmean"])
    assert not plan.jobs[0].finished
    assert trained(plan) == {("tec", 1)}
    assert {(part.member.training.name, part.found) for part in plan.statistics} == {("tec", False), ("isear", True)}


def test_all_that_is_missing_is_told_once_and_the_rest_is_planned(workspace: Workspace) -> None:
    plan = workspace.plan(
        ["members=[tec,dailydialog]", "method=simple"],
        ["members=[tec,dailydialog]", "method=regmean"],
        ["members=[tec,tales-emotion]"],
        ["members=[tec,isear]", "model.checkpoint=/no/such/folder"],
        ["seed=-1"],
    )
    assert len(plan.jobs) == 4
    assert [list(overrides) for overrides, _ in plan.refused] == [["seed=-1"]]
    for part in ("dailydialog", "tales-emotion", "/no/such/folder", "seed: expected"):
        assert sum(part in problem for problem in plan.problems) == 1, part
    assert ("dailydialog", 1) in trained(plan)


def test_statistics_of_a_greedy_order_are_known_only_later(workspace: Workspace) -> None:
    plan = workspace.plan(["order=greedy", "first=2", "members=[tec,isear,crowdflower]", "method=regmean"])
    assert trained(plan) == {(member, 1) for member in MEMBERS}
    assert plan.statistics == []


class TestEstimate:
    def test_disk_is_that_of_the_files(self, workspace: Workspace) -> None:
        plan = workspace.plan(["method=regmean"], ["method=fisher"])
        expected = estimate(plan)
        workspace.run("method=regmean")
        workspace.run("method=fisher")
        entries = [path for path in (workspace.folder / "zoo").iterdir() if path.name.startswith("emotion")]
        weights = sum((path / "model.safetensors").stat().st_size for path in entries)
        statistics = sum(path.stat().st_size for folder in entries for path in folder.glob("statistics/*"))
        # Without heads and headers; layers that share an input share a matrix.
        assert expected.training.bytes == pytest.approx(weights, rel=0.25)
        assert expected.statistics.bytes == pytest.approx(statistics, rel=0.5)

    @pytest.mark.parametrize("form", [["form=diagonal"], ["form=low_rank", "rank=3"]])
    def test_disk_of_other_forms_is_that_of_the_files(self, workspace: Workspace, form: list[str]) -> None:
        job = ["method=regmean", *(f"statistics.gram.{setting}" for setting in form)]
        expected, whole = (
            estimate(workspace.plan(job)).statistics.bytes,
            estimate(workspace.plan(["method=regmean"])).statistics.bytes,
        )
        workspace.run(*job)
        stored = 0
        for path in (workspace.folder / "zoo").glob("emotion*/statistics/*.safetensors"):
            with safe_open(path, framework="pt") as file:
                stored += sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
        # Layers that share an input share a matrix.
        assert expected == pytest.approx(stored, rel=0.5)
        assert expected is not None
        assert whole is not None
        assert expected < whole / 2

    def test_size_counts_what_the_model_has(self, workspace: Workspace) -> None:
        checkpoint = workspace.plan([]).members[0].checkpoint
        assert checkpoint is not None
        model = checkpoint.load(AutoModel)
        size = size_of(checkpoint)
        linear = [module for module in model.modules() if type(module).__name__ == "Linear"]
        assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert size.multiplied == sum(module.weight.numel() for module in linear)
        assert size.input_entries == sum(module.in_features**2 for module in linear)
        assert size.output_entries == sum(module.out_features**2 for module in linear)

    def test_gradient_gram_costs_no_products_of_weights(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(estimates, "matrix_speed", lambda device: 1e6)  # the machine's own varies
        settings = ["statistics.gram.examples=8", "statistics.gradient_gram.examples=8"]
        gram, both = (workspace.plan([f"method={method}", *settings]) for method in ("regmean", "mats"))
        gram_cost, both_cost = estimate(gram).statistics.seconds, estimate(both).statistics.seconds
        assert gram_cost is not None
        assert both_cost is not None
        member = both.members[0]
        assert member.checkpoint is not None
        size, labels = size_of(member.checkpoint), len(member.settings.suite.task(member.training.corpora[0]).labels)
        forward = 2 * size.multiplied
        expected = (forward + labels * (forward + size.output_entries)) / (forward + size.input_entries)
        assert (both_cost - gram_cost) / gram_cost == pytest.approx(expected, rel=0.1)

    def test_time_grows_with_the_work(self, workspace: Workspace) -> None:
        short = estimate(workspace.plan(["method=regmean"]))
        long = estimate(workspace.plan(["method=regmean", "training.epochs=1000"]))
        assert short.training.seconds is not None
        assert long.training.seconds is not None
        assert long.training.seconds > 10 * short.training.seconds

    def test_merges_that_read_text_take_longer(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(estimates, "matrix_speed", lambda device: 1e6)  # the machine's own varies
        seconds = {}
        for method in ("simple", "regmean_plusplus", "regmean_sequential"):
            for examples in (2, 20):
                settings = [] if method == "simple" else [f"method.examples={examples}"]
                cost = estimate(workspace.plan([f"method={method}", *settings])).evaluation
                assert cost.seconds is not None
                seconds[method, examples] = cost.seconds
        plain = seconds["simple", 2]
        assert seconds["simple", 20] == plain
        for method in ("regmean_plusplus", "regmean_sequential"):
            assert seconds[method, 20] - plain == pytest.approx(10 * (seconds[method, 2] - plain))
        assert plain < seconds["regmean_plusplus", 20] < seconds["regmean_sequential", 20]

    def test_distillation_and_choice_take_as_long_as_they_read(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(estimates, "matrix_speed", lambda device: 1e6)  # the machine's own varies

        def seconds(*overrides: str) -> float:
            found = estimate(workspace.plan(list(overrides))).evaluation.seconds
            assert found is not None
            return found - plain

        plain = 0.0
        plain = seconds("method=simple")
        short, long = (
            seconds("method=distill", f"method.steps={steps}", "method.batch_size=10") for steps in (25, 100)
        )
        # Texts that are trained on, with eight operations, and 100 held-out ones of each measurement, with four.
        assert long / short == pytest.approx((8 * 1000 + 4 * 500) / (8 * 250 + 4 * 200))
        few, many = (seconds("method=auto", f"method.favour={favour}") for favour in (1, 2))
        assert many / few == pytest.approx(15 / 5)

    def test_nothing_left_costs_nothing(self, workspace: Workspace) -> None:
        workspace.run("method=simple")
        total = estimate(workspace.plan(["method=simple"])).total
        assert (total.seconds, total.bytes) == (0, 0)

    def test_what_is_missing_makes_it_unknown(self, workspace: Workspace) -> None:
        costs = estimate(workspace.plan(["model.checkpoint=/no/such/folder"]))
        assert (costs.total.seconds, costs.total.bytes) == (None, None)
        costs = estimate(workspace.plan(["members=[tec,dailydialog]"]))
        assert costs.training.seconds is None
        assert costs.training.bytes is not None

    def test_members_trained_before_correct_it(self, workspace: Workspace) -> None:
        workspace.run("method=simple")
        before = estimate(workspace.plan(["seed=2"])).training.seconds
        for record in (workspace.folder / "zoo").glob("emotion*/training.json"):
            content = json.loads(record.read_text())
            content["seconds"] *= 100
            record.write_text(json.dumps(content))
        after = estimate(workspace.plan(["seed=2"])).training.seconds
        assert before is not None
        assert after is not None
        assert after > 20 * before  # the machine's speed is measured anew, and varies


class TestText:
    def test_says_what_there_is_to_do(self, workspace: Workspace) -> None:
        workspace.run("method=simple")
        plan = workspace.plan(["method=simple"], ["method=regmean"], ["method=ensemble"], ["method=multitask"])
        text = plan_text(plan, estimate(plan))
        for line in (
            "4 jobs: 1 finished, 3 to do",
            "members     2 found in the zoo, 1 to train",
            "emotion tec+isear, pico_bert, seed 1",
            "statistics  0 found, 2 to collect (2 gram)",
            "merges      1 (1 regmean)",
            "comparisons 2 (1 ensemble, 1 multitask)",
            "evaluations 3",
        ):
            assert line in text
        assert "Missing" not in text

    def test_lists_what_is_missing(self, workspace: Workspace) -> None:
        text = plan_text(workspace.plan(["members=[tec,dailydialog]"]), None)
        assert "Missing or wrong, 1 thing:" in text
        assert "dailydialog" in text.partition("Missing")[2]

    def test_says_why_a_time_is_unknown(self, workspace: Workspace) -> None:
        for overrides, unknown in ((["members=[tec,dailydialog]"], True), (["members=[tec,isear]"], False)):
            plan = workspace.plan(overrides)
            text = plan_text(plan, estimate(plan))
            assert ("time unknown" in text) == ("lacks data or pretrained weights" in text) == unknown

    def test_what_no_data_would_mend_comes_first(self) -> None:
        plan = Plan(problems=["no data", "a model that does not write"], unsuitable=["a model that does not write"])
        text = plan_text(plan, None)
        assert text.startswith("This cannot run:\n  - a model that does not write\n\n0 jobs: ")
        assert text.endswith("Missing or wrong, 1 thing:\n  - no data")

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(0.2, "1 s"), (59.4, "59 s"), (61, "1 min"), (3600, "1 h"), (5000, "1 h 23 min"), (200_000, "2 days 8 h")],
    )
    def test_durations(self, seconds: float, expected: str) -> None:
        assert duration(seconds) == expected

    @pytest.mark.parametrize(
        ("size", "expected"), [(7, "7 B"), (999_900, "1 MB"), (91_000_000, "91 MB"), (1_430_000_000, "1.43 GB")]
    )
    def test_sizes(self, size: int, expected: str) -> None:
        assert byte_size(size) == expected
