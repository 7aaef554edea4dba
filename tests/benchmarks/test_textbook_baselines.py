"""The baselines compute what they are said to compute: otherwise ratios to them would mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.baseline import TextbookGram, textbook_fisher, textbook_regmean
from benchmarks.figure import Setting
from benchmarks.floor import gram_operations, matrix_speed
from benchmarks.merge import drawn_members, merge
from benchmarks.workload import Workload, minilm, real_lengths, shaped
from regmean_lab.merging import MergeMember
from regmean_lab.merging.layout import layout_of
from regmean_lab.statistics import collect_gram

SETTING = Setting(torch.device("cpu"), repeats=1, sentences=40, pico=True)


def work_of(architecture: str) -> Workload:
    return minilm(SETTING) if architecture == "minilm" else shaped(architecture, SETTING, real_lengths(SETTING, 0.5))


@pytest.mark.parametrize("architecture", ["minilm", "roberta_base", "t5_base"])
def test_textbook_gram_is_the_mean_over_all_rows_with_padding(architecture: str) -> None:
    work = work_of(architecture)
    batches = work.random_batches(16)
    rows: dict[str, list[Tensor]] = {}
    handles = [
        part.register_forward_pre_hook(
            lambda _, inputs, name=name: rows.setdefault(name, []).append(inputs[0].double().flatten(0, -2))
        )
        for name, part in work.model.named_modules()
        if isinstance(part, torch.nn.Linear)
    ]
    work.run(batches)
    for handle in handles:
        handle.remove()
    grams = TextbookGram(work.model).collect(work.module.gram_pass, batches)
    assert set(grams) == set(rows)
    assert any(batch["attention_mask"].eq(0).any() for batch in batches)
    for name, parts in rows.items():
        every = torch.cat(parts)
        torch.testing.assert_close(grams[name].double(), every.T @ every / len(every), rtol=1e-4, atol=1e-6)


def test_textbook_gram_equals_ours_with_padding_counted() -> None:
    work = work_of("minilm")
    batches = work.random_batches()
    theirs = TextbookGram(work.model).collect(work.module.gram_pass, batches)
    ours = collect_gram(work.model, batches, count_padding=True)
    for name, matrix in theirs.items():
        torch.testing.assert_close(ours.matrix(name), matrix, rtol=1e-4, atol=1e-6)


def test_textbook_fisher_is_the_mean_square_of_batch_gradients() -> None:
    work = work_of("minilm")
    batches = work.random_batches(16)
    fisher = textbook_fisher(work.model, work.module.batch_loss, batches)
    name = "classifier.weight"
    squares = []
    for batch in batches:
        (gradient,) = torch.autograd.grad(work.module.batch_loss(batch), work.model.get_parameter(name))
        squares.append(gradient.square())
    torch.testing.assert_close(fisher[name], torch.stack(squares).mean(0))
    assert len(squares) == 3


def test_textbook_regmean_equals_the_published_formula_and_ours() -> None:
    work = work_of("minilm")
    weights, grams = drawn_members(work)
    by_layer = [{layer: gram.matrix(layer) for layer in gram.layers} for gram in grams]
    theirs = textbook_regmean(weights, by_layer, 0.9)
    members = [MergeMember(str(number), *pair) for number, pair in enumerate(zip(weights, grams, strict=True))]
    ours = merge(members, layout_of(work.model), work.device)
    assert set(theirs) == set(ours)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-3)
    layer = "bert.encoder.layer.1.output.dense"
    scaled = [0.9 * gram[layer].double() + 0.1 * gram[layer].double().diag().diag() for gram in by_layer]
    right = sum(gram @ state[f"{layer}.weight"].double().T for gram, state in zip(scaled, weights, strict=True))
    expected = torch.linalg.solve(sum(scaled), right).T
    torch.testing.assert_close(theirs[f"{layer}.weight"].double(), expected, rtol=1e-3, atol=1e-4)


def test_sorted_batches_hold_every_sentence_within_the_budget() -> None:
    work = work_of("minilm")
    batches = work.sorted_batches(64)
    assert all(batch["input_ids"].numel() <= 64 for batch in batches)
    assert sum(int(batch["attention_mask"].sum()) for batch in batches) == work.tokens
    assert sum(len(batch["input_ids"]) for batch in batches) == len(work.sentences)
    padded = [sum(batch["input_ids"].numel() for batch in chosen) for chosen in (batches, work.random_batches())]
    assert work.tokens <= padded[0] < padded[1]


def test_operations_of_the_floor_are_those_of_half_the_products_of_distinct_inputs() -> None:
    work = work_of("minilm")
    statistics = collect_gram(work.model, work.sorted_batches())
    tokens, sentences = work.tokens, len(work.sentences)
    # Multiplications and additions of the entries on and above the diagonal, two layers of three inputs 8 wide and one
    # 12 wide; then pooler and classifier.
    per_token = 2 * (3 * 8 * 9 + 12 * 13)
    assert gram_operations(statistics) == tokens * per_token + sentences * 2 * 8 * 9


def test_the_speed_of_a_product_is_positive() -> None:
    assert matrix_speed(torch.device("cpu")) > 1e8


def test_pico_needs_no_data(tmp_path: Path) -> None:
    assert len(minilm(Setting(torch.device("cpu"), sentences=5, pico=True, data_dir=tmp_path)).sentences) == 5
    assert not any(tmp_path.iterdir())
