from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification

from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.modules import module_type
from regmean_lab.modules.token_classification import TokenClassificationModule
from regmean_lab.statistics import collect_fisher
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.conll import LABELS

TASK = Task("token_labels", LABELS, "entity_f1")
X = IGNORED
ENCODERS = ("bert", "roberta", "distilbert", "deberta_v2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pico")


def module_of(architecture: str, cache: Path) -> TokenClassificationModule:
    checkpoint = Checkpoint(architecture, str(pico_folder(architecture, cache)), None, "")
    torch.manual_seed(0)
    return TokenClassificationModule(TokenClassificationModule.new_model(checkpoint, TASK), TASK)


def batch_of(rows: list[list[int]], labels: list[list[int]], padding: int = 0) -> dict[str, Tensor]:
    length = max(len(row) for row in rows)
    return {
        "input_ids": torch.tensor([row + [padding] * (length - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
        "labels": torch.tensor([row + [X] * (length - len(row)) for row in labels]),
    }


def test_it_is_the_module_for_labels_of_tokens() -> None:
    assert module_type(TASK) is TokenClassificationModule


@pytest.mark.parametrize("architecture", ENCODERS)
def test_a_label_for_each_token(architecture: str, cache: Path) -> None:
    module = module_of(architecture, cache)
    module.eval()
    batch = batch_of([[2, 7, 8, 9, 3], [2, 7, 3]], [[X, 0, 1, X, X], [X, 2, X]])
    logits = module(batch)
    assert logits.shape == (2, 5, 7)
    assert module.model.config.id2label == dict(enumerate(LABELS))
    assert module.model.config.label2id["I-ORG"] == 6
    alone = module(batch_of([[2, 7, 3]], [[X, 2, X]]))
    torch.testing.assert_close(logits[1, :3], alone[0], atol=1e-5, rtol=1e-5)


def test_a_saved_module_is_loaded_alike(tmp_path: Path, cache: Path) -> None:
    module = module_of("bert", cache)
    module.eval()
    module.save(tmp_path)
    batch = batch_of([[2, 7, 8, 3]], [[X, 0, 1, X]])
    again = TokenClassificationModule(TokenClassificationModule.load_model(tmp_path), TASK)
    assert not again.model.training
    assert torch.equal(again(batch), module(batch))
    assert isinstance(again.model, type(AutoModelForTokenClassification.from_pretrained(tmp_path)))


def test_loss_is_the_mean_over_labelled_tokens(cache: Path) -> None:
    module = module_of("bert", cache)
    logits = torch.randn(2, 4, 7, dtype=torch.float64)
    labels = torch.tensor([[X, 3, X, 0], [X, 6, X, X]])
    terms = [-logits[0, 1].log_softmax(0)[3], -logits[0, 3].log_softmax(0)[0], -logits[1, 1].log_softmax(0)[6]]
    torch.testing.assert_close(module.loss(logits, labels), (sum(terms) / 3).float())


def test_loss_of_a_batch_without_labels_is_zero(cache: Path) -> None:
    logits = torch.randn(1, 3, 7, requires_grad=True)
    loss = module_of("bert", cache).loss(logits, torch.full((1, 3), X))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_batches_of_different_lengths_are_joined(cache: Path) -> None:
    module = module_of("bert", cache)
    logits = [torch.randn(2, 5, 7), torch.randn(1, 3, 7), torch.randn(3, 4, 7)]
    joined = module.join(logits)
    assert joined.shape == (6, 5, 7)
    for rows, part in zip(((0, 2), (2, 3), (3, 6)), logits, strict=True):
        assert torch.equal(joined[slice(*rows), : part.shape[1]], part)
        assert not joined[slice(*rows), part.shape[1] :].any()
    labels = module.join([torch.tensor([[1, 2, 3]]), torch.tensor([[4], [5]])])
    assert labels.tolist() == [[1, 2, 3], [4, X, X], [5, X, X]]
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("architecture", ["bert", "deberta_v2"])
def test_fisher_information_at_the_true_labels(architecture: str, cache: Path) -> None:
    """Against the gradient of each sentence's log-likelihood, the sum over its labelled words."""
    module = module_of(architecture, cache)
    module.eval()
    rows = [[2, 7, 8, 9, 3], [2, 11, 3], [2, 30, 31, 3]]
    labels = [[X, 0, 1, X, X], [X, 2, X], [X, 6, 5, X]]
    found = collect_fisher(
        module.model,
        [batch_of(rows[:2], labels[:2]), batch_of(rows[2:], labels[2:])],
        kind=module.likelihood,
        forward=lambda model, batch: module(batch),
        labels_from="true",
    )
    expected = {name: torch.zeros_like(value) for name, value in module.model.named_parameters()}
    for row, own in zip(rows, labels, strict=True):
        batch = batch_of([row], [own])
        log_probabilities = module(batch)[0].log_softmax(-1)
        likelihood = sum(log_probabilities[place, label] for place, label in enumerate(own) if label != X)
        module.zero_grad()
        likelihood.backward()  # type: ignore[union-attr]
        for name, parameter in module.model.named_parameters():
            if parameter.grad is not None:
                expected[name] += parameter.grad**2 / len(rows)
    assert expected["classifier.weight"].abs().max() > 1e-6
    for name, value in expected.items():
        torch.testing.assert_close(found.diagonal(name), value, rtol=1e-3, atol=1e-9)


def test_gram_mask_is_that_of_real_tokens(cache: Path) -> None:
    batch = batch_of([[2, 7, 8, 3], [2, 7, 3]], [[X, 0, X, X], [X, 2, X]])
    mask = module_of("bert", cache).gram_mask(batch)
    assert isinstance(mask, Tensor)
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
