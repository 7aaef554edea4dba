"""Texts that models write: scores against greedy decoding and the model's own loss, and batches of prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regmean_lab.config.groups import ModelConfig
from regmean_lab.metrics.metrics import score
from regmean_lab.models.find import find_checkpoint
from regmean_lab.modules import module_type
from regmean_lab.modules.language_modeling import LanguageModule
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.text_encoding import PromptedText, TextCollator, TextExample, encode_texts

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
