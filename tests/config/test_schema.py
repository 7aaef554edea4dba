from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig

from regmean_lab.config.baselines import Ensemble
from regmean_lab.config.groups import StatisticsConfig, TrainingConfig
from regmean_lab.config.schema import ConfigurationError, all_methods, settings_of
from regmean_lab.merging.regmean import RegMean
from regmean_lab.suites import suite_types

Compose = Callable[..., DictConfig]

EMOTION = ("suite=emotion", "model=pico_bert", "members=[tec,isear]")


def problems(compose_job: Compose, *overrides: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        settings_of(compose_job(*EMOTION, *overrides))
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


class TestSettings:
    def test_are_plain_objects(self, compose_job: Compose) -> None:
        settings = settings_of(compose_job(*EMOTION, "method.off_diagonal=0.25", "seed=3", "paths.data_dir=/d"))
        assert settings.method == RegMean(off_diagonal=0.25)
        assert settings.suite.name == "emotion"
        assert settings.suite.data_dir == Path("/d")
        assert settings.members == ("tec", "isear")
        assert settings.config.training.learning_rate == 1e-3
        assert isinstance(settings.config.statistics, StatisticsConfig)
        assert not any(isinstance(value, DictConfig) for value in vars(settings.config).values())
        assert settings.resolved["method"]["name"] == "regmean"
        assert "hydra" not in settings.resolved

    @pytest.mark.parametrize(
        ("given", "expected"),
        [("svc", "svc"), ("[svc,lines]", ["svc", "lines"]), ("[{lines:{alpha:0.3}}]", [{"lines": {"alpha": 0.3}}])],
    )
    def test_steps_after_a_merge_are_a_name_or_a_list(self, compose_job: Compose, given: str, expected: Any) -> None:
        assert settings_of(compose_job(*EMOTION, f"method.followed_by={given}")).method.followed_by == expected

    def test_members_are_all_of_the_suite_unless_named(self, compose_job: Compose) -> None:
        settings = settings_of(compose_job("suite=emotion", "model=pico_bert"))
        assert settings.members == ("dailydialog", "crowdflower", "tec", "tales-emotion", "isear")

    def test_a_comparator_is_chosen_like_a_method(self, compose_job: Compose) -> None:
        settings = settings_of(compose_job(*EMOTION, "method=ensemble", "method.vote=majority"))
        assert settings.method == Ensemble("majority")

    @pytest.mark.parametrize("name", sorted(all_methods()))
    def test_every_method_has_a_file_of_its_name(self, compose_job: Compose, name: str) -> None:
        config = compose_job(*EMOTION, f"method={name}")
        assert config.method.name == name
        assert settings_of(config).method == all_methods()[name]()

    @pytest.mark.parametrize("name", sorted(suite_types()))
    def test_every_suite_has_a_file_of_its_name(self, compose_job: Compose, name: str) -> None:
        assert compose_job(f"suite={name}", "model=pico_bert").suite.name == name


class TestHeadInitialisation:
    def test_the_same_seed_for_all(self, compose_job: Compose) -> None:
        settings = settings_of(compose_job("suite=emotion", "model=pico_bert", "seed=4"))
        assert [settings.member_seed(member) for member in settings.members] == [4] * 5

    @pytest.mark.parametrize(("seed", "expected"), [(1, [1, 2, 3, 4, 5]), (2, [2, 3, 4, 5, 1]), (5, [5, 1, 2, 3, 4])])
    def test_another_seed_for_each(self, compose_job: Compose, seed: int, expected: list[int]) -> None:
        """Generator seed g gives member number i the seed ((g + i − 1) mod 5) + 1."""
        settings = settings_of(compose_job("suite=emotion", "model=pico_bert", f"seed={seed}", "head_init=different"))
        assert [settings.member_seed(member) for member in settings.members] == expected

    def test_depends_on_the_member_and_not_on_what_it_is_merged_with(self, compose_job: Compose) -> None:
        settings = settings_of(compose_job(*EMOTION, "members=[isear,tec]", "head_init=different", "seed=1"))
        assert [settings.member_seed(member) for member in settings.members] == [5, 3]


class TestProblems:
    def test_all_are_told_at_once(self, compose_job: Compose) -> None:
        found = problems(
            compose_job,
            "training.epochs=0",
            "training.schedule=cosine",
            "method.off_diagonal=2",
            "suite.train_examples=0",
            "members=[tec,isaer,tec]",
            "head_init=random",
            "logger.kind=mlflow",
            "seed=-1",
            "trainer.devices=0",
            "statistics.fisher.labels_from=guess",
        )
        keys = [problem.partition(":")[0] for problem in found]
        assert set(keys) == {
            "training.epochs",
            "training.schedule",
            "method.off_diagonal",
            "suite.train_examples",
            "members",
            "head_init",
            "logger.kind",
            "seed",
            "trainer.devices",
            "statistics.fisher.labels_from",
        }
        assert keys.count("members") == 2
        assert any("did you mean isear" in problem for problem in found)
        assert any("polynomial, linear, constant" in problem for problem in found)

    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            (["method.coefficients=[0.5,0.3,0.2]"], "method.coefficients: 3 numbers for 2 members"),
            (["method.coefficients=[0.5,0.3]"], "method.coefficients: expected a sum of 1"),
            (["members=[tec]"], "members: regmean merges two or more"),
            (["members=[]", "method=individual"], "members: expected at least one"),
            (["method=distill", "method.steps=0"], "method.steps: expected at least 1, got 0"),
            (["method=distill", "method.temperature=-1"], "method.temperature: expected a positive number"),
            (
                ["method=distill", "method.start=regmaen"],
                "method.start: there is no merge method 'regmaen' to begin with",
            ),
            (
                ["method=distill", "method.start=regmean", "method.start_settings.off_diagonal=2"],
                "method.start_settings.off_diagonal: expected a number from 0 to 1, got 2",
            ),
            (["method=distill", "method.text=none.txt"], "method.text: no such file: none.txt"),
            (["method=auto", "method.candidates=[regmaen]"], "method.candidates: there is no merge method 'regmaen'"),
            (["method=auto", "method.text=none.txt"], "method.text: no such file: none.txt"),
            (["method=ensemble", "method.vote=mean"], "method.vote: expected one of soft, majority"),
            (["method=ensemble", "save_merged=true"], "save_merged: method ensemble makes no single model"),
            (["method.keep_layers=[classifier]", "save_merged=true"], "save_merged: members keep separate parameters"),
            (["method.followed_by=[residual]", "save_merged=true"], "save_merged: members keep separate parameters"),
            (["method.followed_by=[scv]"], "method.followed_by: 'scv' is no step after a merge; did you mean svc?"),
            (["method.followed_by=[{lines:{alfa:1}}]"], "method.followed_by.lines.alfa: no such setting; did you mean"),
            (["method.gram=weigthed"], "method.gram: expected one of plain, weighted"),
            (
                ["statistics.weighted_gram.plain_share=2"],
                "statistics.weighted_gram.plain_share: expected a number from",
            ),
            (["method.label_head=zero"], "method.label_head: expected one of merged, row_mean"),
            (["method=fisher", "method.epsilon_added=never"], "method.epsilon_added: expected one of after, before"),
            (["method=fisher", "method.epsilon=0"], "method.epsilon: expected a positive number"),
            (["statistics.gram.batches=0"], "statistics.gram.batches: expected at least 1 or null"),
            (["statistics.gram.tokens=0"], "statistics.gram.tokens: expected at least 1 or null"),
            (["statistics.gram.tolerance=0"], "statistics.gram.tolerance: expected a positive number or null"),
            (["statistics.gram.tolerance=inf"], "statistics.gram.tolerance: expected a positive number or null"),
            (["statistics.gram.precision=fp8"], "statistics.gram.precision: expected one of float32, tf32, bf16"),
            (["statistics.batch_tokens=0"], "statistics.batch_tokens: expected at least 1 or null"),
            (["first=3"], "first: expected 1 to 2"),
            (["order=random"], "order: expected one of given, greedy"),
            (["model.dropout=1.0"], "model.dropout: expected a share"),
            (["trainer.accelerator=tpu"], "trainer.accelerator: expected one of auto, cpu"),
            (["trainer.precision=fp16"], "trainer.precision: expected one of 32-true"),
            (["trainer.workers=-1"], "trainer.workers: expected at least 0"),
        ],
    )
    def test_one_by_one(self, compose_job: Compose, overrides: list[str], expected: str) -> None:
        (problem,) = problems(compose_job, *overrides)
        assert problem.startswith(expected)

    @pytest.mark.parametrize(
        ("suite", "members", "source", "expected"),
        [
            ("emotion", "tec,isear", "batch_hard", None),
            ("glue", "rte,stsb", "batch_hard", None),
            ("glue", "rte,stsb", "batch_loss", None),
            ("glue", "rte,stsb", "pseudo", "a regression has no most probable value"),
            ("glue", "rte,sst2", "pseudo", None),
            ("ner", "bc,nw", "batch_loss", None),
            ("ner", "bc,nw", "batch_hard", "batch_hard takes one label for each text"),
            ("ner", "bc,nw", "expectation", "expectation costs a pass for each token and label"),
            ("emotion_text", "tec,isear", "batch_loss", None),
            ("emotion_text", "tec,isear", "batch_hard", "batch_hard takes one label for each text"),
        ],
    )
    def test_labels_that_a_task_cannot_give(
        self, compose_job: Compose, suite: str, members: str, source: str, expected: str | None
    ) -> None:
        overrides = [f"suite={suite}", "model=pico_bert", f"members=[{members}]", "method=fisher"]
        config = compose_job(*overrides, f"statistics.fisher.labels_from='{source}'")
        if expected is None:
            settings_of(config)
            return
        with pytest.raises(ConfigurationError) as caught:
            settings_of(config)
        (problem,) = caught.value.problems
        assert problem.startswith(f"statistics.fisher.labels_from: {expected}")
        assert "stsb" in problem or suite != "glue"

    def test_only_multi_label_heads_can_be_averaged_row_by_row(self, compose_job: Compose) -> None:
        settings_of(compose_job(*EMOTION, "method.label_head=row_mean"))
        config = compose_job("suite=emotion_text", "model=pico_t5", "members=[tec,isear]", "method.label_head=row_mean")
        with pytest.raises(
            ConfigurationError, match=r"method\.label_head: models of suite emotion_text have no multi-"
        ):
            settings_of(config)

    def test_a_missing_value_is_told(self, compose_job: Compose) -> None:
        config = compose_job(*EMOTION)
        config.model.checkpoint = "???"
        with pytest.raises(ConfigurationError, match=r"model\.checkpoint: required, but not given"):
            settings_of(config)

    def test_a_broken_interpolation_is_told(self, compose_job: Compose) -> None:
        config = compose_job(*EMOTION)
        config.model.checkpoint = "${model.nothing}"
        with pytest.raises(ConfigurationError, match=r"^model\.checkpoint: .*model\.nothing"):
            settings_of(config)

    @pytest.mark.parametrize("key", ["suite.name", "method.name"])
    def test_a_name_is_not_how_another_one_is_chosen(self, compose_job: Compose, key: str) -> None:
        (problem,) = problems(compose_job, f"{key}=other")
        assert problem.startswith(f"{key}: expected ")
        assert problem.endswith(f"{key.partition('.')[0]}=other")

    @pytest.mark.parametrize("override", ["seed=first", "training.epochs=1.5", "method.vote=soft", "trainer.gpu=true"])
    def test_wrong_types_and_unknown_keys_do_not_compose(self, compose_job: Compose, override: str) -> None:
        with pytest.raises(HydraException):
            compose_job(*EMOTION, override)


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"gradient_clip": float("nan")}, "gradient_clip"),
        ({"warmup": 1.0}, "warmup"),
        ({"warmup": -0.1}, "warmup"),
        ({"batch_size": 0}, "batch_size"),
        ({"eval_batch_size": 0}, "eval_batch_size"),
        ({"max_length": 0}, "max_length"),
        ({"steps": 0}, "steps"),
        ({"eval_steps": -1}, "eval_steps"),
        ({"selection": "first"}, "selection"),
        ({"precision": "64bits"}, "precision"),
    ],
)
def test_training_settings_out_of_range(changes: dict[str, Any], setting: str) -> None:
    (problem,) = TrainingConfig(**changes).problems()
    assert problem.startswith(f"{setting}: ")


def test_training_settings_in_range() -> None:
    assert TrainingConfig().problems() == []
    assert TrainingConfig(steps=10, eval_steps=5, gradient_clip=0, warmup=0, precision="bf16-mixed").problems() == []
