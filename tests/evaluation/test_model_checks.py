"""What is told of a model before members are made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from regmean_lab.config.schema import settings_of
from regmean_lab.evaluation.model_checks import model_problems
from regmean_lab.models.find import find_checkpoint


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("keep_layers=[clasifier]", "method.keep_layers: no module or parameter matches clasifier"),
        ("merge_layers=[bert,pooler]", "method.merge_layers: no module or parameter matches pooler"),
        ("keep_layers=[classifier,bert.encoder.layer.0]", None),
        ("merge_layers=['bert.*.attention']", None),
    ],
)
def test_patterns_that_match_nothing_are_told_before_anything_is_trained(
    patterns: str, expected: str | None, compose_job: Callable[..., DictConfig], tmp_path: Path
) -> None:
    job = compose_job("suite=emotion", "model=pico_bert", "method=regmean", f"method.{patterns}")
    settings = settings_of(job)
    checkpoint = find_checkpoint(settings.config.model, tmp_path)
    assert model_problems(settings, checkpoint) == ([] if expected is None else [expected])


def test_one_file_of_texts_is_of_no_use_to_regmean_plusplus_of_classifiers(
    compose_job: Callable[..., DictConfig], tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("a river\n")
    job = compose_job(
        *("suite=emotion", "model=pico_bert"), "method=regmean_plusplus", f"method.text={tmp_path / 'texts.txt'}"
    )
    settings = settings_of(job)
    (problem,) = model_problems(settings, find_checkpoint(settings.config.model, tmp_path))
    assert problem.startswith("method.text: with one file for all")
