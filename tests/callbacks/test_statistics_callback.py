from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from drawn_members import Member
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from regmean_lab.callbacks.statistics import (
    StatisticsCallback,
    StatisticsRequest,
    collect_for_entry,
    open_statistics,
    requests_of,
)
from regmean_lab.config.groups import (
    FisherConfig,
    GradientGramConfig,
    GramConfig,
    StatisticsConfig,
    TrainerConfig,
    TrainingConfig,
    WeightedGramConfig,
)
from regmean_lab.statistics import KINDS, FisherFile, GradientGramFile, GramFile, StatisticsError, linear_layers
from regmean_lab.statistics.token_settings import TokensConfig
from regmean_lab.suites.base import IGNORED
from regmean_lab.suites.sampling import seeded_permutation
from regmean_lab.training.trainers import test_trainer as make_trainer
from regmean_lab.zoo import statistics_key

GRAM = StatisticsRequest("gram", GramConfig(examples=20), batch_size=8, seed=0, precision="32-true")
FISHER = StatisticsRequest("fisher", FisherConfig(examples=6), batch_size=3, seed=0, precision="32-true")
GRADIENT_GRAM = StatisticsRequest(
    "gradient_gram", GradientGramConfig(examples=6), batch_size=3, seed=0, precision="32-true"
)
WEIGHTED_GRAM = StatisticsRequest(
    "weighted_gram", WeightedGramConfig(examples=6), batch_size=3, seed=0, precision="32-true"
)


@pytest.fixture
def trainer() -> pl.Trainer:
    return make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False))


def collect(trainer: pl.Trainer, member: Member, request: StatisticsRequest) -> bool:
    source = member.source()
    return collect_for_entry(trainer, member.entry, request, source.load, source.batches, member.fingerprint)


def inputs_of(member: Member, layer: str, request: StatisticsRequest) -> Tensor:
    """Rows of a layer's input at real tokens, over the examples that the request draws, in float64."""
    module = member.load()
    rows = []

    def keep(_: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        rows.append(arguments[0].double()[batch["attention_mask"].bool()])

    module.model.get_submodule(layer).register_forward_pre_hook(keep)
    with torch.no_grad():
        for batch in member.source().batches(request.examples, request.batch_size, request.seed):
            module(batch)
    return torch.cat(rows)


def test_gram_matrices_are_those_of_the_members_training_data(trainer: pl.Trainer, members: list[Member]) -> None:
    member = members[0]
    assert collect(trainer, member, GRAM)
    statistics = open_statistics(member.entry, GRAM, member.fingerprint)
    assert isinstance(statistics, GramFile)
    assert statistics.examples == 20
    layer = "bert.encoder.layer.1.output.dense"
    rows = inputs_of(member, layer, GRAM)
    torch.testing.assert_close(statistics.matrix(layer).double(), rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
    assert statistics.rows[statistics.shared[layer]] == len(rows)
    assert set(statistics.layers) == {
        name for name, part in member.load().model.named_modules() if isinstance(part, torch.nn.Linear)
    }


def test_fisher_information_is_that_of_the_members_training_data(trainer: pl.Trainer, members: list[Member]) -> None:
    """Expectation over the model's own labels: Σ over annotated labels of p (1 − p) (∂ logit)², mean over examples."""
    member = members[1]
    assert collect(trainer, member, FISHER)
    statistics = open_statistics(member.entry, FISHER, member.fingerprint)
    assert isinstance(statistics, FisherFile)
    module, name = member.load(), "classifier.weight"
    parameter = module.model.get_parameter(name)
    total, count = torch.zeros(parameter.shape), 0
    for batch in member.source().batches(6, 1, 0):
        logits = module(batch)[0]
        for label in range(16):
            if batch["labels"][0, label] == IGNORED:
                continue
            (gradient,) = torch.autograd.grad(logits[label], parameter, retain_graph=True)
            probability = logits[label].detach().sigmoid()
            total += probability * (1 - probability) * gradient.square()
        count += 1
    assert count == 6
    torch.testing.assert_close(statistics.diagonal(name), total / count, rtol=1e-3, atol=1e-8)


def test_gradients_at_outputs_are_those_of_the_members_training_data(
    trainer: pl.Trainer, members: list[Member]
) -> None:
    """Of the head: Σ over annotated labels of p (1 − p) on the diagonal, mean over examples."""
    member = members[1]
    assert collect(trainer, member, GRADIENT_GRAM)
    statistics = open_statistics(member.entry, GRADIENT_GRAM, member.fingerprint)
    assert isinstance(statistics, GradientGramFile)
    module, total = member.load(), torch.zeros(16)
    for batch in member.source().batches(6, 1, 0):
        probabilities = module(batch)[0].detach().sigmoid()
        total += probabilities * (1 - probabilities) * (batch["labels"][0] != IGNORED)
    torch.testing.assert_close(statistics.matrix("classifier"), torch.diag(total / 6), rtol=1e-4, atol=1e-7)
    assert (statistics.examples, statistics.rows["classifier"]) == (6, 6)
    assert set(statistics.layers) == set(linear_layers(module.model))


def test_counts_of_tokens_are_those_of_the_members_training_data(trainer: pl.Trainer, members: list[Member]) -> None:
    member, request = members[0], StatisticsRequest("tokens", TokensConfig(minimum_count=4), 5, 0, "32-true")
    assert collect(trainer, member, request)
    assert not collect(trainer, member, request)
    counts = open_statistics(member.entry, request, member.fingerprint).counts
    loader: Any = member.source().batches(None, 1, 0)
    tokenizer, times, texts = loader.collate_fn.tokenizer, Counter[str](), Counter[str]()
    for batch in loader:
        written = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
        tokens = [token for token in written if token not in tokenizer.all_special_tokens]
        times.update(tokens)
        texts.update(set(tokens))
    expected = {token: count for token, count in times.items() if texts[token] >= 4}
    assert expected
    assert dict(zip(counts.tokens, counts.counts[0].tolist(), strict=True)) == expected


def test_counts_of_an_earlier_version_are_collected_again(trainer: pl.Trainer, members: list[Member]) -> None:
    member, request = members[0], StatisticsRequest("tokens", TokensConfig(minimum_count=4), 5, 0, "32-true")
    assert collect(trainer, member, request)
    path = request.path(member.entry, member.fingerprint)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    del metadata["thresholds"]
    save_file(load_file(path), path, metadata=metadata)
    assert collect(trainer, member, request)
    assert not collect(trainer, member, request)
    path.write_bytes(b"damaged")
    assert not collect(trainer, member, request)
    with pytest.raises(StatisticsError, match=path.name):
        open_statistics(member.entry, request, member.fingerprint)


def test_private_counts_in_the_zoo_do_not_tell_their_data(
    trainer: pl.Trainer, members: list[Member], caplog: pytest.LogCaptureFixture
) -> None:
    member, request = members[0], StatisticsRequest("tokens", TokensConfig(epsilon=300.0), 5, 0, "32-true")
    assert collect(trainer, member, request)
    assert "has spent its epsilon" in caplog.text
    metadata = open_statistics(member.entry, request, member.fingerprint).metadata
    assert (metadata["data_fingerprint"], metadata["settings"]["data_fingerprint"]) == ("", "")
    assert metadata["privacy"]["epsilon"] == 300
    assert not collect(trainer, member, request)  # found, although it does not tell of which texts it is


@pytest.mark.parametrize("request_", [GRAM, FISHER, GRADIENT_GRAM, WEIGHTED_GRAM], ids=lambda request: request.kind)
def test_weights_in_bfloat16_give_sums_in_float32(
    trainer: pl.Trainer, members: list[Member], request_: StatisticsRequest
) -> None:
    member, name = members[0], "bert.encoder.layer.1.output.dense"
    rough_request = replace(request_, precision="bf16-true")
    assert collect(trainer, member, request_)
    config = TrainerConfig(accelerator="cpu", progress_bar=False, precision="bf16-true")
    assert collect(make_trainer(config), member, rough_request)
    name += ".weight" if request_.kind == "fisher" else ""
    exact, rough = (
        open_statistics(member.entry, request, member.fingerprint).read(name) for request in (request_, rough_request)
    )
    assert 1e-5 < float((rough - exact).norm() / exact.norm()) < 0.2


def test_statistics_are_collected_once(trainer: pl.Trainer, members: list[Member]) -> None:
    assert collect(trainer, members[0], GRAM)
    path = GRAM.path(members[0].entry, members[0].fingerprint)
    os.utime(path, (1, 1))
    assert not collect(trainer, members[0], GRAM)
    assert path.stat().st_mtime == 1
    assert members[0].entry.statistics_files() == [path]


@pytest.mark.parametrize(
    "other",
    [
        replace(GRAM, settings=GramConfig(examples=21)),
        replace(GRAM, settings=GramConfig(examples=20, count_padding=True)),
        replace(GRAM, settings=GramConfig(examples=20, extra_rows=True)),
        replace(GRAM, seed=1),
        replace(GRAM, precision="bf16-mixed"),
    ],
)
def test_other_settings_are_other_statistics(members: list[Member], other: StatisticsRequest) -> None:
    member = members[0]
    assert other.path(member.entry, member.fingerprint) != GRAM.path(member.entry, member.fingerprint)


def test_batches_count_only_where_they_change_the_result(members: list[Member]) -> None:
    entry = members[0].entry
    assert replace(GRAM, batch_size=4).path(entry, "data") == GRAM.path(entry, "data")
    assert replace(FISHER, batch_size=4).path(entry, "data") == FISHER.path(entry, "data")
    batch_mean = replace(FISHER, settings=FisherConfig(examples=6, labels_from="batch_mean"))
    assert replace(batch_mean, batch_size=4).path(entry, "data") != batch_mean.path(entry, "data")
    published = [
        replace(FISHER, settings=FisherConfig(examples=6, labels_from=source), batch_size=size)
        for source in ("batch_mean", "batch_hard", "batch_loss")
        for size in (3, 4)
    ]
    assert len({one.path(entry, "data") for one in published}) == 6
    assert [one.drawn_order for one in published] == [False, False, True, True, True, True]
    assert GRAM.path(entry, "other data") != GRAM.path(entry, "data")


def test_names_of_files_of_version_0_1_are_hashes_of_these_settings() -> None:
    common = {"kind": "fisher", "examples": 6, "seed": 0, "precision": "32-true", "data_fingerprint": "data"}
    assert FISHER.describe("data") == {**common, "labels_from": "expectation"}
    batch_mean = replace(FISHER, settings=FisherConfig(examples=6, labels_from="batch_mean"))
    assert batch_mean.describe("data") == {**common, "labels_from": "batch_mean", "batch_size": 3}


def padded_batches(member: Member, request: StatisticsRequest) -> list[dict[str, Tensor]]:
    """Batches of so many examples in the order of the seeded permutation, padded to the longest of each."""
    order = seeded_permutation(len(member.suite.examples(member.corpus, "train")), request.seed)[: request.examples]
    whole = member.data.statistics_dataloader(member.corpus, None, 1, 0)
    encoded: Any = whole.dataset
    assert whole.collate_fn is not None
    size = request.batch_size
    return [
        whole.collate_fn([encoded[index] for index in order[start : start + size]])
        for start in range(0, len(order), size)
    ]


@pytest.mark.parametrize("batch_tokens", [None, 24, 4096])
def test_padding_counts_in_the_batches_that_are_asked_for(
    trainer: pl.Trainer, members: list[Member], batch_tokens: int | None
) -> None:
    """Whatever the budget of tokens: batches of 7 in the order drawn, against a plain loop in float64."""
    member, layer = members[0], "bert.encoder.layer.1.output.dense"
    settings = GramConfig(examples=20, count_padding=True)
    request = replace(GRAM, settings=settings, batch_size=7, batch_tokens=batch_tokens)
    assert collect(trainer, member, request)
    statistics = open_statistics(member.entry, request, member.fingerprint)
    assert isinstance(statistics, GramFile)
    module = member.load().double()
    rows: list[Tensor] = []
    part = module.model.get_submodule(layer)
    part.register_forward_pre_hook(lambda _, arguments: rows.extend(arguments[0].flatten(0, -2)))
    batches = padded_batches(member, request)
    with torch.no_grad():
        for batch in batches:
            module(batch)
    assert len(rows) == sum(batch["input_ids"].numel() for batch in batches)
    assert len(rows) > sum(int(batch["attention_mask"].sum()) for batch in batches)
    expected = sum((torch.outer(row, row) for row in rows), torch.zeros(())) / len(rows)
    torch.testing.assert_close(statistics.matrix(layer).double(), expected, rtol=1e-5, atol=1e-6)
    assert (statistics.rows[statistics.shared[layer]], statistics.batches) == (len(rows), 3)


def test_padding_counts_in_gradients_in_the_batches_that_are_asked_for(
    trainer: pl.Trainer, members: list[Member]
) -> None:
    member, layer = members[0], "bert.encoder.layer.1.output.dense"
    requests = [
        replace(
            GRADIENT_GRAM,
            settings=GradientGramConfig(examples=20, count_padding=padding),
            batch_size=7,
            batch_tokens=tokens,
        )
        for padding, tokens in ((False, 24), (True, 24))
    ]
    for request in requests:
        assert collect(trainer, member, request)
    plain, padded = (open_statistics(member.entry, request, member.fingerprint) for request in requests)
    assert isinstance(plain, GradientGramFile)
    assert isinstance(padded, GradientGramFile)
    batches = padded_batches(member, requests[0])
    assert padded.rows[layer] == sum(batch["input_ids"].numel() for batch in batches)
    assert plain.rows[layer] == sum(int(batch["attention_mask"].sum()) for batch in batches)


@pytest.mark.parametrize("setting", ["count_padding", "extra_rows"])
@pytest.mark.parametrize("request_", [GRAM, GRADIENT_GRAM], ids=["gram", "gradient_gram"])
def test_the_size_of_batches_is_in_the_name_where_it_changes_the_result(
    request_: StatisticsRequest, setting: str
) -> None:
    other = replace(request_, settings=replace(request_.settings, **{setting: True}))  # type: ignore[arg-type]
    assert other.describe("data")["batch_size"] == request_.batch_size
    assert "batch_size" not in request_.describe("data")


def test_names_of_files_of_version_0_1_stay() -> None:
    """Whatever settings came since, those that were there give the name that they gave."""
    names = {
        request.kind: statistics_key(request.describe("fingerprint"))
        for request in (GRAM, replace(FISHER, settings=FisherConfig(labels_from="batch_mean")), GRADIENT_GRAM)
    }
    assert names == {"gram": "aeebfb2237f9915a", "fisher": "03939c972202b10d", "gradient_gram": "bc44f1d452caad84"}


def test_examples_can_be_counted_in_batches(members: list[Member]) -> None:
    counted = replace(GRAM, settings=GramConfig(examples=999, batches=3))
    assert counted.examples == 24
    assert counted.path(members[0].entry, "d") == replace(GRAM, settings=GramConfig(examples=24)).path(
        members[0].entry, "d"
    )
    assert replace(GRAM, settings=GramConfig(examples=None)).examples is None


def test_requests_are_those_of_the_configuration() -> None:
    statistics = StatisticsConfig(gram=GramConfig(examples=7), seed=3)
    found = requests_of(statistics, TrainingConfig(batch_size=5), TrainerConfig(precision="bf16-mixed"))
    kinds = {name: kind.settings() for name, kind in KINDS.items()} | {"gram": GramConfig(examples=7)}
    assert found == [StatisticsRequest(name, settings, 5, 3, "bf16-mixed") for name, settings in kinds.items()]


@pytest.mark.parametrize("request_", [GRAM, FISHER, GRADIENT_GRAM, WEIGHTED_GRAM], ids=lambda request: request.kind)
def test_a_member_with_nan_leaves_no_file(
    trainer: pl.Trainer, members: list[Member], request_: StatisticsRequest
) -> None:
    member = members[0]
    broken = member.load()
    with torch.no_grad():
        broken.model.get_parameter("bert.encoder.layer.0.output.dense.weight")[0, 0] = torch.nan
    with pytest.raises(StatisticsError, match=r"layer\.[01]|classifier|embeddings"):
        collect_for_entry(trainer, member.entry, request_, lambda: broken, member.source().batches, member.fingerprint)
    assert member.entry.statistics_files() == []
    assert not list(member.entry.path.glob("statistics/*"))


def test_the_callback_collects_from_the_module_under_test(trainer: pl.Trainer, members: list[Member]) -> None:
    member = members[0]
    callback = StatisticsCallback(member.entry, [GRAM, FISHER], member.source().batches, member.fingerprint)
    testing = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False), [callback])
    module = member.load()
    loader = member.source().batches(4, 4, 0)
    testing.test(module, loader, verbose=False)
    assert {path.stem.partition("-")[0] for path in member.entry.statistics_files()} == {"gram", "fisher"}
    from_callback = open_statistics(member.entry, GRAM, member.fingerprint).read("classifier")
    rows = inputs_of(member, "bert.encoder.layer.0.output.dense", GRAM)
    assert rows.shape[1] == 32
    pooled = torch.cat(
        [
            member.load().model.bert(**{k: v for k, v in batch.items() if k != "labels"}).pooler_output
            for batch in member.source().batches(20, 8, 0)
        ]
    )
    torch.testing.assert_close(from_callback, (pooled.T @ pooled / 20).detach(), rtol=1e-4, atol=1e-6)
