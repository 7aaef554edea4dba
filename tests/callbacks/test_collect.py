"""`Collect` under ``Trainer.test`` against plain loops over the same batches: the same numbers, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from drawn_members import Member

from regmean_lab.callbacks.statistics import Collect, StatisticsRequest, measure
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.statistics import (
    KINDS,
    FisherConfig,
    GradientGramConfig,
    GramConfig,
    StatisticsError,
    collect_fisher,
    collect_gradient_gram,
    collect_gram,
    linear_layers,
)
from regmean_lab.training.trainers import test_trainer as make_trainer

CPU = TrainerConfig(accelerator="cpu", progress_bar=False)
TOKENS = 40
"""A batch, so that there are several."""


def request(settings: Any, **others: Any) -> StatisticsRequest:
    kind = next(name for name, kind in KINDS.items() if type(settings) is kind.settings)
    return replace(StatisticsRequest(kind, settings, 4, 0, "32-true", batch_tokens=TOKENS), **others)


def batches_of(member: Member, examples: int) -> list[Any]:
    return list(member.source().batches(examples, 4, 0, batch_tokens=TOKENS))


def gram(member: Member, **options: Any) -> Any:
    module = member.load()
    batches = batches_of(member, 20)
    assert len(batches) > 2
    return collect_gram(
        module.model, batches, forward=lambda _, batch: module.gram_pass(batch), mask=module.gram_mask, **options
    ).matrices


def gram_under_autocast(member: Member) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return gram(member)


def gram_in_bfloat16(member: Member) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return gram(member, rows_dtype=torch.bfloat16)


def fisher(member: Member) -> Any:
    module = member.load()
    batches = batches_of(member, 9)
    return collect_fisher(
        module.model, batches, labels_from="true", kind=module.likelihood, forward=lambda _, batch: module(batch)
    ).diagonals


def gradient_gram(member: Member) -> Any:
    module = member.load()
    return collect_gradient_gram(
        module.model,
        batches_of(member, 9),
        kind=module.likelihood,
        forward=lambda _, batch: module(batch),
        mask=module.gradient_mask,
    ).matrices


CASES: list[tuple[StatisticsRequest, Callable[[Member], Any]]] = [
    (request(GramConfig(examples=20)), gram),
    (request(GramConfig(examples=20), precision="bf16-mixed"), gram_under_autocast),
    (request(GramConfig(examples=20, precision="bf16")), gram_in_bfloat16),
    (request(FisherConfig(examples=9, labels_from="true")), fisher),
    (request(GradientGramConfig(examples=9)), gradient_gram),
]


@pytest.mark.parametrize(("wanted", "plainly"), CASES, ids=[plainly.__name__ for _, plainly in CASES])
def test_every_bit_is_that_of_a_plain_loop(
    members: list[Member], wanted: StatisticsRequest, plainly: Callable[[Member], Any]
) -> None:
    member = members[0]
    trainer = make_trainer(replace(CPU, precision=wanted.precision))
    statistics = measure(trainer, wanted, member.load(), member.source().batches, "")
    found = statistics.diagonals if wanted.kind == "fisher" else statistics.matrices
    expected = plainly(member)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_the_rule_stops_where_a_plain_loop_would(members: list[Member]) -> None:
    member, settings = members[0], GramConfig(examples=None, tolerance=10.0)
    module = member.load()
    chosen = [
        batch
        for part in ((0, 64), (64, 128))
        for batch in member.source().batches(None, 4, 0, batch_tokens=TOKENS, part=part)
    ]
    expected = collect_gram(
        module.model, chosen, forward=lambda _, batch: module.gram_pass(batch), mask=module.gram_mask, tolerance=10.0
    )
    found = measure(make_trainer(CPU), request(settings), member.load(), member.source().batches, "")
    assert (found.examples, found.batches, found.relative_change) == (
        expected.examples,
        expected.batches,
        expected.relative_change,
    )
    assert all(torch.equal(found.matrices[name], matrix) for name, matrix in expected.matrices.items())


def test_it_is_a_callback_of_any_trainer(members: list[Member]) -> None:
    """Nothing of this package but the module and the callback."""
    module, collect = members[0].load(), Collect(KINDS["gram"], GramConfig(), layers=["classifier"])
    trainer = pl.Trainer(accelerator="cpu", inference_mode=False, logger=False, callbacks=[collect])
    trainer.test(module, members[0].source().batches(20, 4, 0), verbose=False)
    assert list(collect.statistics.matrices) == ["classifier"]
    assert collect.statistics.examples == 20
    assert module.collection is None
    trainer.callbacks.remove(collect)  # type: ignore[attr-defined]
    trainer.test(module, members[0].source().batches(20, 4, 0), verbose=False)
    assert len(module.predictions()[0].logits) == 20


def test_a_module_comes_back_to_its_trainer_and_device(members: list[Member]) -> None:
    module = members[0].load()
    outer = make_trainer(CPU)
    module.trainer = outer
    measure(outer, request(GramConfig(examples=4)), module, members[0].source().batches, "")
    assert module.trainer.callbacks is outer.callbacks  # type: ignore[attr-defined]
    assert module.device == torch.device("cpu")
    with torch.no_grad():
        module.model.get_parameter("classifier.weight")[0, 0] = torch.nan
    with pytest.raises(StatisticsError, match="NaN or infinity in the Fisher diagonal"):
        measure(outer, request(FisherConfig(examples=4)), module, members[0].source().batches, "")
    assert module.collection is None


def test_only_files_of_a_kind_and_the_public_face_name_it() -> None:
    """One place for each kind: what else spells the newest one would have to be changed for the next."""
    from pathlib import Path

    import regmean_lab

    package = Path(regmean_lab.__file__).parent
    spelling = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "gradient_gram" in path.read_text(encoding="utf-8")
    }
    assert spelling == {
        "statistics/kinds/gradient_gram.py",  # what is known of it
        "statistics/__init__.py",  # the text of the library's face
        "statistics/library.py",  # the list of what it offers
        "config/groups.py",  # its settings
        "merging/parameters.py",  # as methods are given it
        "merging/mats.py",  # the method that needs it
    }


def test_layers_of_all_kinds_are_linear_ones(members: list[Member]) -> None:
    layers = set(linear_layers(members[0].load().model))
    for kind, settings in (("gram", GramConfig(examples=4)), ("gradient_gram", GradientGramConfig(examples=4))):
        found = measure(make_trainer(CPU), request(settings), members[0].load(), members[0].source().batches, "")
        assert set(found.layers) == layers, kind
