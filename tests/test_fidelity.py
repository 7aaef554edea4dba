"""The switch that chooses all that the paper's code does differently."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from regmean_lab.config.grids import Composer, grids_of, values_of
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.resolvers import register_resolvers
from regmean_lab.config.schema import settings_of
from regmean_lab.results import fingerprint

SWEEPS = sorted(path.stem for path in (configuration_root() / "conf" / "multirun_sweeps").glob("*.yaml"))
PAPER = [name for name in SWEEPS if not name.endswith("mini") and name != "demo"]
DOCUMENT = (Path(__file__).parents[1] / "docs" / "fidelity.md").read_text(encoding="utf-8")

ALL: dict[str, Any] = {"statistics.gram.count_padding": True, "statistics.gram.extra_rows": True}
EMOTION = {
    "suite.threshold_on": "logit",
    "suite.threshold_inclusive": True,
    "statistics.gram.generation": False,
    "statistics.fisher.labels_from": "batch_hard",
}
TEXT = {
    "suite.answer_by": "generation",
    "suite.out_of_domain_labels": "first_member",
    "statistics.gram.generation": True,
    "statistics.gram.generated_tokens": 3,
    "statistics.gram.generated_padding": True,
    "statistics.fisher.labels_from": "batch_loss",
}
NER = {
    "suite.key_score": "entity_f1_published",
    "training.reweight": "none",
    "statistics.fisher.labels_from": "batch_loss",
}
EXPECTED: dict[tuple[str, str, str], dict[str, Any]] = {
    ("emotion", "roberta_base", "simple"): {**EMOTION, "training.reweight": "none", "method.label_head": "row_mean"},
    ("emotion", "roberta_base", "regmean"): {**EMOTION, "method.off_diagonal": 0.1, "method.label_head": "row_mean"},
    ("emotion", "roberta_base", "multitask"): {**EMOTION, "training.reweight": "none", "method.reweight": "sqrt"},
    ("emotion", "deberta_v3_large", "fisher"): {
        **EMOTION,
        "training.reweight": "sqrt",
        "method.epsilon_added": "before",
        "method.label_head": "merged",
    },
    ("emotion", "deberta_v3_large", "multitask"): {**EMOTION, "training.reweight": "sqrt", "method.reweight": None},
    ("emotion", "roberta_base", "ensemble"): {**EMOTION, "method.vote": "soft", "method.ties": "first_member"},
    ("emotion_text", "t5_v1_1_base", "ensemble"): {**TEXT, "method.vote": "majority", "method.ties": "first_member"},
    ("emotion_text", "pico_t5", "regmean"): TEXT,
    ("emotion_text", "gpt2", "regmean"): {
        **TEXT,
        "suite.answer_by": "scoring",
        "statistics.gram.generation": False,
        "statistics.gram.generated_tokens": 4,
        "statistics.gram.generated_padding": False,
    },
    ("ner", "roberta_base", "regmean"): {**NER, "method.off_diagonal": 0.1},
    ("ner_open", "minilm", "fisher"): NER,
    ("glue", "distilbert_base", "regmean"): {
        "method.off_diagonal": 1.0,
        "method.label_head": "merged",
        "training.reweight": "none",
        "statistics.fisher.labels_from": "batch_hard",
    },
}


@pytest.fixture
def register() -> None:
    """What compositions need."""
    register_resolvers()


@pytest.mark.parametrize("choice", EXPECTED, ids="-".join)
def test_what_the_switch_chooses(choice: tuple[str, str, str], compose_job: Callable[..., Any]) -> None:
    chosen = [f"{group}={option}" for group, option in zip(("suite", "model", "method"), choice, strict=True)]
    published = compose_job(*chosen, "fidelity=published")
    for key, value in {**ALL, **EXPECTED[choice]}.items():
        assert OmegaConf.select(published, key, throw_on_missing=True) == value, key
    settings_of(published)


def test_by_default_nothing_is_changed(compose_job: Callable[..., Any]) -> None:
    chosen = ("suite=emotion", "model=deberta_v3_large", "method=ensemble")
    default, sound, published = (
        fingerprint(settings_of(compose_job(*chosen, *more)).resolved)
        for more in ((), ("fidelity=sound",), ("fidelity=published",))
    )
    assert default == sound != published


def test_the_command_line_wins_over_the_switch(compose_job: Callable[..., Any]) -> None:
    config = compose_job(
        *("fidelity=published", "experiment=emotion_text_pairwise", "method=ensemble", "method.ties=lowest"),
        *("suite.out_of_domain_labels=all", "statistics.gram.count_padding=false", "statistics.gram.examples=7"),
    )
    settings = settings_of(config)
    assert settings.method.ties == "lowest"
    assert settings.suite.settings.out_of_domain_labels == "all"
    assert settings.suite.settings.answer_by == "generation"
    gram = settings.config.statistics.gram
    assert (gram.count_padding, gram.extra_rows, gram.examples, gram.batches) == (False, True, 7, None)


def test_a_weighted_loss_is_for_yes_or_no_labels(compose_job: Callable[..., Any]) -> None:
    for more, key in (
        (("suite=ner", "training.reweight=sqrt"), "training"),
        (("method=multitask", "method.reweight=sqrt"), "method"),
    ):
        with pytest.raises(Exception, match=rf"^{key}\.reweight: weights are of yes/no labels, and suite \w+ has none"):
            settings_of(compose_job(*more))
    with pytest.raises(Exception, match=r"training\.reweight: expected one of none, sqrt, got 'root'"):
        settings_of(compose_job("suite=emotion", "training.reweight=root"))


@pytest.mark.parametrize("sweep", [*PAPER, "table2-mini"])
def test_every_sweep_of_the_paper_can_be_run_with_it(sweep: str, register: None) -> None:
    """A job of each grid; grids differ in suite and model."""
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        composer = Composer()
        for grid in grids_of([f"+multirun_sweeps={sweep}", "fidelity=published"]):
            config = composer.compose([values_of(parameter)[-1] for parameter in grid])
            settings = settings_of(config)
            assert settings.config.statistics.gram.count_padding


def test_settings_that_the_page_names_are_there(compose_job: Callable[..., Any]) -> None:
    named = set(re.findall(r"`((?:suite|method|statistics|training)\.[\w.]+)=", DOCUMENT))
    assert {"suite.key_score", "method.ties", "training.reweight", "statistics.gram.count_padding"} <= named
    configs = [
        compose_job(f"suite={suite}", f"method={method}")
        for suite, method in (("emotion", "ensemble"), ("emotion_text", "multitask"), ("ner", "fisher"))
    ]
    missing = object()
    for key in named:
        assert any(OmegaConf.select(config, key, default=missing) is not missing for config in configs), key
