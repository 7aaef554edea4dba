from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerBase

from regmean_lab.config.groups import ModelConfig
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.modules import Optimization, module_type
from regmean_lab.modules.base import WrittenAnswers
from regmean_lab.modules.text_generation import WRITTEN_TOKENS, TextGenerationModule
from regmean_lab.statistics import GramStatistics, collect_fisher, collect_gram, is_linear
from regmean_lab.suites.answer_encoding import AnswerCollator, EncodedQuestion, encode_questions
from regmean_lab.suites.answers import AnswerExample, Wording
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.emotion_text import WORDINGS

TASK = Task("answers", ("joy", "fear"), "macro_f1")
BY_GENERATION = Task("answers", ("joy", "fear"), "macro_f1", answer_by="generation")
SENTENCES = (
    "I was so happy when the sun came out",
    "She cried all night",
    "Are you afraid of the dark?",
    "The river rose after a week of rain, and the people of the village moved",
    "happy, happy, happy",
)
LONGER = (  # answers of several tokens, and of different numbers of them
    Wording("text_to_text", WORDINGS[0].question, ("<extra_id_0> no", "<extra_id_0> yes no yes")),
    Wording("causal", WORDINGS[1].question, (" no yes", " yes")),
)
ARCHITECTURES = ("t5", "gpt2")


def checkpoint(architecture: str, cache: Path) -> Checkpoint:
    return find_checkpoint(ModelConfig(f"pico_{architecture}", f"pico:{architecture}"), cache)


def new_module(
    architecture: str, cache: Path, task: Task = TASK, noise: float = 0.2, optimization: Optimization | None = None
) -> TextGenerationModule:
    """A pico model whose weights are large enough that logits differ, without dropout."""
    torch.manual_seed(5)
    model = TextGenerationModule.new_model(replace(checkpoint(architecture, cache), dropout=0.0), task)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    module = TextGenerationModule(model, task, optimization)
    return module.eval()


def encoded(
    tokenizer: PreTrainedTokenizerBase, wordings: tuple[Wording, ...] = WORDINGS, sentences: tuple[str, ...] = SENTENCES
) -> list[EncodedQuestion]:
    """Questions about joy (it is there with the word happy) and fear (with the word dark)."""
    examples = [
        AnswerExample(text, (int(word in text), label), subject=TASK.labels[label], wordings=wordings)
        for text in sentences
        for label, word in enumerate(("happy", "dark"))
    ]
    return encode_questions(examples, tokenizer, 64)


def batch_of(tokenizer: PreTrainedTokenizerBase, questions: list[EncodedQuestion]) -> dict[str, Tensor]:
    return AnswerCollator(tokenizer, TASK)(questions)


def teacher_forced(model: Any, question: EncodedQuestion, answer: tuple[int, ...]) -> Tensor:
    """Logits of an answer's tokens for one question without padding, from a plain call of the model."""
    tokens = torch.tensor([question.tokens])
    following = torch.tensor([answer])
    if model.config.is_encoder_decoder:
        return model(input_ids=tokens, labels=following).logits[0]
    return model(input_ids=torch.cat([tokens, following], 1)).logits[0, tokens.shape[1] - 1 : -1]


def log_probability(model: Any, question: EncodedQuestion, number: int) -> Tensor:
    """Sum of the log-probabilities of all tokens of an answer but its end-of-sequence token."""
    answer = (*question.answers.prefix, *question.answers.options[number])
    each = teacher_forced(model, question, answer).log_softmax(-1)
    return sum((each[place, token] for place, token in enumerate(answer)), torch.zeros(()))


def written_by_generate(model: Any, question: EncodedQuestion, count: int = WRITTEN_TOKENS) -> list[int]:
    """What transformers' own generation writes greedily."""
    tokens = torch.tensor([question.tokens])
    arguments: dict[str, Any] = {"do_sample": False, "num_beams": 1, "max_new_tokens": count, "pad_token_id": 0}
    result = model.generate(tokens, attention_mask=torch.ones_like(tokens), **arguments)[0].tolist()
    return result[1:] if model.config.is_encoder_decoder else result[tokens.shape[1] :]


@contextmanager
def inputs_of_layers(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """All rows that linear layers receive inside the ``with`` block."""
    rows: dict[str, list[Tensor]] = {}
    handles = []
    for name, layer in model.named_modules():
        if is_linear(layer):

            def keep(layer: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
                rows.setdefault(name, []).extend(given[0].detach().double().flatten(0, -2))

            handles.append(layer.register_forward_pre_hook(keep))
    try:
        with torch.no_grad():
            yield rows
    finally:
        for handle in handles:
            handle.remove()


def gram_of(rows: list[Tensor]) -> Tensor:
    return sum((torch.outer(row, row) for row in rows), torch.zeros(())) / len(rows)


def collected(
    module: TextGenerationModule,
    batches: list[dict[str, Tensor]],
    written: WrittenAnswers | None = None,
    count_padding: bool = False,
) -> GramStatistics:
    return collect_gram(
        module.model,
        (part for batch in batches for part in module.gram_batches(batch, written)),
        forward=lambda model, batch: module.gram_pass(batch),
        mask=module.gram_mask,
        count_padding=count_padding,
    )


def check_grams(statistics: GramStatistics, rows: dict[str, list[Tensor]]) -> None:
    assert set(statistics.layers) == set(rows)
    for name in rows:
        assert statistics.rows[statistics.shared[name]] == len(rows[name])
        torch.testing.assert_close(statistics.matrix(name).double(), gram_of(rows[name]), rtol=1e-4, atol=1e-5)


def train(module: TextGenerationModule, batch: dict[str, Tensor], steps: int) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        module.batch_loss(batch).backward()
        optimizer.step()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("wordings", [WORDINGS, LONGER], ids=["one token", "several tokens"])
def test_scores_are_the_log_probabilities_of_the_answers(
    architecture: str, wordings: tuple[Wording, ...], pico_cache: Path
) -> None:
    """In a padded batch as for one question alone; up to the share of what both answers begin with."""
    tokenizer, module = checkpoint(architecture, pico_cache).tokenizer(), new_module(architecture, pico_cache)
    questions = encoded(tokenizer, wordings)
    with torch.no_grad():
        logits = module(batch_of(tokenizer, questions))
        expected = torch.tensor(
            [[log_probability(module.model, part, number) for number in (0, 1)] for part in questions]
        )
    torch.testing.assert_close(logits.diff(dim=1), expected.diff(dim=1), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits.argmax(1), expected.argmax(1))
    assert logits.dtype == torch.float32
    if not questions[0].answers.prefix:
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_do_not_look_at_the_right_answer(architecture: str, pico_cache: Path) -> None:
    tokenizer, module = checkpoint(architecture, pico_cache).tokenizer(), new_module(architecture, pico_cache)
    batch = batch_of(tokenizer, encoded(tokenizer))
    other = {**batch, "target": torch.full_like(batch["target"], 3), "labels": 1 - batch["labels"]}
    with torch.no_grad():
        assert torch.equal(module(batch), module(other))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("wordings", [WORDINGS, LONGER], ids=["one token", "several tokens"])
def test_loss_is_the_mean_cross_entropy_of_all_tokens_of_the_right_answers(
    architecture: str, wordings: tuple[Wording, ...], pico_cache: Path
) -> None:
    tokenizer, module = checkpoint(architecture, pico_cache).tokenizer(), new_module(architecture, pico_cache)
    questions = encoded(tokenizer, wordings)
    losses = []
    for part in questions:
        target = part.answers.written(part.label[0])
        each = teacher_forced(module.model, part, target).log_softmax(-1)
        losses += [-each[place, token] for place, token in enumerate(target)]
    loss = module.batch_loss(batch_of(tokenizer, questions))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generation_is_that_of_transformers(architecture: str, pico_cache: Path) -> None:
    """In every stage of training, from random tokens to right answers."""
    tokenizer = checkpoint(architecture, pico_cache).tokenizer()
    module = new_module(architecture, pico_cache, BY_GENERATION)
    questions = encoded(tokenizer)
    batch = batch_of(tokenizer, questions)
    seen = set()
    for steps in (0, 15, 60):
        train(module, batch, steps)
        decisions = module.evaluate(batch)
        for part, decision in zip(questions, decisions.tolist(), strict=True):
            written = written_by_generate(module.model, part)
            text = str(tokenizer.decode(written, skip_special_tokens=True)).strip()
            assert decision == ([0.0, 1.0] if text.split(" ")[0] == "yes" else [1.0, 0.0])
            seen.add(text.split(" ")[0] if text.split(" ")[0] in ("yes", "no") else "other")
    assert seen == {"yes", "no", "other"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scoring_and_generation_agree_on_a_model_that_has_learned_to_answer(
    architecture: str, pico_cache: Path
) -> None:
    tokenizer, module = checkpoint(architecture, pico_cache).tokenizer(), new_module(architecture, pico_cache)
    batch = batch_of(tokenizer, encoded(tokenizer))
    train(module, batch, 80)
    with torch.no_grad():
        scored = module.evaluate(batch).argmax(1)
        written = TextGenerationModule(module.model, BY_GENERATION).evaluate(batch).argmax(1)
    assert scored.tolist() == batch["labels"][:, 0].tolist()
    assert written.tolist() == scored.tolist()


def test_answers_that_are_longer_than_what_is_written_are_refused(pico_cache: Path) -> None:
    tokenizer = checkpoint("gpt2", pico_cache).tokenizer()
    module = new_module("gpt2", pico_cache, BY_GENERATION)
    wording = Wording("causal", WORDINGS[1].question, (" no", " yes yes yes yes yes"))
    with pytest.raises(ValueError, match="answers have 5 tokens and generation writes 4: use answer_by=scoring"):
        module.evaluate(batch_of(tokenizer, encoded(tokenizer, (wording,))))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_and_validation_in_lightning(architecture: str, pico_cache: Path) -> None:
    """Training minimises the loss of answer tokens; the dev score is that of the answers."""
    tokenizer = checkpoint(architecture, pico_cache).tokenizer()
    module = new_module(architecture, pico_cache, optimization=Optimization(0.01))
    batch = batch_of(tokenizer, encoded(tokenizer))
    before = float(module.batch_loss(batch).detach())
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=80,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: Any = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]  # a list is a map-style dataset
    trainer.fit(module, loader)
    assert float(module.eval().batch_loss(batch).detach()) < before / 4
    trainer.validate(module, loader, verbose=False)
    assert module.dev_scores["accuracy"] == 100
    trainer.test(module, loader, verbose=False)
    (predicted,) = module.predictions()
    assert torch.equal(predicted.labels, batch["labels"])
    assert predicted.logits.argmax(1).tolist() == batch["labels"][:, 0].tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("wordings", [WORDINGS, LONGER], ids=["one token", "several tokens"])
def test_gram_matrices_are_those_of_teacher_forced_passes_without_padding(
    architecture: str, wordings: tuple[Wording, ...], pico_cache: Path
) -> None:
    tokenizer, module = checkpoint(architecture, pico_cache).tokenizer(), new_module(architecture, pico_cache)
    questions = encoded(tokenizer, wordings)
    with inputs_of_layers(module.model) as rows:
        for part in questions:
            target = part.answers.written(part.label[0])
            tokens, following = torch.tensor([part.tokens]), torch.tensor([target])
            if architecture == "t5":
                module.model(input_ids=tokens, labels=following)
            else:
                whole = torch.cat([tokens, following[:, :-1]], 1)
                module.model(input_ids=whole, logits_to_keep=len(target))
    check_grams(collected(module, [batch_of(tokenizer, questions[:6]), batch_of(tokenizer, questions[6:])]), rows)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("steps", "count"), [(0, 4), (15, 3), (80, 4)])
def test_gram_matrices_with_what_the_model_writes(architecture: str, steps: int, count: int, pico_cache: Path) -> None:
    """Whether it writes anything, a right answer and its end, or goes on until it is stopped."""
    tokenizer, module = checkpoint(architecture, pico_cache).tokenizer(), new_module(architecture, pico_cache)
    questions = encoded(tokenizer)
    batch = batch_of(tokenizer, questions)
    train(module, batch, steps)
    with inputs_of_layers(module.model) as rows:
        for part in questions:
            target = part.answers.written(part.label[0])
            if architecture == "t5":
                module.model(input_ids=torch.tensor([part.tokens]), labels=torch.tensor([target]))
            else:
                module.model(input_ids=torch.tensor([[*part.tokens, *target[:-1]]]), logits_to_keep=len(target))
            written_by_generate(module.model, part, count)
    check_grams(collected(module, [batch], WrittenAnswers(count)), rows)


@pytest.mark.parametrize("steps", [0, 30])
def test_rows_after_the_end_of_what_is_written_are_those_of_batched_generation(steps: int, pico_cache: Path) -> None:
    """Three written tokens, as with a longest sequence of four: the start token counts there."""
    tokenizer, module = checkpoint("t5", pico_cache).tokenizer(), new_module("t5", pico_cache)
    questions = encoded(tokenizer)
    train(module, batch_of(tokenizer, questions), steps)
    batches = [batch_of(tokenizer, questions[:4]), batch_of(tokenizer, questions[4:])]
    config = module.model.config
    with inputs_of_layers(module.model) as rows:
        for batch in batches:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            module.model(**inputs, labels=batch["target"])
            module.model.generate(
                **inputs, do_sample=False, num_beams=1, max_length=4, eos_token_id=config.eos_token_id
            )
    check_grams(collected(module, batches, WrittenAnswers(3, padding=True), count_padding=True), rows)
    # Without the padding of questions and right answers, only layers of the decoder have rows of padding.
    statistics = collected(module, batches, WrittenAnswers(3, padding=True))
    padding = sum(int((batch["target"] == IGNORED).sum()) for batch in batches)
    layer = "decoder.block.0.layer.0.SelfAttention.q"
    assert statistics.rows[statistics.shared[layer]] == len(rows[layer]) - padding
    encoder = "encoder.block.0.layer.0.SelfAttention.q"
    assert statistics.rows[statistics.shared[encoder]] == 2 * sum(map(len, (part.tokens for part in questions)))


def test_cross_attention_shares_the_encoders_output(pico_cache: Path) -> None:
    """Keys and values of all decoder layers have one input, that of the questions' tokens."""
    tokenizer, module = checkpoint("t5", pico_cache).tokenizer(), new_module("t5", pico_cache)
    questions = encoded(tokenizer)
    statistics = collected(module, [batch_of(tokenizer, questions)])
    cross = [name for name in statistics.layers if name.endswith(("EncDecAttention.k", "EncDecAttention.v"))]
    assert len(cross) == 4
    assert len({statistics.shared[name] for name in cross}) == 1
    assert statistics.rows[statistics.shared[cross[0]]] == sum(part.length for part in questions)
    query = statistics.shared["decoder.block.0.layer.1.EncDecAttention.q"]
    assert statistics.rows[query] == 3 * len(questions)  # <start> <extra_id_0> yes


def test_masks_of_bart(pico_cache: Path) -> None:
    """Another encoder-decoder, whose layers have other names."""
    torch.manual_seed(0)
    tokenizer = checkpoint("t5", pico_cache).tokenizer()
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=8,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=12,
        decoder_ffn_dim=12,
        max_position_embeddings=80,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    module = TextGenerationModule(BartForConditionalGeneration(config).eval(), TASK).eval()
    questions = encoded(tokenizer)
    with inputs_of_layers(module.model) as rows:
        for part in questions:
            target = part.answers.written(part.label[0])
            before = torch.tensor([[1, *target[:-1]]])
            module.model(input_ids=torch.tensor([part.tokens]), decoder_input_ids=before)
    check_grams(collected(module, [batch_of(tokenizer, questions)]), rows)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("labels_from", ["true", "expectation"])
@pytest.mark.parametrize("wordings", [WORDINGS, LONGER], ids=["one token", "several tokens"])
def test_fisher_information_is_that_of_the_choice_between_the_answers(
    architecture: str, labels_from: Any, wordings: tuple[Wording, ...], pico_cache: Path
) -> None:
    tokenizer, module = checkpoint(architecture, pico_cache).tokenizer(), new_module(architecture, pico_cache)
    questions = encoded(tokenizer, wordings)[:4]
    batch = batch_of(tokenizer, questions)
    statistics = collect_fisher(
        module.model,
        [{**batch, "labels": module.fisher_labels(batch)}],
        kind=module.likelihood,
        labels_from=labels_from,
        forward=lambda model, part: module(part),
    )
    expected = {name: torch.zeros_like(parameter) for name, parameter in module.model.named_parameters()}
    for part in questions:
        scores = torch.stack([log_probability(module.model, part, number) for number in (0, 1)])
        chosen = scores.log_softmax(0)
        for number in (0, 1):
            weight = (
                float(chosen[number].detach().exp()) if labels_from == "expectation" else float(part.label[0] == number)
            )
            gradients = torch.autograd.grad(
                chosen[number], list(module.model.parameters()), retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(expected, gradients, strict=True):
                if gradient is not None:
                    expected[name] += weight * gradient.square() / len(questions)
    assert set(statistics.diagonals) == set(expected)
    for name, diagonal in expected.items():
        torch.testing.assert_close(statistics.diagonal(name), diagonal, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_members_are_saved_and_loaded(architecture: str, pico_cache: Path, tmp_path: Path) -> None:
    tokenizer, module = checkpoint(architecture, pico_cache).tokenizer(), new_module(architecture, pico_cache)
    module.save(tmp_path)
    loaded = TextGenerationModule(TextGenerationModule.load_model(tmp_path), TASK)
    batch = batch_of(tokenizer, encoded(tokenizer))
    with torch.no_grad():
        assert torch.equal(loaded(batch), module(batch))
    assert loaded.model.config.pad_token_id == tokenizer.pad_token_id


def test_models_that_only_read_are_refused(pico_cache: Path) -> None:
    assert module_type(TASK) is TextGenerationModule
    for architecture in ARCHITECTURES:
        assert TextGenerationModule.model_problems(checkpoint(architecture, pico_cache), TASK) == []
    for architecture in ("bert", "roberta", "distilbert", "deberta_v2"):
        (problem,) = TextGenerationModule.model_problems(checkpoint(architecture, pico_cache), TASK)
        assert problem.startswith(f"model: pico_{architecture} (")
        assert "does not write" in problem


def test_encoder_decoder_without_a_first_token_is_refused(pico_cache: Path, tmp_path: Path) -> None:
    source = checkpoint("t5", pico_cache)
    model = TextGenerationModule.new_model(source, TASK)
    model.config.decoder_start_token_id = None
    model.save_pretrained(tmp_path)
    source.tokenizer().save_pretrained(tmp_path)
    (problem,) = TextGenerationModule.model_problems(
        find_checkpoint(ModelConfig("mine", str(tmp_path)), pico_cache), TASK
    )
    assert problem == "model: the config.json of mine lacks decoder_start_token_id, its decoder's first token"
