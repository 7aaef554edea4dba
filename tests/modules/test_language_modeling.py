"""Texts that models write: scores against greedy decoding and the model's own loss, and batches of prompts."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from regmean_lab.config.groups import ModelConfig, TrainerConfig
from regmean_lab.evaluation.scores import predict
from regmean_lab.metrics.metrics import score
from regmean_lab.models.find import find_checkpoint
from regmean_lab.modules import module_type
from regmean_lab.modules.language_modeling import LanguageModule
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.text_encoding import EncodedText, PromptedText, TextCollator, TextExample, encode_texts
from regmean_lab.training.trainers import test_trainer as make_trainer

TEXTS = [("the sun came out", "happy"), ("she cried all night", "sad and tired"), ("rain", "river"), ("a", "b c d")]


def module_and_batch(form: str, cache: Path) -> tuple[LanguageModule, dict[str, torch.Tensor], Task]:
    task = Task("text", (form,), "exact_match")
    checkpoint = find_checkpoint(ModelConfig("pico", "pico:t5" if form == "seq2seq" else "pico:gpt2"), cache)
    torch.manual_seed(1)
    module = module_type(task)(module_type(task).new_model(checkpoint, task), task).eval()
    assert isinstance(module, LanguageModule)
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    tokenizer = checkpoint.tokenizer()
    make = TextExample if form == "seq2seq" else PromptedText
    encoded = encode_texts([make(text, target) for text, target in TEXTS], tokenizer, 32)
    return module, TextCollator(tokenizer, task)(encoded), task


@pytest.mark.parametrize("form", ["seq2seq", "causal"])
def test_scores_are_those_of_transformers_loss(form: str, pico_cache: Path) -> None:
    module, batch, task = module_and_batch(form, pico_cache)
    with torch.inference_mode():
        scores = score(task, module.evaluate(batch), batch["labels"])
        losses, tokens = [], 0
        for row in range(len(TEXTS)):
            one = {name: value[row : row + 1] for name, value in batch.items()}
            count = int((one["labels"] != IGNORED).sum())
            labels = one["labels"]
            if form == "causal":  # transformers shifts labels itself
                labels = torch.cat([torch.full((1, 1), IGNORED), labels[:, :-1]], 1)
            if form == "causal" and int(one["labels"][0, -1]) != IGNORED:
                one["input_ids"] = torch.cat([one["input_ids"], one["labels"][:, -1:]], 1)
                one["attention_mask"] = torch.ones_like(one["input_ids"])
                labels = torch.cat([torch.full((1, 1), IGNORED), one["labels"]], 1)
            loss = module.model(input_ids=one["input_ids"], attention_mask=one["attention_mask"], labels=labels).loss
            losses.append(float(loss) * count)
            tokens += count
    expected = float(torch.tensor(sum(losses) / tokens).exp())
    assert scores["perplexity"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("form", ["seq2seq", "causal"])
def test_an_exact_match_is_what_greedy_decoding_writes(form: str, pico_cache: Path) -> None:
    module, batch, task = module_and_batch(form, pico_cache)
    model = module.model
    written = []
    for row in range(len(TEXTS)):
        real = int(batch["attention_mask"][row].sum())
        ids = batch["input_ids"][row : row + 1, :real]
        if form == "causal":
            prompt = int((batch["labels"][row] != IGNORED).nonzero()[0]) + 1
            ids = ids[:, :prompt]
        new = model.generate(
            ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, num_beams=1, use_cache=False, pad_token_id=0
        )
        written.append(new[0, 1:] if form == "seq2seq" else new[0, ids.shape[1] :])
    labels = batch["labels"].clone()
    for row, tokens in enumerate(written[:2]):  # two targets are what the model writes, two are not
        start = int((labels[row] != IGNORED).nonzero()[0])
        labels = torch.nn.functional.pad(labels, (0, max(0, start + 4 - labels.shape[1])), value=IGNORED)
        labels[row, start:] = IGNORED
        labels[row, start : start + 4] = tokens
    if form == "causal":  # what is predicted next is what is read next
        width = labels.shape[1]
        read = torch.nn.functional.pad(batch["input_ids"], (0, max(0, width - batch["input_ids"].shape[1])))
        for row, tokens in enumerate(written[:2]):
            start = int((labels[row] != IGNORED).nonzero()[0])
            read[row, start + 1 : start + 4] = tokens[:3]
        batch = {"input_ids": read, "attention_mask": torch.ones_like(read)}
    with torch.inference_mode():
        outputs = module.evaluate({**batch, "labels": labels})
    assert (outputs[:, 1] == outputs[:, 2]).tolist()[:2] == [True, True]
    assert score(task, outputs, labels)["exact_match"] == pytest.approx(
        100 * float((outputs[:, 1] == outputs[:, 2]).double().mean())
    )
    assert outputs[2, 1] < outputs[2, 2]


def longest_common(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence, by a table."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, j in itertools.product(range(len(one)), range(len(other))):
        alike = one[i] == other[j]
        table[i + 1][j + 1] = table[i][j] + 1 if alike else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def rouge(name: str, one: str, other: str) -> float:
    """F1, from its definition; words are lower-case letters and digits."""
    first, second = ("".join(c if c.isalnum() else " " for c in text.lower()).split() for text in (one, other))
    size = 2 if name == "rouge2" else 1
    grams = [Counter(tuple(part[i : i + size]) for i in range(len(part) - size + 1)) for part in (first, second)]
    common = longest_common(first, second) if name == "rougeL" else sum((grams[0] & grams[1]).values())
    total = sum(sum(part.values()) for part in grams)
    return 2 * common / total if total else 0.0


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
@pytest.mark.parametrize("form", ["seq2seq", "causal"])
def test_rouge_is_of_what_generate_writes_alone(form: str, name: str, pico_cache: Path) -> None:
    module, batch, _ = module_and_batch(form, pico_cache)
    task = Task("text", (form,), name)
    module.task = task
    with torch.no_grad():  # so that GPT-2 writes more than one word
        for parameter in module.model.parameters() if form == "causal" else ():
            parameter.add_(0.5 * torch.randn_like(parameter))
    tokenizer = find_checkpoint(
        ModelConfig("pico", "pico:t5" if form == "seq2seq" else "pico:gpt2"), pico_cache
    ).tokenizer()
    rows = []
    for row in range(len(TEXTS)):
        real = int(batch["attention_mask"][row].sum())
        labels = batch["labels"][row]
        start = int((labels != IGNORED).nonzero()[0])
        target = labels[labels != IGNORED].tolist()
        ids = batch["input_ids"][row : row + 1, : real if form == "seq2seq" else start + 1]
        new = module.model.generate(ids, max_new_tokens=2 * len(target) + 8, do_sample=False, num_beams=1)[0]
        written = new[1:] if form == "seq2seq" else new[ids.shape[1] :]
        text = tokenizer.decode(written, skip_special_tokens=True)
        if row == 0:  # a target of which the model writes some
            words = re.findall("[a-z0-9]+", text.lower())
            assert len(words) >= 3
            target = tokenizer(" ".join([*words, "and", words[0]]), add_special_tokens=False)["input_ids"]
        rows.append((target, ids[0].tolist()))
    encoded = []
    for target, read in rows:
        if form == "seq2seq":
            encoded.append(EncodedText(tuple(read), tuple(target), True))
        else:
            encoded.append(EncodedText((*read, *target[:-1]), (*[IGNORED] * (len(read) - 1), *target), False))
    loader = DataLoader(encoded, batch_size=3, collate_fn=TextCollator(tokenizer, task))  # type: ignore[arg-type]
    trainer = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False))
    (predicted,) = predict(trainer, module, [loader])
    scores = []
    for target, read in rows:
        limit = 2 * len(target) + 8
        new = module.model.generate(torch.tensor([read]), max_new_tokens=limit, do_sample=False, num_beams=1)[0]
        written = new[1:] if form == "seq2seq" else new[len(read) :]
        texts = (tokenizer.decode(part, skip_special_tokens=True) for part in (written.tolist(), target))
        scores.append(rouge(name, *texts))
    assert scores[0] > 0
    assert predicted.logits[:, 3].tolist() == pytest.approx(scores, abs=1e-6)
    assert score(task, predicted.logits, predicted.labels)[name] == pytest.approx(100 * sum(scores) / len(scores))


def test_prompts_are_read_and_targets_predicted(pico_cache: Path) -> None:
    tokenizer = find_checkpoint(ModelConfig("pico", "pico:gpt2"), pico_cache).tokenizer()
    (encoded,) = encode_texts([PromptedText("the sun", " came out")], tokenizer, None)
    prompt, target = tokenizer("the sun")["input_ids"], tokenizer(" came out")["input_ids"]
    whole = [*prompt, *target, tokenizer.eos_token_id]
    assert list(encoded.tokens) == whole[:-1]
    assert list(encoded.target) == [IGNORED] * (len(prompt) - 1) + whole[len(prompt) :]
    (cut,) = encode_texts([PromptedText("the sun", " came out")], tokenizer, len(whole) - 2)
    assert list(cut.tokens) == whole[2:-1]
    assert [token for token in cut.target if token != IGNORED] == whole[len(prompt) :]


def test_the_form_must_be_the_models(pico_cache: Path) -> None:
    for form, name in (("seq2seq", "pico:gpt2"), ("causal", "pico:t5")):
        checkpoint = find_checkpoint(ModelConfig("mine", name), pico_cache)
        other = "causal" if form == "seq2seq" else "seq2seq"
        (problem,) = LanguageModule.model_problems(checkpoint, Task("text", (form,), "exact_match"))
        assert problem.endswith(f"expected suite.form={other}")
        assert LanguageModule.model_problems(checkpoint, Task("text", (other,), "exact_match")) == []
