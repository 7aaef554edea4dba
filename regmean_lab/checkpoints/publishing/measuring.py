"""What ``experiment=collect_statistics`` does once all is checked: statistics measured on data, or converted."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from regmean_lab.callbacks.requests import StatisticsRequest
from regmean_lab.checkpoints.empty_models import Like, empty_model
from regmean_lab.checkpoints.publishing.block_choice import is_by_blocks
from regmean_lab.checkpoints.publishing.blocks import BlockCollection
from regmean_lab.checkpoints.publishing.collect import Publication, collect
from regmean_lab.checkpoints.publishing.collect_problems import MATRICES_KIND, needs_label, not_by_blocks
from regmean_lab.checkpoints.publishing.corpus import OneCorpus
from regmean_lab.checkpoints.publishing.guard import distinct_share, guard_file
from regmean_lab.checkpoints.publishing.imported import import_gram
from regmean_lab.checkpoints.publishing.layers import input_widths
from regmean_lab.checkpoints.publishing.models import empty_module, load_module
from regmean_lab.checkpoints.publishing.public_command import public_command
from regmean_lab.checkpoints.publishing.reading import read_checkpoint
from regmean_lab.checkpoints.table_settings import HEADERS, texts_of
from regmean_lab.checkpoints.tasks import longest_text, task_name, task_of
from regmean_lab.checkpoints.unchanged import ReadFiles
from regmean_lab.checkpoints.writing import parse_size
from regmean_lab.config.checkpoint_commands import CollectConfig
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.merging.base import matches
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import Checkpoint, quiet_transformers
from regmean_lab.models.sentence_folders import SentenceFolder
from regmean_lab.modules import TaskModule
from regmean_lab.statistics import KINDS, StatisticsError, expert_layers, linear_layers
from regmean_lab.suites.base import DataError, Task
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.tables.columns import choose_columns, examples_of, public_names
from regmean_lab.suites.tables.table import read_table
from regmean_lab.suites.text_encoding import template_problem
from regmean_lab.training.trainers import test_trainer

log = logging.getLogger(__name__)


def converted(plain: CollectConfig, checkpoint: Checkpoint, output: Path, model: dict[str, Any]) -> dict[str, str]:
    """Convert matrices that another program has measured; what was done by kind."""
    assert plain.matrices is not None
    try:
        with quiet_transformers():
            empty, _ = empty_model(checkpoint.config(), Like(), None, lenient=True)
    except CheckpointError as error:
        raise ConfigurationError([f"checkpoint: {problem}" for problem in error.problems]) from None
    widths = input_widths(empty)
    _check_excluded(plain, widths)
    kept = {layer: width for layer, width in widths.items() if not matches(layer, plain.exclude_layers)}
    # Nothing in the file tells these; what the command says of them decides which jobs the matrices serve.
    told = {key: getattr(plain.statistics.gram, key) for key in ("count_padding", "extra_rows")}
    publication = _publication(plain, output, model, told, public_command(plain, {}))
    source = Path(plain.matrices).expanduser()
    done = import_gram(source, kept, publication, plain.rows, force=plain.force)
    if publication.pushed and publication.minimum is not None:
        guard_file(publication.path(MATRICES_KIND), publication.minimum)
    return {MATRICES_KIND: done}


def measured(
    plain: CollectConfig,
    checkpoint: Checkpoint,
    sentence: SentenceFolder | None,
    folder: Path,
    output: Path,
    model: dict[str, Any],
    read: ReadFiles,
) -> dict[str, str]:
    """Measure statistics of a model on data, or find them; what was done by kind."""
    model_config, tokenizer = read_checkpoint(checkpoint)
    name = task_name(model_config, plain.task, sentence)
    task = task_of(model_config, name)
    typed = [*(texts_of(plain.text) or ()), *(name for name in (plain.target, plain.label) if name is not None)]
    table = read_table(
        plain.data,
        subset=plain.subset,
        split=plain.split,
        revision=plain.data_revision,
        header=HEADERS[plain.header],
        typed=typed,
    )
    columns = choose_columns(
        table,
        task,
        text=texts_of(plain.text),
        target=plain.target,
        label=plain.label,
        has_encoder=bool(model_config.is_encoder_decoder),
        needs_label=needs_label(plain, task),
    )
    public = public_names(table, columns, typed)
    examples = examples_of(table, columns, task)
    if problem := template_problem(examples, lambda: tokenizer):
        raise DataError(problem)
    own_length = None if sentence is None else sentence.longest_text
    if sentence is not None and task.kind == "unlabelled" and sentence.modules[0].settings.get("do_lower_case"):
        examples = [replace(example, text=example.text.lower()) for example in examples]
    corpus = OneCorpus(examples, task)
    max_length = longest_text(model_config, tokenizer, plain.max_length or own_length)
    data = CorpusDataModule(
        corpus,
        tokenizer,
        batch_size=plain.batch_size,
        eval_batch_size=plain.batch_size,
        max_length=max_length,
        seed=plain.statistics.seed,
        num_workers=plain.trainer.workers,
    )
    load = partial(load_module, checkpoint, name, task, sentence)
    module, blocks = _module(plain, checkpoint, name, task, sentence, folder)
    trainer = test_trainer(plain.trainer)
    described = {
        "task": name,
        "max_length": max_length,
        "text": tuple(public[column] for column in columns.text),
        **{key: public[column] for key, column in (("target", columns.target), ("label", columns.label)) if column},
    }
    publication = _publication(
        *(plain, output, model, described, public_command(plain, public)),
        distinct=distinct_share(examples),
        read=read,
    )
    requests = _requests(plain, module)
    private = [request.kind for request in requests if request.settings.is_private]
    if private and len(requests) > 1:
        log.warning(
            "only %s has a guarantee of differential privacy; %s of the same texts, published beside it, has none",
            " and ".join(private),
            " and ".join(request.kind for request in requests if request.kind not in private),
        )
    done = {}
    for request in requests:
        try:
            done[request.kind] = collect(
                trainer, request, module, data, publication, force=plain.force, blocks=blocks, load=load
            )
        except StatisticsError as error:
            remedy = "leave it out with exclude_layers=[name]"
            raise StatisticsError(str(error).replace("leave it out of `layers`", remedy)) from None
    return done


def _publication(
    plain: CollectConfig,
    output: Path,
    model: dict[str, Any],
    described: dict[str, Any],
    command: str,
    distinct: float = 1.0,
    read: ReadFiles | None = None,
) -> Publication:
    return Publication(
        folder=output,
        form=plain.form,  # type: ignore[arg-type]  # checked
        rank=plain.rank if plain.form == "low_rank" else None,
        minimum=None if plain.allow_few_rows else plain.minimum_rows_per_column,
        excluded=tuple(plain.exclude_layers),
        described=described,
        command=command,
        model=model,
        pushed=plain.push is not None,
        distinct=distinct,
        read=read or ReadFiles(),
    )


def _module(
    plain: CollectConfig,
    checkpoint: Checkpoint,
    name: str,
    task: Task,
    sentence: SentenceFolder | None,
    folder: Path,
) -> tuple[TaskModule, BlockCollection | None]:
    """The model, and if it is measured block by block, how; it has no weights then."""
    tensors = stored_tensors(checkpoint.weights_folder())
    if not_by_blocks(plain) or not is_by_blocks(plain.blocks, tensors, plain.trainer):
        return load_module(checkpoint, name, task, sentence), None
    module, read = empty_module(checkpoint, name, task, sentence)
    return module, BlockCollection(module, read, plain.trainer, parse_size(plain.held_activations), folder)


def _requests(plain: CollectConfig, module: TaskModule) -> list[StatisticsRequest]:
    experts = expert_layers(module.model)
    layers = [*linear_layers(module.model), *experts]
    _check_excluded(plain, layers)
    kept = tuple(layer for layer in layers if not matches(layer, plain.exclude_layers))
    return [
        StatisticsRequest(
            kind,
            getattr(plain.statistics, kind),
            plain.batch_size,
            plain.statistics.seed,
            plain.trainer.precision,
            plain.statistics.batch_tokens,
            layers=_chosen(kind, kept, experts) if plain.exclude_layers else None,
            experts=KINDS[kind].of == "inputs" and not set(experts).isdisjoint(kept),
            devices=plain.trainer if plain.trainer.devices > 1 else None,
        )
        for kind in dict.fromkeys(plain.kinds)
    ]


def _chosen(kind: str, kept: tuple[str, ...], experts: list[str]) -> tuple[str, ...] | None:
    """The layers of one kind of statistics; None where they have none. Experts have Gram matrices of inputs only."""
    about = KINDS[kind]
    if not about.by_layer:
        return None
    return kept if about.of == "inputs" else tuple(layer for layer in kept if layer not in set(experts))


def _check_excluded(plain: CollectConfig, layers: Collection[str]) -> None:
    """Raise for patterns of layers that match none."""
    if unmatched := [text for text in plain.exclude_layers if not any(matches(layer, [text]) for layer in layers)]:
        raise ConfigurationError(
            [f"exclude_layers: no linear layer matches {', '.join(unmatched)}; there are {', '.join(layers)}"]
        )
