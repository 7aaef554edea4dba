from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from drawn_members import Member
from safetensors.torch import load_file, save_file
from torch import Tensor

from regmean_lab.callbacks.merge import MergeCallback
from regmean_lab.callbacks.statistics import StatisticsRequest, open_statistics
from regmean_lab.config.groups import FisherConfig, GradientGramConfig, GramConfig, TrainerConfig
from regmean_lab.merging import MergeError, MergeMember, MergeMethod, merge_members
from regmean_lab.merging.breadcrumbs import Breadcrumbs
from regmean_lab.merging.dare import Dare
from regmean_lab.merging.della import Della
from regmean_lab.merging.fisher import Fisher
from regmean_lab.merging.iso_c import IsotropicCommon
from regmean_lab.merging.iso_cts import IsotropicCommonAndSpecific
from regmean_lab.merging.karcher import Karcher
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.mats import Mats
from regmean_lab.merging.model_stock import ModelStock
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.slerp import Slerp
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.merging.ties import Ties
from regmean_lab.merging.tsv import TaskSingularVectors
from regmean_lab.merging.wudi import Wudi
from regmean_lab.models.base_weights import base_weights
from regmean_lab.modules import TaskModule
from regmean_lab.training.trainers import test_trainer as make_trainer

REQUESTS = [
    StatisticsRequest("gram", GramConfig(examples=20), batch_size=8, seed=0, precision="32-true"),
    StatisticsRequest("fisher", FisherConfig(examples=6), batch_size=3, seed=0, precision="32-true"),
    StatisticsRequest("gradient_gram", GradientGramConfig(examples=6), batch_size=3, seed=0, precision="32-true"),
]


def callback_of(members: Sequence[Member], method: MergeMethod, **settings: Any) -> MergeCallback:
    return MergeCallback([member.source() for member in members], method, REQUESTS, **settings)


def run(callback: MergeCallback, module: TaskModule, member: Member) -> tuple[TaskModule, list[Tensor]]:
    """Test a module; returns it, and what it predicted."""
    trainer: pl.Trainer = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False), [callback])
    trainer.test(module, member.source().batches(8, 4, 0), verbose=False)
    return module, [part.logits for part in module.predictions()]


def state(member: Member) -> dict[str, Tensor]:
    return load_file(member.entry.weights_path)


def pretrained(member: Member) -> dict[str, Tensor]:
    """The weights of the encoder that members were made from, as a classifier names them; it has no head."""
    weights = load_file(Path(member.checkpoint.source) / "model.safetensors")
    return {f"bert.{name}": value for name, value in weights.items()}


@pytest.mark.parametrize(
    "method",
    [
        Simple(),
        Fisher(),
        RegMean(),
        Simple(coefficients=[0.2, 0.8]),
        RegMean(regularization="ridge", ridge_towards="base"),
        RegMean(regularization="shrinkage"),
        TaskArithmetic(),
        Ties(),
        Dare(),
        Della(),
        Breadcrumbs(),
        ModelStock(),
        Slerp(),
        Karcher(),
        TaskSingularVectors(),
        IsotropicCommon(),
        IsotropicCommonAndSpecific(),
        Wudi(steps=3),
        Mats(iterations=5),
    ],
    ids=lambda m: m.name,
)
def test_the_module_under_test_becomes_the_merge(members: list[Member], method: MergeMethod, tmp_path: Path) -> None:
    callback = callback_of(members, method, base=partial(base_weights, members[0].checkpoint, cache_dir=tmp_path))
    module, logits = run(callback, members[0].load(), members[0])
    needed = [request for request in REQUESTS if request.kind in method.statistics]
    parts = [
        MergeMember(
            member.corpus,
            state(member),
            annotated=member.suite.annotated_labels(member.corpus),
            **{request.kind: open_statistics(member.entry, request, member.fingerprint) for request in needed},  # type: ignore[arg-type]
        )
        for member in members
    ]
    merged = merge_members(method, parts, layout_of(module.model, 16), base=pretrained(members[0]))
    expected = {parameter.name: parameter.value for parameter in merged}
    assert set(expected) == set(module.model.state_dict())
    for name, value in module.model.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    with torch.no_grad():
        batches = members[0].source().batches(8, 4, 0)
        torch.testing.assert_close(logits[0], torch.cat([module(batch) for batch in batches]))
    for member in members:
        kinds = sorted(path.stem.partition("-")[0] for path in member.entry.statistics_files())
        assert kinds == sorted(method.statistics)


@pytest.mark.parametrize("rank", [1, 4, 100])
def test_each_member_keeps_its_residual(members: list[Member], rank: int) -> None:
    """The merge for both, and what is nearest to the rest of each one's linear layers, by NumPy in float64."""
    steps = [{"towards_mean": {"share": 0.5}}, {"residual": {"rank": rank}}]
    plain, _ = run(callback_of(members, RegMean(followed_by=steps[:1])), members[0].load(), members[0])
    callback = callback_of(members, RegMean(followed_by=steps))
    merged = plain.model.state_dict()
    for member in members:
        module, logits = run(callback, member.load(), member)
        own, layers = state(member), 0
        for name, value in module.model.state_dict().items():
            expected = merged[name].double().numpy()
            if value.dim() == 2 and "embeddings" not in name and not name.startswith("classifier"):
                left, values, right = np.linalg.svd(own[name].double().numpy() - expected, full_matrices=False)
                expected = expected + left[:, :rank] * values[:rank] @ right[:rank]
                layers += 1
            np.testing.assert_allclose(value.numpy(), expected, rtol=1e-4, atol=1e-5)
        assert layers == 13  # six in each of two blocks, and the pooler
        with torch.no_grad():
            batches = member.source().batches(8, 4, 0)
            torch.testing.assert_close(logits[0], torch.cat([module(batch) for batch in batches]))
    assert [note.partition(", at most")[0] for note in callback.notes] == [
        f"each member keeps a residual of rank {rank} of 13 linear layers"
    ]


def test_the_pretrained_weights_count(members: list[Member], tmp_path: Path) -> None:
    """Of everything that was pretrained; the new head is averaged, over the members that annotate its labels."""
    base = partial(base_weights, members[0].checkpoint, cache_dir=tmp_path)
    module, _ = run(callback_of(members, TaskArithmetic(scaling=0.3), base=base), members[0].load(), members[0])
    mean, _ = run(callback_of(members, Simple()), members[0].load(), members[0])
    start, one, other = pretrained(members[0]), state(members[0]), state(members[1])
    for name, value in module.model.state_dict().items():
        if name.startswith("classifier"):
            assert torch.equal(value, mean.model.state_dict()[name])
        else:
            expected = start[name] + 0.3 * (one[name] - start[name]) + 0.3 * (other[name] - start[name])
            torch.testing.assert_close(value, expected)


def test_what_the_pretrained_model_lacks_is_told(
    members: list[Member], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = partial(base_weights, members[0].checkpoint, cache_dir=tmp_path)
    with caplog.at_level(logging.INFO):
        run(callback_of(members, TaskArithmetic(), base=base), members[0].load(), members[0])
    assert "not in the pretrained model, and averaged: classifier\n" in caplog.text
    with pytest.raises(MergeError, match="the pretrained model has none of the members' parameters"):
        run(callback_of(members, TaskArithmetic(), base=lambda _: {}), members[0].load(), members[0])
    with pytest.raises(MergeError, match="task_arithmetic needs the weights of the model"):
        run(callback_of(members, TaskArithmetic()), members[0].load(), members[0])


def test_only_a_new_head_may_be_merged(members: list[Member], tmp_path: Path) -> None:
    base = partial(base_weights, members[0].checkpoint, cache_dir=tmp_path)
    method = Ties(merge_layers=["classifier"])
    module, _ = run(callback_of(members, method, base=base), members[0].load(), members[0])
    mean, _ = run(callback_of(members, Simple()), members[0].load(), members[0])
    assert torch.equal(module.model.get_parameter("classifier.weight"), mean.model.get_parameter("classifier.weight"))
    name = "bert.pooler.dense.weight"
    assert torch.equal(module.model.get_parameter(name), state(members[0])[name])


def test_statistics_change_the_merge(members: list[Member]) -> None:
    """Published runs lost them on the way, so that RegMean equalled the mean to the last digit."""
    mean = run(callback_of(members, Simple()), members[0].load(), members[0])[0].model.state_dict()
    regression = run(callback_of(members, RegMean()), members[0].load(), members[0])[0].model.state_dict()
    layers = {name for name, _ in layout_of(members[0].load().model).linear.items()}
    differing = {name for name in mean if not torch.equal(mean[name], regression[name])}
    assert differing == layers
    for name in layers - {"classifier.weight"}:
        assert float((mean[name] - regression[name]).abs().max()) > 1e-3


def test_label_rows_are_merged_over_the_members_that_annotate_them(members: list[Member]) -> None:
    module, _ = run(callback_of(members, Simple()), members[0].load(), members[0])
    weights = [state(member)["classifier.weight"] for member in members]
    known = [member.suite.annotated_labels(member.corpus) for member in members]
    assert known[0] != known[1]
    for row, value in enumerate(module.model.get_parameter("classifier.weight")):
        voices = [weight[row] for weight, labels in zip(weights, known, strict=True) if labels[row]]
        voices = voices or [weight[row] for weight in weights]
        torch.testing.assert_close(value, torch.stack(voices).mean(0))


def test_every_member_keeps_a_head_of_its_own(members: list[Member]) -> None:
    callback = callback_of(members, Simple(), own_heads=True)
    states = [state(member) for member in members]
    for member, own in zip(members, states, strict=True):
        module, _ = run(callback, member.load(), member)
        for name, value in module.model.state_dict().items():
            expected = own[name] if name.startswith("classifier") else (states[0][name] + states[1][name]) / 2
            torch.testing.assert_close(value, expected)


def test_kept_blocks_stay_those_of_the_module_under_test(members: list[Member]) -> None:
    module, _ = run(callback_of(members, Simple(keep_top=1)), members[1].load(), members[1])
    own, other = state(members[1]), state(members[0])
    for name, value in module.model.state_dict().items():
        kept = name.startswith(("bert.encoder.layer.1.", "classifier"))
        torch.testing.assert_close(value, own[name] if kept else (own[name] + other[name]) / 2)


def test_members_are_merged_once(members: list[Member]) -> None:
    callback = callback_of(members, RegMean())
    run(callback, members[0].load(), members[0])
    table, seconds = callback.diagnostics_table(), dict(callback.seconds)
    for path in members[1].entry.statistics_files():
        path.unlink()
    run(callback, members[1].load(), members[1])
    assert (callback.diagnostics_table(), callback.seconds) == (table, seconds)
    assert members[1].entry.statistics_files() == []


def test_the_size_of_the_statistics_that_are_read_is_told(members: list[Member]) -> None:
    callback = callback_of(members, RegMean())
    run(callback, members[0].load(), members[0])
    files = [path for member in members for path in member.entry.statistics_files() if path.name.startswith("gram-")]
    assert callback.statistics_bytes == {"gram": max(len(path.read_bytes()) for path in files)}
    callback = callback_of(members, Simple())
    run(callback, members[0].load(), members[0])
    assert callback.statistics_bytes == {}


def test_diagnostics_have_a_row_for_each_layer_that_was_solved(
    members: list[Member], caplog: pytest.LogCaptureFixture
) -> None:
    # Three examples make three rows for the pooler, whose Gram matrices are [16, 16].
    few = replace(REQUESTS[0], settings=GramConfig(examples=3))
    callback = MergeCallback([member.source() for member in members], RegMean(off_diagonal=1), [few])
    with caplog.at_level(logging.INFO):
        run(callback, members[0].load(), members[0])
    table = {row["layer"]: row for row in callback.diagnostics_table()}
    assert set(table) == {layer.name for layer in layout_of(members[0].load().model).linear.values()}
    assert table["bert.pooler.dense"]["jitter"] >= 1e-5
    assert json.loads(json.dumps(list(table.values()))) == list(table.values())
    assert "had to be regularised" in caplog.text


def damage(member: Member, **changes: Tensor | None) -> None:
    tensors = {**state(member), **changes}
    save_file({name: value for name, value in tensors.items() if value is not None}, member.entry.weights_path)


def broken_weight(member: Member) -> Tensor:
    weight = state(member)["bert.pooler.dense.weight"]
    weight[3, 4] = torch.nan
    return weight


@pytest.mark.parametrize("method", [Simple(), RegMean(), Fisher()], ids=lambda m: m.name)
def test_nothing_is_merged_if_a_weight_is_nan(members: list[Member], method: MergeMethod) -> None:
    whole = members[1].load()
    run(callback_of(members, method), members[0].load(), members[0])  # statistics, before the damage
    damage(members[1], **{"bert.pooler.dense.weight": broken_weight(members[1])})
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    with pytest.raises(MergeError, match=r"bert\.pooler\.dense\.weight: NaN .* isear"):
        run(callback_of(members, method), whole, members[1])
    assert all(torch.equal(value, before[name]) for name, value in whole.model.state_dict().items())


def test_all_differences_between_members_are_told(members: list[Member]) -> None:
    changes = {"extra": torch.ones(1), "classifier.bias": torch.ones(3), "bert.pooler.dense.bias": None}
    damage(members[1], **changes)
    with pytest.raises(MergeError) as caught:
        run(callback_of(members, Simple()), members[0].load(), members[0])
    assert all(name in str(caught.value) for name in changes)


def test_a_parameter_that_all_members_lack_is_told(members: list[Member]) -> None:
    module = members[0].load()
    for member in members:
        damage(member, **{"bert.pooler.dense.bias": None})
    with pytest.raises(MergeError, match=r"the weights of tec lack bert\.pooler\.dense\.bias"):
        run(callback_of(members, Simple()), module, members[0])


def test_a_parameter_that_the_model_lacks_is_told(members: list[Member]) -> None:
    module = members[0].load()
    for member in members:
        damage(member, extra=torch.ones(2))
    with pytest.raises(MergeError, match="no place for extra of tec"):
        run(callback_of(members, Simple()), module, members[0])


def test_statistics_that_a_job_left_are_not_collected_again(members: list[Member]) -> None:
    first, _ = run(callback_of(members, RegMean()), members[0].load(), members[0])

    def must_not_load() -> TaskModule:
        raise AssertionError("collected again")

    again = callback_of(members, RegMean())
    again.members = [replace(source, load=must_not_load) for source in again.members]
    second, _ = run(again, members[0].load(), members[0])
    assert all(torch.equal(value, first.model.state_dict()[name]) for name, value in second.model.state_dict().items())
