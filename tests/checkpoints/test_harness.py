"""``suite=lm_eval``: the harness's numbers are those of a loop; without it, how to install it is told.

`make test-lm-eval` installs the harness; without it all but the last tests are skipped.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoint_folders import save_decoder
from given_folders import save_classifier_of
from omegaconf import DictConfig
from round_trip import compose_root
from transformers import AutoModelForCausalLM, AutoTokenizer

from regmean_lab.checkpoints.evaluate_command import check, run
from regmean_lab.checkpoints.scoring import harness
from regmean_lab.config.schema import ConfigurationError, settings_of
from regmean_lab.report.read import find_runs

WORDS = ("the", "river", "film", "was", "happy", "angry", "people", "and", "music", "village", "sun", "rain")


def phrase(generator: random.Random, least: int, most: int) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(least, most)))


@pytest.fixture
def compose(compose_job: Callable[..., Any], tmp_path: Path) -> Callable[..., DictConfig]:
    compose_job()  # registers resolvers

    def compose_one(*overrides: str) -> DictConfig:
        own = (f"paths.output_dir={tmp_path / 'outputs'}", f"paths.zoo_dir={tmp_path}", "trainer=cpu")
        return compose_root("evaluate", *own, "suite=lm_eval", *overrides)

    return compose_one


@pytest.fixture
def tasks(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A folder with two tasks on one local file: choices, and the perplexity of a text."""
    generator, rows = random.Random(0), []
    for _ in range(12):
        choices = [phrase(generator, 1, 4) for _ in range(3)]
        rows.append({"question": phrase(generator, 3, 6), "choices": choices, "answer": generator.randrange(3)})
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    choice = {
        "task": "pico_choice",
        **data,
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", **mean}, {"metric": "acc_norm", **mean}],
    }
    rolling = {
        "task": "pico_text",
        **data,
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    for task in (choice, rolling):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return folder, rows


def log_likelihood(model: Any, context: list[int], continuation: list[int]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *continuation]])).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(context) - 1 + place, token]) for place, token in enumerate(continuation))


def test_numbers_are_those_of_a_loop_over_log_likelihoods(
    tasks: tuple[Path, list[dict[str, Any]]], compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path
) -> None:
    pytest.importorskip("lm_eval")
    folder, rows = tasks
    save_decoder(tmp_path / "decoder", pico_cache, 0)
    chosen = (f"suite.include_path={folder}", "suite.tasks=[pico_choice,pico_text]", "batch_size=4")
    config = compose(f"checkpoint={tmp_path / 'decoder'}", *chosen)
    check(config)
    measured = run(config, tmp_path / "job")
    (result,) = measured.results
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "decoder").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "decoder")
    right, normed, bits, size = [], [], 0.0, 0
    for row in rows:
        context = tokenizer(row["question"])["input_ids"]
        sums = []
        for one in row["choices"]:
            whole = tokenizer(f"{row['question']} {one}")["input_ids"]
            assert whole[: len(context)] == context
            sums.append(log_likelihood(model, context, whole[len(context) :]))
        right.append(sums.index(max(sums)) == row["answer"])
        shares = [value / len(one) for value, one in zip(sums, row["choices"], strict=True)]
        normed.append(shares.index(max(shares)) == row["answer"])
        bits -= log_likelihood(model, [tokenizer.eos_token_id], context) / math.log(2)
        size += len(row["question"].encode())
    accuracy = sum(right) / len(right)
    assert 0 < accuracy < 1 and right != normed
    choice, text = result.metrics["pico_choice"], result.metrics["pico_text"]
    assert choice["acc"] == pytest.approx(100 * accuracy)
    assert choice["acc_norm"] == pytest.approx(100 * sum(normed) / len(normed))
    error = math.sqrt(accuracy * (1 - accuracy) / (len(right) - 1))
    assert choice["acc_stderr"] == pytest.approx(100 * error)
    assert text["bits_per_byte"] == pytest.approx(bits / size, rel=1e-4)
    assert result.scores["in_domain"] == {"pico_choice": choice["acc"], "pico_text": text["bits_per_byte"]}
    assert f"pico_choice: decoder has acc {100 * accuracy:.2f} ± {100 * error:.2f}" in measured.lines
    assert result.environment["versions"]["lm_eval"]
    (found,) = find_runs([tmp_path / "job"]).runs
    assert found.result.metrics == result.metrics

    path = tmp_path / "job" / "decoder" / "result.json"
    written = path.stat().st_mtime_ns
    run(config, tmp_path / "job")
    assert path.stat().st_mtime_ns == written  # found
    few = compose(f"checkpoint={tmp_path / 'decoder'}", *chosen, "suite.limit=5")
    (limited,) = run(few, tmp_path / "few").results
    assert limited.metrics["pico_choice"]["acc"] == pytest.approx(100 * sum(right[:5]) / 5)


def problems(config: DictConfig) -> str:
    with pytest.raises(ConfigurationError) as raised:
        check(config)
    return "\n".join(raised.value.problems)


def test_what_is_wrong_is_told_at_once(
    tasks: tuple[Path, list[dict[str, Any]]], compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path
) -> None:
    pytest.importorskip("lm_eval")
    save_classifier_of(tmp_path / "classifier", pico_cache, 0)
    save_decoder(tmp_path / "decoder", pico_cache, 0)
    both = f"checkpoint=[{tmp_path / 'decoder'},{tmp_path / 'classifier'}]"
    told = problems(compose(both, "suite.limit=0", "suite.include_path=nowhere", "corpora=[a]", "score=acc"))
    for expected in (
        "suite.tasks: none is named",
        "suite.limit: expected at least 1",
        "suite.include_path: no such folder: nowhere",
        "classifier is no language model",
        "corpora: is for files and corpora",
        "score: is for files and corpora",
    ):
        assert expected in told
    told = problems(
        compose(f"checkpoint={tmp_path / 'decoder'}", "suite.tasks=[pico_choise]", f"suite.include_path={tasks[0]}")
    )
    assert "suite.tasks: there is no 'pico_choise'; did you mean pico_choice" in told


def test_without_the_harness_how_to_install_it_is_told(
    compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(harness, "version", absent)
    save_decoder(tmp_path / "decoder", pico_cache, 0)
    (line,) = problems(compose(f"checkpoint={tmp_path / 'decoder'}", "suite.tasks=[arc_easy]")).splitlines()
    assert line.endswith("which is not installed: pip install 'regmean-lab[lm-eval]'")


def test_jobs_that_train_are_sent_to_evaluate(compose_job: Callable[..., DictConfig]) -> None:
    with pytest.raises(ConfigurationError, match="regmean-lab evaluate checkpoint=… suite=lm_eval"):
        settings_of(compose_job("suite=lm_eval", "model=pico_gpt2"))
