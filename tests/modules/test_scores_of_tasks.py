"""Loss-weighted Gram matrices of every kind of task, row by row and score by score, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)
from weighted_rows import centred, mixture, naive_weighted

from regmean_lab.modules import TaskModule
from regmean_lab.modules.language_modeling import LanguageModule
from regmean_lab.modules.reading import ReadingModule
from regmean_lab.modules.sequence_classification import SequenceClassificationModule
from regmean_lab.modules.text_generation import TextGenerationModule
from regmean_lab.modules.token_classification import TokenClassificationModule
from regmean_lab.statistics import KINDS, GramConfig, WeightedGramConfig, linear_layers, scores, weighted_gram
from regmean_lab.suites.base import IGNORED, Task

WORDS = 23
LENGTHS = (5, 3, 6)


def bert(labels: int = 2) -> BertConfig:
    return BertConfig(
        vocab_size=WORDS,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=24,
        num_labels=labels,
    )


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=WORDS, n_embd=8, n_layer=1, n_head=2, n_positions=24, bos_token_id=1, eos_token_id=2)
    )


def t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=WORDS,
            d_model=8,
            d_kv=4,
            d_ff=12,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
            pad_token_id=0,
            tie_word_embeddings=False,
        )
    )


def texts(
    labels: Callable[[int], list[Any]] | None = None, *, by_token: bool = False
) -> tuple[dict[str, Tensor], list[Any]]:
    """Padded texts with their labels, and each alone.

    Args:
        labels: of an example's length, its labels.
        by_token: whether they are padded as the text is.
    """
    generator = torch.Generator().manual_seed(3)
    alone = []
    for length in LENGTHS:
        ids = torch.randint(3, WORDS, (1, length), generator=generator)
        own = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if labels is not None:
            own["labels"] = torch.tensor([labels(length)])
        alone.append(own)
    fill = {"input_ids": 0, "attention_mask": 0, **({"labels": IGNORED} if by_token else {})}
    return joined(alone, fill), alone


def joined(alone: list[dict[str, Tensor]], fill: dict[str, int]) -> dict[str, Tensor]:
    """Examples as one batch; tensors with a filling are padded with it."""
    width = max(LENGTHS)
    return {
        key: torch.cat(
            [torch.nn.functional.pad(one[key], (0, width - one[key].shape[1]), value=fill[key]) for one in alone]
            if key in fill
            else [one[key] for one in alone]
        )
        for key in alone[0]
    }


def words_tagged(length: int) -> list[int]:
    return [IGNORED, *[number % 3 for number in range(length - 2)], IGNORED]


def answer(length: int) -> dict[str, Tensor]:
    """A question about a text of some length, whose answers have one token or several."""
    ids = torch.arange(3, 3 + length).unsqueeze(0)
    options = torch.tensor([[[4, IGNORED], [5, 6]]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "answer_prefix": torch.tensor([[7]]),
        "answers": options,
        "target": torch.tensor([[7, 4, 2]]),
        "labels": torch.tensor([[0, 1]]),
    }


def of_tokens(logits: Tensor, labels: Tensor) -> list[Tensor]:
    return centred(logits[0][labels[0] != IGNORED])


def case(name: str) -> tuple[TaskModule, dict[str, Tensor], list[Any], Callable[[Any], list[Tensor]]]:
    """A module, a padded batch, its examples alone, and the scores of one."""
    torch.manual_seed(0)
    module: Any
    given = texts()
    if name in ("single_label", "multi_label", "regression"):
        outputs = {"single_label": 3, "multi_label": 3, "regression": 1}[name]
        labels = {"single_label": [0], "multi_label": [1, IGNORED, 0], "regression": [0.5]}[name]
        task: Any = Task(name, tuple("abc"[:outputs]), "x")  # type: ignore[arg-type]
        module = SequenceClassificationModule(BertForSequenceClassification(bert(outputs)), task)
        given = texts(lambda _: labels)
        if name != "multi_label":
            for one in (given[0], *given[1]):
                one["labels"] = one["labels"][:, 0]

        def wanted(one: Any) -> list[Tensor]:
            logits = module(one)
            if name == "single_label":
                return centred(logits)
            return [logits[0, 0], logits[0, 2]] if name == "multi_label" else [logits[0, 0]]

    elif name == "token_labels":
        module = TokenClassificationModule(BertForTokenClassification(bert(3)), Task(name, ("a", "b", "c"), "x"))
        given = texts(words_tagged, by_token=True)
        wanted = lambda one: of_tokens(module(one), one["labels"])  # noqa: E731
    elif name == "pairs":
        module = ReadingModule(BertForQuestionAnswering(bert()), Task("unlabelled", ("pairs",), "loss"))

        def wanted(one: Any) -> list[Tensor]:
            outputs = module.model(**one)
            return [*centred(outputs.start_logits), *centred(outputs.end_logits)]

    elif name == "choices":
        module = ReadingModule(BertForMultipleChoice(bert()), Task("unlabelled", ("choices",), "loss"))
        wanted = lambda one: [module(one)[0, 0]]  # noqa: E731
    elif name == "masked_lm":
        module = ReadingModule(BertForMaskedLM(bert()), Task("unlabelled", ("texts",), "loss"))
        wanted = lambda one: centred(module(one)[0])  # noqa: E731
    elif name == "encoder":
        module = ReadingModule(BertModel(bert(), add_pooling_layer=False), Task("unlabelled", ("texts",), "loss"))
        wanted = lambda one: list(module(one).flatten())  # noqa: E731
    elif name == "causal":
        module = LanguageModule(gpt2(), Task("text", (), "loss"))
        given = texts(lambda length: [IGNORED, *range(4, 3 + length)], by_token=True)
        wanted = lambda one: of_tokens(module(one), one["labels"])  # noqa: E731
    elif name == "seq2seq":
        module = LanguageModule(t5(), Task("text", (), "loss"))
        given = texts(lambda _: [4, 5, 2, 6])
        wanted = lambda one: of_tokens(module(one), one["labels"])  # noqa: E731
    else:
        model = t5() if name == "answers of t5" else gpt2()
        module = TextGenerationModule(model, Task("answers", ("a", "b"), "x"))
        alone = [answer(length) for length in LENGTHS]
        given = (joined(alone, {"input_ids": 0, "attention_mask": 0}), alone)
        wanted = lambda one: centred(module(one))  # noqa: E731
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape) + (parameter.dim() == 1) * 0.3)
    return module.double().eval(), *given, wanted


CASES = [
    *("single_label", "multi_label", "regression", "token_labels", "pairs", "choices", "masked_lm", "encoder"),
    *("causal", "seq2seq", "answers of t5", "answers of gpt2"),
]


def all_directions(given: scores.Scores, *_: Any) -> Iterator[Tensor]:
    """Every contrast of every place as a column of its own, in place of random signs."""
    values, counted = given.table()
    for place in range(values.shape[1]):
        for score in range(values.shape[2]):
            column = torch.zeros_like(values)
            for row in range(len(values)):
                own = counted[row, place].to(values.dtype)
                if own[score]:
                    column[row, place, score] = 1
                    if given.shift_invariant:
                        column[row, place] -= own / own.sum()
            yield column.reshape(given.values.shape)


@pytest.mark.parametrize("name", CASES)
def test_every_row_counts_by_its_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch, alone, wanted = case(name)
    expected, effective = naive_weighted(module.model, alone, wanted)
    plain = KINDS["gram"].collection(module, GramConfig(), None, False)
    plain.add(batch)
    grams = plain.compute()
    monkeypatch.setattr(weighted_gram, "directions", all_directions)
    collection = KINDS["weighted_gram"].collection(module, WeightedGramConfig(plain_share=0.1), None, False)
    collection.add(batch)
    found = collection.compute()
    assert found.layers == list(linear_layers(module.model))
    for layer in found.layers:
        gram = grams.matrix(layer).double()
        mixed = mixture(expected[layer], gram, 0.1) if layer in expected else gram
        difference = float((found.matrix(layer) - mixed).norm())
        assert difference < 1e-5 * float(mixed.norm()), layer
        if layer in expected:
            assert found.effective_rows[layer] == pytest.approx(min(effective[layer], found.rows[layer]), rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_few_draws_are_enough_and_padding_changes_nothing(name: str) -> None:
    module, batch, alone, _ = case(name)
    found = []
    for batches in ([batch], alone):
        collection = KINDS["weighted_gram"].collection(module, WeightedGramConfig(), None, False)
        for one in batches:
            collection.add(one)
        found.append(collection.compute())
    for layer in found[0].layers:
        difference = float((found[0].matrix(layer) - found[1].matrix(layer)).norm())
        assert difference < 1e-5 * float(found[1].matrix(layer).norm()), layer


def test_labels_are_not_needed() -> None:
    module, batch, _, _ = case("single_label")
    found = []
    for labels in (torch.tensor([0, 1, 2]), torch.tensor([2, 2, 2])):
        collection = KINDS["weighted_gram"].collection(module, WeightedGramConfig(), None, False)
        collection.add({**batch, "labels": labels})
        found.append(collection.compute())
    assert all(torch.equal(found[0].matrix(layer), found[1].matrix(layer)) for layer in found[0].layers)
