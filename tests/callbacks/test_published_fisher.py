"""Fisher information as published: squares of gradients of batches' mean losses, against naive loops in float64."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_members import Member
from torch import Tensor, nn

from regmean_lab.callbacks.statistics import StatisticsRequest, collect_for_entry, measure, open_statistics
from regmean_lab.config.groups import FisherConfig, ModelConfig, TrainerConfig
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.modules import TaskModule, module_type
from regmean_lab.statistics import FisherStatistics, StatisticsError
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.emotion_text import EmotionTextSettings, EmotionTextSuite
from regmean_lab.training.trainers import test_trainer as make_trainer

X = IGNORED
BATCH_SIZE, EXAMPLES = 4, 10
"""Two whole batches, and one of two examples."""


def request(labels_from: str) -> StatisticsRequest:
    """In float64, whose sums of squares are kept in float32."""
    settings = FisherConfig(examples=EXAMPLES, labels_from=labels_from)
    return StatisticsRequest("fisher", settings, BATCH_SIZE, seed=3, precision="64-true")


def trainer() -> Any:
    return make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False, precision="64-true"))


def measured(module: TaskModule, batches: Any, labels_from: str) -> FisherStatistics:
    statistics = measure(trainer(), request(labels_from), module, batches, "")
    assert isinstance(statistics, FisherStatistics)
    return statistics


def mean_of_squares(model: nn.Module, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """The mean over batches of the squared gradients of their losses."""
    named = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    count = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient**2
        count += 1
    return {name: value / count for name, value in total.items()}


def check(found: Callable[[str], Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    """Equal, relative to each tensor's largest entry: what does not move an output is nothing but rounding."""
    largest = max(float(value.max()) for value in expected.values())
    assert largest > 0
    for name, value in expected.items():
        scale = max(float(value.max()), 1e-9 * largest)
        assert float((found(name).double() - value).abs().max()) / scale < tolerance, name


def module_of(checkpoint: Checkpoint, task: Task) -> TaskModule:
    """A model with random weights, in evaluation mode."""
    torch.manual_seed(0)
    module_class = module_type(task)
    model = module_class.new_model(checkpoint, task)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module_class(model, task).eval()


def pico(name: str, cache: Path) -> Checkpoint:
    return find_checkpoint(ModelConfig(name, f"pico:{name}"), cache)


def made_up_batches(*labels: Any, dtype: torch.dtype = torch.long) -> list[dict[str, Tensor]]:
    """Batches of three and of two sentences with these labels."""
    masks = ([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], [[1, 1, 1, 1], [1, 1, 0, 0]])
    batches = []
    for number, (mask, own) in enumerate(zip(masks, labels, strict=True)):
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(5, 90, (len(mask), len(mask[0])), generator=generator)
        batches.append(
            {"input_ids": ids, "attention_mask": torch.tensor(mask), "labels": torch.tensor(own, dtype=dtype)}
        )
    return batches


def test_hard_labels_of_emotions_come_out_of_all_outputs(members: list[Member]) -> None:
    """−log softmax of the largest of all 16 logits, annotated or not; batches as drawn, one sentence at a time."""
    member = members[0]
    source = member.source()
    assert collect_for_entry(
        trainer(), member.entry, request("batch_hard"), source.load, source.batches, member.fingerprint
    )
    texts = [example.text for example in member.suite.examples(member.corpus, "train")]
    generator = random.Random(3)
    keys = [generator.random() for _ in texts]
    order = sorted(range(len(texts)), key=lambda index: keys[index])[:EXAMPLES]
    tokenizer = member.checkpoint.tokenizer()
    model: Any = member.load().model.double()
    chosen: list[int] = []

    def loss(batch: list[int]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for index in batch:
            encoded = tokenizer(texts[index], truncation=True, max_length=32, return_tensors="pt")
            (logits,) = model(**encoded).logits
            assert logits.shape == (16,)
            label = max(range(16), key=lambda number: float(logits[number].detach()))
            chosen.append(label)
            total = total - (logits[label] - logits.exp().sum().log())
        return total / len(batch)

    batches = [order[start : start + BATCH_SIZE] for start in range(0, EXAMPLES, BATCH_SIZE)]
    expected = mean_of_squares(model, (loss(batch) for batch in batches))
    known = member.suite.annotated_labels(member.corpus)
    assert any(not known[label] for label in chosen)  # otherwise it could not be told from annotated ones only
    statistics = open_statistics(member.entry, request("batch_hard"), member.fingerprint)
    check(statistics.read, expected)
    assert (statistics.examples, statistics.batches) == (EXAMPLES, 3)
    assert statistics.metadata["labels_from"] == "batch_mean"
    assert statistics.metadata["batch_mean_labels"] == "pseudo"
    assert statistics.metadata["settings"]["labels_from"] == "batch_hard"


def test_hard_labels_of_sentences(pico_cache: Path) -> None:
    module = module_of(pico("roberta", pico_cache), Task("single_label", ("a", "b", "c"), "accuracy"))
    batches = made_up_batches([2, 0, 1], [1, 1])
    statistics = measured(module, lambda *_, **__: batches, "batch_hard")
    model: Any = module.model.double()

    def loss(batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"]).logits
        return -torch.stack([row.softmax(0).max().log() for row in logits]).mean()

    check(statistics.diagonal, mean_of_squares(model, map(loss, batches)))


@pytest.mark.parametrize("labels_from", ["batch_hard", "batch_loss"])
def test_a_regression_has_its_squared_error(labels_from: str, pico_cache: Path) -> None:
    """Whatever is asked for, with true labels: the loss of transformers, not half of it."""
    module = module_of(pico("bert", pico_cache), Task("regression", ("score",), "pearson"))
    batches = made_up_batches([0.3, -1.2, 2.5], [1.0, 0.25], dtype=torch.float32)
    statistics = measured(module, lambda *_, **__: batches, labels_from)
    model: Any = module.model.double()
    model.config.problem_type = "regression"
    losses = (model(**{**batch, "labels": batch["labels"].double()}).loss for batch in batches)
    expected = mean_of_squares(model, losses)
    check(statistics.diagonal, expected)
    half = measured(module, lambda *_, **__: batches, "batch_mean")  # variance 1
    check(lambda name: 4 * half.diagonal(name).double(), expected)


@pytest.mark.parametrize("architecture", ["roberta", "deberta_v2"])
def test_tags_have_the_loss_of_their_model(architecture: str, pico_cache: Path) -> None:
    """The mean over all labelled tokens of a batch."""
    module = module_of(pico(architecture, pico_cache), Task("token_labels", ("O", "B", "I"), "entity_f1"))
    batches = made_up_batches(
        [[X, 0, 1, 2, X], [X, 2, X, X, X], [X, 0, 0, X, X]],
        [[X, 1, 1, X], [X, 0, X, X]],
    )
    statistics = measured(module, lambda *_, **__: batches, "batch_loss")
    model: Any = module.model.double()
    check(statistics.diagonal, mean_of_squares(model, (model(**batch).loss for batch in batches)))


def test_emotions_have_their_loss(members: list[Member]) -> None:
    """Binary cross-entropy, the mean over the annotated labels of a batch."""
    module = members[0].load()
    labels = torch.full((5, 16), X)
    labels[:, :3] = torch.tensor([[0, 1, X], [1, X, X], [0, 0, 1], [X, 1, X], [1, 1, 1]])
    batches = made_up_batches(labels[:3].tolist(), labels[3:].tolist())
    statistics = measured(module, lambda *_, **__: batches, "batch_loss")
    model: Any = module.model.double()

    def loss(batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"]).logits
        terms = [
            (-logit).exp().log1p() if label == 1 else logit.exp().log1p()
            for logit, label in zip(logits.flatten(), batch["labels"].flatten().tolist(), strict=True)
            if label != X
        ]
        return torch.stack(terms).mean()

    check(statistics.diagonal, mean_of_squares(model, map(loss, batches)))


@pytest.mark.parametrize("architecture", ["t5", "gpt2"])
def test_answers_in_words_have_the_loss_of_their_model(
    architecture: str, tmp_path: Path, pico_cache: Path, write_emotions: Callable[[Path], Path]
) -> None:
    """Minus the log-likelihood of all tokens of the right answers over the vocabulary, the mean over a batch's tokens.

    For GPT-2 the loss of transformers, one question after the other, without padding.
    """
    suite = EmotionTextSuite(write_emotions(tmp_path), EmotionTextSettings(out_of_domain=["emoint"]))
    checkpoint = pico(architecture, pico_cache)
    data = CorpusDataModule(suite, checkpoint.tokenizer(), batch_size=16, eval_batch_size=16, max_length=48, seed=0)
    module = module_of(checkpoint, suite.task("tec"))

    def make_batches(*arguments: Any, **settings: Any) -> list[dict[str, Tensor]]:
        """The member's batches, with the first answer of each a token shorter where answers have several."""
        batches = list(data.statistics_dataloader("tec", *arguments, **settings))
        for batch in batches:
            batch["target"][0, 1:][-1:] = X
        assert len({tuple(row) for batch in batches for row in batch["target"].tolist()}) > 1
        return batches

    statistics = measured(module, make_batches, "batch_loss")
    assert statistics.batches == 3
    model: Any = module.model.double()

    def loss(batch: dict[str, Tensor]) -> Tensor:
        if architecture == "t5":
            loss: Tensor = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["target"]
            ).loss
            return loss
        total, count = torch.zeros((), dtype=torch.float64), 0
        for ids, mask, target in zip(batch["input_ids"], batch["attention_mask"], batch["target"], strict=True):
            question, answer = ids[mask.bool()], target[target != X]
            labels = torch.cat([torch.full_like(question, X), answer])
            whole = torch.cat([question, answer])
            total = total + model(input_ids=whole[None], labels=labels[None]).loss * len(answer)
            count += len(answer)
        return total / count

    batches = make_batches(EXAMPLES, BATCH_SIZE, 3, drawn_order=True)
    expected = mean_of_squares(model, map(loss, batches))
    check(statistics.diagonal, expected)
    # Of the two answers only, as by default, it is something else.
    of_two = measured(module, make_batches, "batch_mean")
    with pytest.raises(AssertionError):
        check(of_two.diagonal, expected, tolerance=0.1)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [("bert", Task("token_labels", ("O", "B", "I"), "entity_f1")), ("gpt2", Task("answers", ("joy",), "macro_f1"))],
)
def test_hard_labels_are_refused_where_a_text_has_not_one(architecture: str, task: Task, pico_cache: Path) -> None:
    with pytest.raises(StatisticsError, match="batch_hard: takes one label for each text"):
        module_of(pico(architecture, pico_cache), task).fisher_objective("batch_hard")
