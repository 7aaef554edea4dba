"""``regmean-lab evaluate`` of language models on files: what transformers generates, and log-likelihoods by a loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from round_trip import compose_root
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from regmean_lab.checkpoints.evaluate_command import check, run
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import quiet_transformers
from regmean_lab.report.read import find_runs

ROWS = [
    {"prompt": f"the {thing} was", "answer": f"{word} and {word}"}
    for thing, word in zip(
        ("film", "river", "music", "people", "village", "sun"),
        ("happy", "angry", "dark", "best", "afraid", "terrible"),
        strict=True,
    )
]


@pytest.fixture
def compose(compose_job: Callable[..., Any], tmp_path: Path) -> Callable[..., DictConfig]:
    compose_job()  # registers resolvers

    def compose_one(*overrides: str) -> DictConfig:
        own = (f"paths.output_dir={tmp_path / 'outputs'}", f"paths.zoo_dir={tmp_path}", "trainer.progress_bar=false")
        return compose_root("evaluate", *own, "trainer=cpu", *overrides)

    return compose_one


def sequence(tokenizer: Any, row: dict[str, str], has_encoder: bool) -> tuple[list[int], list[int]]:
    """Tokens that are read, and tokens to write, with their end."""
    end = [tokenizer.eos_token_id]
    read, written = tokenizer(row["prompt"])["input_ids"], tokenizer(row["answer"])["input_ids"]
    return list(read), [token for token in written if [token] != end] + end


def save_trained(folder: Path, cache: Path, architecture: str, seed: int) -> Any:
    """A pico model that has learned the first half of the rows by heart."""
    with quiet_transformers():
        source = pico_folder(architecture, cache)
        kind = AutoModelForSeq2SeqLM if architecture == "t5" else AutoModelForCausalLM
        model, tokenizer = kind.from_pretrained(source), AutoTokenizer.from_pretrained(source)
        torch.manual_seed(seed)
        model.eval()  # without dropout
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            loss = sum((loss_of(model, tokenizer, row) for row in ROWS[:3]), torch.zeros(()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model, tokenizer


def loss_of(model: Any, tokenizer: Any, row: dict[str, str]) -> torch.Tensor:
    """Negative log-likelihood of the tokens to write, summed."""
    read, written = sequence(tokenizer, row, model.config.is_encoder_decoder)
    if model.config.is_encoder_decoder:
        logits = model(input_ids=torch.tensor([read]), labels=torch.tensor([written])).logits[0]
    else:
        logits = model(input_ids=torch.tensor([[*read, *written]])).logits[0][len(read) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(written), reduction="sum")


def generates(model: Any, tokenizer: Any, row: dict[str, str]) -> bool:
    """Whether transformers' greedy decoding writes the answer and ends there."""
    read, written = sequence(tokenizer, row, model.config.is_encoder_decoder)
    out = model.generate(
        torch.tensor([read]), max_new_tokens=len(written), do_sample=False, pad_token_id=tokenizer.pad_token_id or 0
    )[0].tolist()
    return out[-len(written) :] == written


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_answers_are_scored_as_transformers_generates_them(
    architecture: str, compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path
) -> None:
    model, tokenizer = save_trained(tmp_path / "model", pico_cache, architecture, 0)
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    columns = ("text=prompt", "target=answer", "batch_size=4")
    config = compose(f"checkpoint={tmp_path / 'model'}", f"data={tmp_path / 'answers.jsonl'}", *columns)
    check(config)
    (result,) = run(config, tmp_path / "job").results
    with torch.no_grad():
        right = [generates(model, tokenizer, row) for row in ROWS]
        losses = [float(loss_of(model, tokenizer, row)) for row in ROWS]
    count = sum(len(sequence(tokenizer, row, architecture == "t5")[1]) for row in ROWS)
    assert 0 < sum(right) < len(right)
    assert result.metrics["answers"]["exact_match"] == pytest.approx(100 * sum(right) / len(right))
    assert result.metrics["answers"]["perplexity"] == pytest.approx(math.exp(sum(losses) / count), rel=1e-4)
    assert result.scores["in_domain"] == {"answers": result.metrics["answers"]["exact_match"]}
    assert result.suite == "text_generation"
    (found,) = find_runs([tmp_path]).runs
    assert found.result.scores == result.scores
    again = compose(f"checkpoint={tmp_path / 'model'}", f"data={tmp_path / 'answers.jsonl'}", *columns)
    written = (tmp_path / "job" / "model" / "result.json").stat().st_mtime_ns
    run(again, tmp_path / "job")
    assert (tmp_path / "job" / "model" / "result.json").stat().st_mtime_ns == written  # found


def test_a_suite_of_texts_a_comparison_and_texts_without_a_target(
    compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path
) -> None:
    """A decoder that has learned some answers, and the pretrained one, which knows none."""
    model, tokenizer = save_trained(tmp_path / "model", pico_cache, "gpt2", 0)
    pretrained = pico_folder("gpt2", pico_cache)
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    both = f"checkpoint=[{tmp_path / 'model'},{pretrained}]"
    config = compose(both, f"data={tmp_path / 'answers.jsonl'}", "text=prompt", "target=answer")
    measured = run(config, tmp_path / "both")
    (line,) = measured.lines
    right = sum(generates(model, tokenizer, row) for row in ROWS)
    assert f"alone on 0 and {right}" in line

    config = compose(f"checkpoint={tmp_path / 'model'}", f"data={tmp_path / 'answers.jsonl'}", "text=prompt")
    (result,) = run(config, tmp_path / "texts").results
    total, count = 0.0, 0
    with torch.no_grad():
        for row in ROWS:
            tokens = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
            total += float(model(tokens, labels=tokens).loss) * (tokens.shape[1] - 1)
            count += tokens.shape[1] - 1
    assert result.metrics["answers"]["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert result.mean_in_domain == result.metrics["answers"]["token_accuracy"]

    suite = ["suite=text_generation", "suite.form=causal", "suite.text=prompt", "suite.target=answer"]
    suite += [f"suite.corpora.a={tmp_path / 'answers.jsonl'}", "suite.out_of_domain=[a]", "corpora=[a]"]
    (of_suite,) = run(compose(f"checkpoint={tmp_path / 'model'}", *suite), tmp_path / "suite").results
    assert of_suite.metrics["a"].keys() == {"exact_match", "token_accuracy", "perplexity"}


def test_what_does_not_go_together_is_told(
    compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path
) -> None:
    decoder, encoder_decoder = (pico_folder(name, pico_cache) for name in ("gpt2", "t5"))
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = f"data={tmp_path / 'answers.jsonl'}"

    def told(*overrides: str) -> str:
        with pytest.raises(ConfigurationError) as raised:
            check(compose(*overrides))
        return "\n".join(raised.value.problems)

    found = told(f"checkpoint=[{decoder},{encoder_decoder}]", data, "text=prompt", "target=answer")
    assert "models of several kinds of task" in found and "(causal)" in found and "(seq2seq)" in found
    found = told(f"checkpoint={decoder}", data, "text=prompt", "label=answer", "score=accuracy")
    assert "label: gpt2" in found or "label: " in found
    assert "score: of " in found and "got 'accuracy' (did you mean token_accuracy" in found
    assert "target: there is no column 'reply'" in told(f"checkpoint={decoder}", data, "text=prompt", "target=reply")
    suite = ["suite=text_generation", f"suite.corpora.a={tmp_path / 'answers.jsonl'}", "suite.text=prompt"]
    found = told(f"checkpoint={decoder}", *suite, "suite.target=answer", "corpora=[a]")
    assert "a is for suite.form=seq2seq; the checkpoint is causal" in found
