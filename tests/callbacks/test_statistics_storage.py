"""Forms of stored matrices: packed ones have the same content under the same names; lossy ones names of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_members import Member

from regmean_lab.callbacks.requests import published_path
from regmean_lab.callbacks.statistics import (
    StatisticsRequest,
    collect_for_entry,
    open_statistics,
    requests_of,
)
from regmean_lab.config.groups import StatisticsConfig, TrainerConfig, TrainingConfig
from regmean_lab.results import fingerprint
from regmean_lab.statistics import GramFile
from regmean_lab.statistics.settings import GramConfig, WeightedGramConfig
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


@pytest.mark.parametrize(("form", "rank"), [("diagonal", None), ("low_rank", 2)])
def test_a_merge_reads_no_more_than_the_form_keeps(members: list[Member], form: str, rank: int | None) -> None:
    """The diagonal stays; beside it is nothing, or the best approximation of the matrix of correlations."""
    member, trainer = members[0], make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False))
    source = member.source()
    settings = GramConfig(form=form, rank=rank)
    whole, kept = (
        requests_of(StatisticsConfig(gram=gram), TrainingConfig(), TrainerConfig())[0]
        for gram in (GramConfig(), settings)
    )
    assert whole.path(member.entry, member.fingerprint) != kept.path(member.entry, member.fingerprint)
    for request in (whole, kept):
        assert collect_for_entry(trainer, member.entry, request, source.load, source.batches, member.fingerprint)
    expected = open_statistics(member.entry, whole, member.fingerprint)
    found = open_statistics(member.entry, kept, member.fingerprint)
    assert (expected.form, found.form, found.metadata.get("rank")) == ("full", form, rank)
    for layer in expected.layers:
        matrix, approximation = expected.matrix(layer).double(), found.matrix(layer).double()
        diagonal = matrix.diagonal()
        scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0)
        correlations = matrix * scale * scale[:, None]
        values, vectors = np.linalg.eigh(correlations.numpy())
        largest = slice(-rank if rank else len(values), None)
        approximate = torch.from_numpy(vectors[:, largest] * values[largest] @ vectors[:, largest].T)
        beside = approximate * torch.where(scale > 0, 1 / scale, 0) * torch.where(scale > 0, 1 / scale, 0)[:, None]
        beside = beside - beside.diagonal().diag() + diagonal.diag()
        torch.testing.assert_close(approximation, beside, rtol=1e-4, atol=1e-5 * float(diagonal.max()))


def test_published_matrices_serve_in_the_form_that_their_owner_chose(members: list[Member]) -> None:
    """Whole matrices asked for: any form. A form asked for: that one, with that rank."""
    member, trainer = members[0], make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False))
    source = member.source()

    def request(form: str, rank: int | None = None) -> StatisticsRequest:
        settings = StatisticsConfig(gram=GramConfig(form=form, rank=rank))
        return requests_of(settings, TrainingConfig(), TrainerConfig())[0]

    low = request("low_rank", 2)
    assert collect_for_entry(trainer, member.entry, low, source.load, source.batches, member.fingerprint)
    came_with_it = published_path(member.entry.path, "gram")
    came_with_it.parent.mkdir(exist_ok=True)
    low.path(member.entry, member.fingerprint).rename(came_with_it)
    assert request("full").find(member.entry, member.fingerprint) == came_with_it
    assert low.find(member.entry, member.fingerprint) == came_with_it
    assert request("low_rank", 3).find(member.entry, member.fingerprint) is None
    assert request("diagonal").find(member.entry, member.fingerprint) is None


def test_forms_and_ranks_that_do_not_go_together() -> None:
    assert GramConfig(form="packed").problems() == ["form: expected one of full, diagonal, low_rank, got 'packed'"]
    assert WeightedGramConfig(form="low_rank").problems() == ["rank: required with form=low_rank; for example rank=64"]
    assert GramConfig(rank=3).problems() == ["rank: is for form=low_rank, got form=full"]
    assert GramConfig(form="low_rank", rank=0).problems() == ["rank: expected at least 1, got 0"]


def test_whole_matrices_keep_the_names_that_they_had() -> None:
    """Results and files of before have no form in what they are hashes of."""
    gram = {"form": "full", "rank": None}
    shared = {"seed": 1, "statistics": {"seed": 0, "gram": {"examples": 3}}}
    with_form = {**shared, "statistics": {"seed": 0, "gram": {"examples": 3, **gram}}}
    assert fingerprint(with_form) == fingerprint(shared)
    lossy = {**shared, "statistics": {"seed": 0, "gram": {"examples": 3, "form": "diagonal"}}}
    assert fingerprint(lossy) != fingerprint(shared)
