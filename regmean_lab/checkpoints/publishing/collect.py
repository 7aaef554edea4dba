"""Collects the requested statistics unless they exist, applies the privacy guard, and writes them with a model card."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from regmean_lab.callbacks.requests import published_path
from regmean_lab.callbacks.statistics import StatisticsRequest, measure, memory_for_statistics
from regmean_lab.checkpoints.publishing.blocks import BlockCollection, write_by_blocks
from regmean_lab.checkpoints.publishing.corpus import CORPUS
from regmean_lab.checkpoints.publishing.guard import Shortage, guard_file, most_rows, refuse, shortages
from regmean_lab.checkpoints.publishing.identity import READING
from regmean_lab.checkpoints.publishing.layers import input_widths, wanted_layers
from regmean_lab.checkpoints.unchanged import ReadFiles
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.modules import TaskModule
from regmean_lab.statistics import (
    KINDS,
    Form,
    GramConfig,
    GramFile,
    Kind,
    MatrixWriter,
    StatisticsError,
    StatisticsFile,
    collect_gram,
    linear_layers,
    matrix_writer,
    rank,
)
from regmean_lab.statistics.settings import STORAGES
from regmean_lab.suites.data_module import Batches, CorpusDataModule
from regmean_lab.tracking.environment import versions
from regmean_lab.training.processes import first_device, run_together
from regmean_lab.training.trainers import test_trainer

log = logging.getLogger(__name__)

GRAM_HEADER = ("kind", "rows", "shared", "examples", "batches", "unseen")
"""What a file of Gram matrices tells of them, whatever their form."""

PROBED = 2
"""Examples in the batch from which it is learned which layers get one row an example."""


@dataclass(frozen=True)
class Publication:
    """How statistics are published.

    Attributes:
        folder: the model's folder, or another one; files are written to ``statistics`` below it.
        form: of Gram matrices.
        rank: of the form ``low_rank``.
        minimum: rows for each column of a matrix that are required; None asks for none.
        excluded: patterns of layers left out.
        described: what else is known of how they were measured, for settings and card: plain values.
        command: the command, without folders of this machine.
        model: what identifies the weights.
        pushed: whether the files will be pushed to the hub: then those that are found are guarded as well.
        distinct: share of texts that do not repeat another one; a repeated text hides nobody's.
        read: the model's files, as they were before ``model`` told their contents.
    """

    folder: Path
    form: Form
    rank: int | None
    minimum: float | None
    excluded: tuple[str, ...]
    described: dict[str, Any]
    command: str
    model: dict[str, Any]
    pushed: bool = False
    distinct: float = 1.0
    read: ReadFiles = field(default_factory=ReadFiles)

    def check_unchanged(self) -> None:
        """Raise if the model's files are other ones than those that ``model`` tells, hours ago perhaps.

        Raises:
            StatisticsError: naming the files.
        """
        if (problem := self.read.change("the statistics", "Collect again")) is not None:
            raise StatisticsError(problem)

    def path(self, kind: str) -> Path:
        """The file of one kind of statistics."""
        return published_path(self.folder, kind)

    def form_of(self, kind: str) -> tuple[Form, int | None]:
        """Form and rank of one kind of statistics: what are no matrices has one form only."""
        return (self.form, self.rank) if KINDS[kind].file.is_of_matrices else ("full", None)

    def shortages(self, rows: Mapping[str, int], widths: Mapping[str, int]) -> list[Shortage]:
        """The layers with too few rows of different texts for what is published; none where nothing is required."""
        return [] if self.minimum is None else shortages(rows, widths, self.minimum, self.distinct)

    def refuse(self, found: Sequence[Shortage], kind: Kind, *, before: bool) -> None:
        """Raise for layers with too few rows, see :func:`~regmean_lab.checkpoints.publishing.guard.refuse`."""
        refuse(found, self.minimum or 0, before=before, kind=kind)


def collect(
    trainer: pl.Trainer,
    request: StatisticsRequest,
    module: TaskModule,
    data: CorpusDataModule,
    publication: Publication,
    *,
    force: bool = False,
    blocks: BlockCollection | None = None,
    load: Callable[[], TaskModule] | None = None,
) -> str:
    """Collect one kind of statistics and write them, unless they are there.

    Args:
        trainer: whose device and precision are used.
        request: which statistics, and how.
        module: the model.
        data: its examples, a :class:`~regmean_lab.checkpoints.publishing.corpus.OneCorpus`.
        publication: where, and how, they are published.
        force: collect them although they are there.
        blocks: how Gram matrices are measured block by block, if they are; ``module`` has no weights then.
        load: loads the model in each of several processes, where the request has several devices.

    Returns:
        ``found``, ``written again`` (in another form, from a file in which nothing was lost) or ``collected``.

    Raises:
        StatisticsError: when too few rows were seen, or can be; for a NaN or infinity.
    """
    kind = request.about
    path, form = publication.path(request.kind), publication.form_of(request.kind)
    fingerprint = request.told_of(data.suite.fingerprint(CORPUS))
    settings = {**request.describe(fingerprint), **publication.described}
    collection = _Collection(request, data, publication, fingerprint, settings)
    foresee = _foreseen if blocks is None else _foreseen_by_tokens
    found = None if force else found_file(path, kind, settings, publication.model)
    same_form = found is not None and (found.form, found.metadata.get("rank")) == form
    if found is not None and same_form and (kind.of == "texts" or tells(found, publication)):
        if publication.pushed and publication.minimum is not None:  # it may have been made with allow_few_rows=true
            if kind.forward_rows:
                publication.refuse(foresee(request, module, data, publication), kind, before=True)
            guard_file(path, publication.minimum)
        log.info("found %s", path)
        return "found"
    if not force:
        _check_not_private(path)
    if found is not None and found.is_of_matrices and found.form in STORAGES:
        if isinstance(found, GramFile):
            collection.save_again(found)
        else:
            collection.save(kind.load(found))
        return _done("written again", request, path)
    if publication.minimum is not None and kind.forward_rows:
        publication.refuse(foresee(request, module, data, publication), kind, before=True)
    if blocks is not None:
        collection.measure_by_blocks(blocks)
    elif request.devices is None or not request.can_be_shared:
        collection.measure(trainer, module)
    else:
        assert load is not None
        run_together(request.devices, partial(_measure_share, collection, request.devices, load))
    return _done("collected", request, path)


def _measure_share(collection: _Collection, devices: TrainerConfig, load: Callable[[], TaskModule]) -> None:
    """Measure in one of several processes, with a trainer and a model of its own."""
    collection.measure(test_trainer(devices), load())


def _done(done: str, request: StatisticsRequest, path: Path) -> str:
    log.info("%s %s", done, path)
    if request.settings.is_private:
        log.warning("%s has spent its epsilon: each further file from the same texts spends as much again", path)
    return done


@dataclass(frozen=True)
class _Collection:
    """One kind of statistics that is measured and written.

    Attributes:
        request: which, and how.
        data: the examples.
        publication: where, and how, they are published.
        fingerprint: hash of the examples as the file tells it.
        settings: how they are measured, as the file tells it.
    """

    request: StatisticsRequest
    data: CorpusDataModule
    publication: Publication
    fingerprint: str
    settings: dict[str, Any]

    def measure(self, trainer: pl.Trainer, module: TaskModule) -> None:
        """Measure, in a process group together with the other processes, of which the first writes."""
        batches = partial(self.data.statistics_dataloader, CORPUS)
        name = self.publication.folder.name
        with memory_for_statistics(self.request, name, trainer.strategy.root_device):
            statistics = measure(trainer, self.request, module, batches, f"{self.request.kind} of {name}")
            if rank() == 0:
                self.save(statistics)

    def measure_by_blocks(self, blocks: BlockCollection) -> None:
        """Measure Gram matrices block by block, and write each when its block is finished.

        Raises:
            StatisticsError: when a layer saw too few rows, as soon as its block is finished; as measuring does.
        """
        layers = wanted_layers(self.request, blocks.module.model)
        device = first_device(blocks.trainer.accelerator)
        shortage = memory_for_statistics(self.request, self.publication.folder.name, device, by_blocks=True)
        with shortage, self._writer(layers, self._metadata({})) as writer:
            written = write_by_blocks(self.request, blocks, self.data, writer, self._check_rows)
            self.publication.check_unchanged()
            widths = {layer: written.widths[layer] for layer in layers if layer in written.widths}
            writer.finish(written.header(layers), self._metadata(widths))

    def save(self, statistics: Any) -> None:
        """Write statistics, unless a layer saw too few rows.

        Raises:
            StatisticsError: naming such layers; for files of the model that have changed meanwhile.
        """
        kind, (form, number) = self.request.about, self.publication.form_of(self.request.kind)
        widths = kind.widths_of(statistics)
        self._check_rows(kind.rows_of(statistics), widths)
        path = self.publication.path(self.request.kind)
        self.publication.check_unchanged()
        kind.save(path, statistics, self._metadata(widths), form=form, rank=number)

    def save_again(self, found: GramFile) -> None:
        """Write the matrices of a file in another form, one after the other, unless a layer saw too few rows."""
        widths = {layer: found.width(layer) for layer in found.rows}
        self._check_rows(found.rows, widths)
        metadata = self._metadata(widths)
        if (change := found.metadata.get("relative_change")) is not None:
            metadata["relative_change"] = change
        header = {name: found.metadata[name] for name in GRAM_HEADER if name in found.metadata}
        with self._writer(found.layers, metadata) as writer:
            for layer in found.rows:
                writer.add(layer, found.matrix(layer))
            writer.finish(header, metadata)

    def _writer(self, layers: Sequence[str], metadata: dict[str, Any]) -> AbstractContextManager[MatrixWriter]:
        form, number = self.publication.form_of(self.request.kind)
        return matrix_writer(self.publication.path(self.request.kind), layers, metadata, form=form, rank=number)

    def _check_rows(self, rows: Mapping[str, int], widths: Mapping[str, int]) -> None:
        """Raise for layers that saw too few rows; nothing is written then."""
        self.publication.refuse(self.publication.shortages(rows, widths), self.request.about, before=False)

    def _metadata(self, widths: dict[str, int]) -> dict[str, Any]:
        """What a file tells besides its statistics."""
        return {
            "data_fingerprint": self.fingerprint,
            "settings": self.settings,
            "collected": provenance(self.publication, widths),
        }


def provenance(publication: Publication, widths: Mapping[str, int]) -> dict[str, Any]:
    """What a file says of where it comes from.

    Args:
        publication: how it is published.
        widths: by layer, the number of columns of its rows.
    """
    return {
        "model": publication.model,
        "versions": {name: versions()[name] for name in ("regmean_lab", "torch", "transformers", "tokenizers")},
        "command": publication.command,
        "exclude_layers": list(publication.excluded),
        "widths": dict(widths),
    }


def _check_not_private(path: Path) -> None:
    """Raise where a file is there that has a guarantee of differential privacy: another one adds to its ε.

    Raises:
        StatisticsError: saying so.
    """
    try:
        with StatisticsFile(path) as file:
            privacy = file.metadata.get("privacy")
    except StatisticsError:
        return  # none, or no statistics at all
    if privacy:
        raise StatisticsError(
            f"{path} is differentially private (epsilon {privacy['epsilon']:g}), and was made with other settings or "
            "weights. Another file from the same texts adds its epsilon to that one's, also where the first is "
            "deleted: keep it, write elsewhere for other texts (output=FOLDER), or spend more with force=true"
        )


def found_file(path: Path, kind: Kind, settings: dict[str, Any], model: dict[str, Any]) -> StatisticsFile | None:
    """The file of statistics, if it was measured in the same way on the same examples with the same weights.

    Args:
        path: where it would be.
        kind: its kind.
        settings: how it is measured, and on which examples.
        model: what identifies the weights.
    """
    if not path.exists():
        return None
    try:
        file = kind.file(path)
    except StatisticsError as error:
        log.warning("%s", error)
        return None
    if told := kind.outdated(file):
        log.warning("%s, and is replaced", told)
        return None
    collected = file.metadata.get("collected")
    if (
        isinstance(collected, dict)
        and same_weights(collected.get("model"), model)
        and same_reading(collected["model"], model)
        and file.metadata["settings"] == json.loads(json.dumps(settings))
    ):
        return file
    log.info("%s was collected with other settings, examples, weights or tokenizer, and is replaced", path)
    return None


def tells(file: StatisticsFile, publication: Publication) -> bool:
    """Whether a file tells the weights by their hashes, where that is needed: what is pushed makes another commit."""
    told = (file.metadata.get("collected") or {}).get("model") or {}
    return "weights_sha256" in told or "weights_sha256" not in publication.model


def same_weights(one: Any, other: Mapping[str, Any]) -> bool:
    """Whether two accounts of what identifies weights are of the same: by their SHA-256 where both have it."""
    if not isinstance(one, Mapping):
        return False
    key = next((key for key in ("weights_sha256", "hub") if key in one and key in other), None)
    return one == other if key is None else one[key] == other[key]


def same_reading(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two accounts of a model are of the same tokenizer and configuration, as far as both tell them."""
    return READING not in one or READING not in other or bool(one[READING] == other[READING])


def _foreseen(
    request: StatisticsRequest, module: TaskModule, data: CorpusDataModule, publication: Publication
) -> list[Shortage]:
    """Layers of which the examples cannot bring rows enough, as two of them tell; none where padding counts too."""
    settings = request.settings if isinstance(request.settings, GramConfig) else GramConfig()
    if settings.count_padding:
        return []
    loader = _examples(request, settings, data)
    encoded: Any = loader.dataset
    lengths = [example.length for example in encoded]
    longest = sorted(encoded, key=lambda example: -example.length)[:PROBED]
    assert loader.collate_fn is not None
    probe = collect_gram(
        module.model,
        [loader.collate_fn(longest)],
        layers=[layer for layer in linear_layers(module.model) if request.layers is None or layer in request.layers],
        forward=lambda model, batch: module.gram_pass(batch),
        mask=module.gram_mask,
        extra_rows=settings.extra_rows,
    )
    tokens = sum(example.length for example in longest)
    widths = {layer: len(matrix) for layer, matrix in probe.matrices.items()}
    return publication.shortages(most_rows(probe, tokens, lengths), widths)


def _foreseen_by_tokens(
    request: StatisticsRequest, module: TaskModule, data: CorpusDataModule, publication: Publication
) -> list[Shortage]:
    """Layers that all tokens together could not bring rows enough, without a pass; none where more than they count."""
    settings = request.settings
    assert isinstance(settings, GramConfig)
    if settings.count_padding or settings.extra_rows:
        return []
    encoded: Any = _examples(request, settings, data).dataset
    tokens = sum(example.length for example in encoded)
    # Experts are left out: how many rows each sees is only known afterwards.
    wanted = set(wanted_layers(request, module.model)) & set(linear_layers(module.model))
    widths = {layer: width for layer, width in input_widths(module.model).items() if layer in wanted}
    return publication.shortages(dict.fromkeys(widths, tokens), widths)


def _examples(request: StatisticsRequest, settings: GramConfig, data: CorpusDataModule) -> Batches:
    return data.statistics_dataloader(
        CORPUS, request.examples, request.batch_size, request.seed, tokens=settings.tokens
    )
