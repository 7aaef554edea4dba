from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from regmean_lab.config.groups import ModelConfig
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.modules import module_type
from regmean_lab.modules.reweighting import sqrt_weights
from regmean_lab.modules.sequence_classification import SequenceClassificationModule
from regmean_lab.suites.base import IGNORED, Task

LABELS = ("a", "b", "c")
TASKS = {
    "multi_label": Task("multi_label", LABELS, "macro_f1"),
    "single_label": Task("single_label", LABELS, "accuracy"),
    "regression": Task("regression", ("score",), "pearson"),
}


@pytest.fixture(scope="module")
def checkpoint(pico_cache: Path) -> Checkpoint:
    return find_checkpoint(ModelConfig("pico_bert", "pico:bert"), pico_cache)


def module(checkpoint: Checkpoint, kind: str) -> SequenceClassificationModule:
    torch.manual_seed(0)
    task = TASKS[kind]
    return SequenceClassificationModule(SequenceClassificationModule.new_model(checkpoint, task), task).eval()


def batch(kind: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    labels = {
        "multi_label": torch.tensor([[1, 0, 1], [0, 1, 1]]),
        "single_label": torch.tensor([2, 0]),
        "regression": torch.tensor([0.3, -1.2]),
    }
    return {
        "input_ids": torch.randint(5, 100, (2, 5), generator=generator),
        "attention_mask": mask,
        "labels": labels[kind],
    }


def naive_reweighted(logits: Tensor, labels: Tensor, counts: list[tuple[int, int]]) -> float:
    """The published loss, from its inverse square roots of counts (negatives, positives), in Python's floats."""
    total, annotated = 0.0, 0
    for row, truth in zip(logits.tolist(), labels.tolist(), strict=True):
        for logit, label, (negatives, positives) in zip(row, truth, counts, strict=True):
            if label == IGNORED:
                continue
            annotated += 1
            if not (negatives and positives):
                continue
            inverse = (negatives**-0.5, positives**-0.5)
            probability = 1 / (1 + math.exp(-logit))
            loss = -math.log(probability if label else 1 - probability)
            total += sum(inverse) / (2 * inverse[label]) * loss
    return total / annotated


def test_the_loss_weighted_by_square_roots_is_the_published_one(checkpoint: Checkpoint) -> None:
    generator = torch.Generator().manual_seed(4)
    train = [(1, 0, IGNORED)] * 2 + [(0, 0, 1)] * 18 + [(IGNORED, 0, 0)] * 6
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 0, 1], [0, 1, 0], [IGNORED, 0, 1], [1, IGNORED, IGNORED], [0, 0, 0]])
    classifier = module(checkpoint, "multi_label")
    plain = float(classifier.loss(logits, labels))
    classifier.label_weights = sqrt_weights(train)
    weighted = float(classifier.loss(logits, labels))
    assert weighted == pytest.approx(naive_reweighted(logits, labels, [(18, 2), (26, 0), (6, 18)]), rel=1e-6)
    assert abs(weighted - plain) > 0.05 * plain
    assert not any("label_weights" in name for name in classifier.state_dict())


def test_weights_of_a_balanced_label_are_one() -> None:
    # 9 negatives for a positive: their weights are 2 and 2/3, as 3 to 1, the ratio of the roots of the shares.
    weights = sqrt_weights([(0, 0, 0)] * 9 + [(1, 1, 0)] + [(IGNORED, 1, 0)] * 8)
    torch.testing.assert_close(weights, torch.tensor([[2, 1, 0], [2 / 3, 1, 0]]))


def naive_multi_label(logits: Tensor, labels: Tensor) -> float:
    """Mean over annotated labels of −log p(label), in Python's floats."""
    losses = []
    for row, truth in zip(logits.tolist(), labels.tolist(), strict=True):
        for logit, label in zip(row, truth, strict=True):
            if label != IGNORED:
                probability = 1 / (1 + math.exp(-logit))
                losses.append(-math.log(probability if label else 1 - probability))
    return sum(losses) / max(len(losses), 1)


@pytest.mark.parametrize(
    "labels",
    [
        [[1, 0, 1], [0, 0, 1]],
        [[1, IGNORED, 0], [IGNORED, IGNORED, 1]],
        [[IGNORED, IGNORED, IGNORED], [0, 1, IGNORED]],
        [[IGNORED] * 3] * 2,
    ],
)
def test_binary_cross_entropy_leaves_out_what_is_not_annotated(checkpoint: Checkpoint, labels: list[list[int]]) -> None:
    logits = torch.tensor([[1.5, -0.3, 0.0], [-2.0, 4.0, 0.7]], requires_grad=True)
    truth = torch.tensor(labels)
    loss = module(checkpoint, "multi_label").loss(logits, truth)
    assert loss.item() == pytest.approx(naive_multi_label(logits, truth), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient == 0, truth == IGNORED)


def test_cross_entropy(checkpoint: Checkpoint) -> None:
    logits, labels = torch.tensor([[1.5, -0.3, 0.0], [-2.0, 4.0, 0.7]]), torch.tensor([2, 0])
    expected = sum(
        math.log(sum(math.exp(value) for value in row)) - row[label]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    )
    assert float(module(checkpoint, "single_label").loss(logits, labels)) == pytest.approx(expected / 2, rel=1e-6)


def test_mean_squared_error(checkpoint: Checkpoint) -> None:
    logits, labels = torch.tensor([[1.5], [-2.0]]), torch.tensor([1.0, 0.5])
    assert float(module(checkpoint, "regression").loss(logits, labels)) == pytest.approx((0.25 + 6.25) / 2)


@pytest.mark.parametrize("kind", TASKS)
def test_loss_is_that_of_transformers(checkpoint: Checkpoint, kind: str) -> None:
    """The problem type written into the configuration makes the model's own loss the same one."""
    tested, inputs = module(checkpoint, kind), batch(kind)
    labels = inputs["labels"].float() if kind == "multi_label" else inputs["labels"]
    theirs = tested.model(**{**inputs, "labels": labels})
    torch.testing.assert_close(tested.loss(tested(inputs), inputs["labels"]), theirs.loss)
    torch.testing.assert_close(tested(inputs), theirs.logits)


@pytest.mark.parametrize("kind", TASKS)
def test_loss_of_half_precision_logits_is_float32(checkpoint: Checkpoint, kind: str) -> None:
    tested, inputs = module(checkpoint, kind), batch(kind)
    logits = torch.tensor([[1.5, -0.3, 0.0], [-2.0, 4.0, 0.7]])[:, : len(TASKS[kind].labels)].bfloat16()
    loss = tested.loss(logits, inputs["labels"])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, tested.loss(logits.float(), inputs["labels"]))


@pytest.mark.parametrize("kind", TASKS)
def test_a_saved_model_is_loaded_as_it_was(checkpoint: Checkpoint, kind: str, tmp_path: Path) -> None:
    tested, inputs = module(checkpoint, kind), batch(kind)
    tested.save(tmp_path)
    loaded = SequenceClassificationModule(SequenceClassificationModule.load_model(tmp_path), TASKS[kind])
    assert not loaded.model.training
    weights = loaded.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in tested.model.state_dict().items())
    # Not to the last bit: where in memory weights lie decides which kernel multiplies them.
    torch.testing.assert_close(loaded(inputs), tested(inputs), rtol=1e-5, atol=1e-7)
    assert tuple(loaded.model.config.id2label.values()) == TASKS[kind].labels


@pytest.mark.parametrize(
    ("kind", "likelihood"), [("multi_label", "bernoulli"), ("single_label", "categorical"), ("regression", "gaussian")]
)
def test_kinds_of_task(checkpoint: Checkpoint, kind: str, likelihood: str) -> None:
    tested, inputs = module(checkpoint, kind), batch(kind)
    assert module_type(TASKS[kind]) is SequenceClassificationModule
    assert tested.likelihood == likelihood
    assert tested.gram_mask(inputs) is inputs["attention_mask"]
    assert tested(inputs).shape == (2, len(TASKS[kind].labels))


def test_a_new_head_is_drawn_from_the_global_seed(checkpoint: Checkpoint) -> None:
    task = TASKS["single_label"]
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(SequenceClassificationModule.new_model(checkpoint, task).state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    differing = {name.partition(".")[0] for name in models[0] if not torch.equal(models[0][name], models[2][name])}
    assert differing == {"classifier"}
