"""``statistics.storage=packed``: smaller files with the same content, under the same names."""

from __future__ import annotations

from dataclasses import replace

import torch
from drawn_members import Member

from regmean_lab.callbacks.statistics import (
    StatisticsRequest,
    collect_for_entry,
    open_statistics,
    requests_of,
)
from regmean_lab.config.groups import StatisticsConfig, TrainerConfig, TrainingConfig
from regmean_lab.results import fingerprint
from regmean_lab.statistics import GramFile
from regmean_lab.training.trainers import test_trainer as make_trainer


def test_packed_statistics_are_the_same_under_the_same_name(members: list[Member]) -> None:
    member, trainer = members[0], make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False))
    source = member.source()

    def collect(request: StatisticsRequest) -> bool:
        return collect_for_entry(trainer, member.entry, request, source.load, source.batches, member.fingerprint)

    full, packed = (
        requests_of(StatisticsConfig(storage=storage), TrainingConfig(), TrainerConfig())[0]
        for storage in ("full", "packed")
    )
    path = full.path(member.entry, member.fingerprint)
    assert packed.path(member.entry, member.fingerprint) == path
    assert collect(full)
    size = path.stat().st_size
    with GramFile(path) as file:
        matrices = {layer: file.matrix(layer) for layer in file.layers}
    assert not collect(packed)  # what is there is used as it is
    path.unlink()
    assert collect(packed)
    assert path.stat().st_size < 0.75 * size
    found = open_statistics(member.entry, full, member.fingerprint)
    assert found.form == "packed"
    assert all(torch.equal(found.read(layer), matrix) for layer, matrix in matrices.items())
    assert not collect(full)
    some = replace(full, layers=tuple(list(matrices)[:2]))
    assert some.find(member.entry, member.fingerprint) == path


def test_results_do_not_depend_on_the_storage() -> None:
    shared = {"seed": 1, "statistics": {"seed": 0, "gram": {"examples": 3}}}
    before = fingerprint(shared)
    for storage in ("full", "packed"):
        assert fingerprint({**shared, "statistics": {**shared["statistics"], "storage": storage}}) == before
    assert fingerprint({**shared, "statistics": {**shared["statistics"], "seed": 1}}) != before


def test_another_storage_is_refused() -> None:
    (problem,) = StatisticsConfig(storage="diagonal").problems()
    assert problem == "storage: expected one of full, packed, got 'diagonal'"
