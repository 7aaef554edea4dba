"""Configurations of the verbs for user-supplied checkpoints: ``merge``, ``extract``, ``collect`` and ``evaluate``.

Each has a root configuration of its own beside ``conf/config.yaml``, which the verb (or the older form
``experiment=NAME``) chooses, and a module that does the work, imported when it is asked for. The module has

- ``check(config)``, which raises ``ConfigurationError`` for a configuration that cannot work;
- ``written(config)``, which tells what a job writes outside of its own folder, so that no two jobs of a sweep do it;
- ``plan(config)``, of those whose configuration has the key ``plan``, which tells what ``run`` would do, in lines;
- ``run(config, folder)``, which does the work and writes records below ``folder``; it returns what was measured.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from omegaconf import MISSING, DictConfig, OmegaConf

from regmean_lab.config.groups import PathsConfig, StatisticsConfig, TrainerConfig
from regmean_lab.results import Result

ROOTS = {
    "collect_statistics": "regmean_lab.checkpoints.collect_command",
    "evaluate": "regmean_lab.checkpoints.evaluate_command",
    "extract_adapter": "regmean_lab.checkpoints.extract_command",
    "merge_checkpoints": "regmean_lab.checkpoints.merge_command",
}
"""By root configuration, the module that does its work."""

EXPERIMENT_KEY = "experiment"


@dataclass
class AdapterConfig:
    """A merged model as a LoRA adapter to its base.

    Attributes:
        rank: the largest rank of a layer's factors; None writes the whole model.
        space: where adapters are merged: ``full`` weights, or the ``core`` space of the adapters' factors (Panariello
            et al., 2025), for methods of task vectors.
    """

    rank: int | None = None
    space: str = "full"


@dataclass
class MergeCheckpointsConfig:
    """The whole configuration of ``merge``.

    Attributes:
        experiment: its name.
        recipe: a file in mergekit's YAML that says what is merged and how, in place of checkpoints, method and base.
        checkpoints: two or more: folders, names of models on the hub (``model`` or ``owner/model``, with ``@revision``
            where it is not the newest), or folders of LoRA adapters.
        method: group ``method``: how they are merged.
        base: the model that they were trained from: a folder or a name on the hub, as above. Methods that merge task
            vectors need it, and adapters whose own base lies elsewhere. None is the one that the adapters name.
        heads: ``merge`` the parameters on top of the encoder like all others, ``keep`` each checkpoint's own in a
            folder ``heads/NAME``, or ``drop`` them.
        dtype: of the merged weights: ``float32``, ``bfloat16`` or ``float16``; None takes the first checkpoint's.
            Whatever they are, arithmetic is float32.
        output: folder of the merged model; None is ``merged`` in the job's folder.
        adapter: the LoRA adapter to the base that is written in place of the whole model, if one is.
        max_shard_size: largest file of weights, such as ``5GB`` or ``200MB``.
        trainer: group ``trainer``: the device that merges.
        paths: group ``paths``.
        evaluate: what the merged model, each checkpoint and their ensemble are scored on: a file or several, or a
            mapping with the keys of :class:`ScoringConfig`; with ``heads=keep`` such a value for each checkpoint, by
            its name. None scores nothing.
        measure_gap: with ``evaluate``, also merge and score the mean of the weights, for the share of the divergence
            from the checkpoints that the merge closes of it.
        push: a repository of the hub, ``owner/name``, to which the merged model is pushed when it is finished; None
            pushes nothing.
        private: whether only the owner sees that repository.
        plan: only tell what would be merged, written and pushed; reads no weights but a few rows, and asks nobody.
        force: merge although the output is there already.
    """

    experiment: str = "merge_checkpoints"
    recipe: str | None = None
    checkpoints: list[str] = MISSING
    method: Any = MISSING
    base: str | None = None
    heads: str = "merge"
    dtype: str | None = None
    output: str | None = None
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    max_shard_size: str = "5GB"
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    evaluate: Any = None
    measure_gap: bool = False
    push: str | None = None
    private: bool = True
    plan: bool = False
    force: bool = False


@dataclass
class ExtractConfig:
    """The whole configuration of ``extract``.

    Attributes:
        experiment: its name.
        checkpoint: the fine-tuned model: a folder, the name of a model on the hub, or a folder of a LoRA adapter.
        base: the model that it was trained from: a folder or a name on the hub; None is the one that an adapter names.
        rank: the largest rank of a layer's factors.
        dtype: of the adapter: ``float32``, ``bfloat16`` or ``float16``; None is ``float32`` for factors, and the
            checkpoint's for what is held whole.
        output: folder of the adapter; None is ``adapter`` in the job's folder.
        trainer: group ``trainer``: the device that computes.
        paths: group ``paths``.
        force: extract although the output is there already.
    """

    experiment: str = "extract_adapter"
    checkpoint: str = MISSING
    base: str | None = None
    rank: int = MISSING
    dtype: str | None = None
    output: str | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    force: bool = False


@dataclass
class CollectConfig:
    """The whole configuration of ``collect``.

    Attributes:
        experiment: its name.
        checkpoint: the fine-tuned model: a Hugging Face folder, or the name of a model on the hub.
        revision: git revision of a model of the hub; None is the newest.
        task: ``sequence_classification``, ``token_classification``, ``seq2seq``, ``causal``, ``masked_lm``,
            ``question_answering``, ``multiple_choice`` or ``encoder``; None is what the model's config.json says.
        data: a local file (jsonl, json, csv, tsv, txt, parquet), or a data set for ``datasets.load_dataset``.
        matrices: in place of data, a pickle of Gram matrices by layer that another program has measured (``gram.pkl``).
        rows: of how many rows each of those is the mean, where that is known.
        subset: configuration of a data set.
        split: split of a data set.
        data_revision: revision of a data set on the hub.
        header: whether the first line of a .csv or .tsv file holds the names of the columns (``true`` or ``false``);
            ``auto``: it does if it holds a usual name or those that are given, and is refused if that is not clear.
        text: the column of texts, or two of pairs of texts; None is the obvious one.
        target: for seq2seq, the column of texts that the model writes; None is the obvious one.
        label: the column of labels, for statistics that need true labels; None is the obvious one.
        kinds: which statistics: names of kinds.
        form: how Gram matrices are published: ``full``, ``packed`` (half the bytes, nothing lost), ``diagonal`` or
            ``low_rank``.
        rank: of the form ``low_rank``.
        exclude_layers: patterns of linear layers without Gram matrices.
        max_length: texts are truncated to this many tokens; None is 512, or what the model can take if that is less.
        batch_size: examples a batch, where results depend on batches or are counted in them.
        minimum_rows_per_column: rows that a layer must have seen for each column of its Gram matrix.
        allow_few_rows: publish although layers saw fewer rows.
        output: folder below which ``statistics`` is written; None is the model's own folder, or for a model of the hub
            the job's folder below ``paths.output_dir``.
        card: insert the section on statistics into the README.md of that folder, and a tag into its front matter.
        push: a repository of the hub, ``owner/name``, to which the statistics are pushed; None pushes nothing.
        private: whether only the owner sees that repository.
        plan: only tell what would be measured, written and pushed; asks nobody.
        force: collect although the same statistics are there.
        blocks: whether Gram matrices are collected one block of the model after the other, for models that do not fit
            into memory: ``true``, ``false``, or ``auto``: where there is no room for all weights and matrices.
        held_activations: of what waits between one block and the next, how much is held in main memory, such as
            ``8GB``; more is written into the job's folder meanwhile.
        statistics: how statistics are collected.
        trainer: group ``trainer``: device and precision.
        paths: group ``paths``.
    """

    experiment: str = "collect_statistics"
    checkpoint: str = MISSING
    revision: str | None = None
    task: str | None = None
    data: str = MISSING
    matrices: str | None = None
    rows: int | None = None
    subset: str | None = None
    split: str = "train"
    data_revision: str | None = None
    header: Any = "auto"
    text: Any = None
    target: str | None = None
    label: str | None = None
    kinds: list[str] = field(default_factory=lambda: ["gram"])
    form: str = "packed"
    rank: int | None = None
    exclude_layers: list[str] = field(default_factory=list)
    max_length: int | None = None
    batch_size: int = 16
    minimum_rows_per_column: float = 2.0
    allow_few_rows: bool = False
    output: str | None = None
    card: bool = True
    push: str | None = None
    private: bool = True
    plan: bool = False
    force: bool = False
    blocks: Any = "auto"
    held_activations: str = "8GB"
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class ScoringConfig:
    """What checkpoints are scored on, and how it is read.

    Attributes:
        data: a file with texts and labels (csv, tsv, jsonl, json, parquet; for taggers also conll, bio, iob, iob2, txt)
            or a data set for ``datasets.load_dataset``, a list of them, or a mapping of names to them.
        subset: configuration of a data set.
        split: split of a data set, or of the suite's corpora.
        data_revision: revision of a data set on the hub.
        header: whether the first line of a .csv or .tsv file holds the names of the columns (``true`` or ``false``);
            ``auto``: it does if it holds a usual name or those that are given, and is refused if that is not clear.
        text: the column of texts, or two of pairs of texts; None is the obvious one.
        label: the column of labels; None is the obvious one.
        target: of language models the column of the texts to write; None is the obvious one for encoder-decoders, and
            for decoders none: they write the text itself.
        labels: names of the models' outputs in their order, where ``config.json`` does not name them.
        score: the score that is reported: ``accuracy`` (of classifiers; ``macro_f1``, ``matthews``, ``binary_f1``),
            ``entity_f1`` (of taggers; ``entity_f1_strict``, ``entity_f1_published``, ``token_accuracy``), ``pearson``
            (``spearman``), ``exact_match`` (of language models; ``token_accuracy``). None is the first one. All are
            measured.
        max_length: texts are cut to so many tokens; None is 512, or what a model can take if that is less.
        batch_size: examples a batch; changes no score.
    """

    data: Any = None
    subset: str | None = None
    split: str = "test"
    data_revision: str | None = None
    header: Any = "auto"
    text: Any = None
    label: str | None = None
    target: str | None = None
    labels: list[str] | None = None
    score: str | None = None
    max_length: int | None = None
    batch_size: int = 32


@dataclass
class EvaluateConfig(ScoringConfig):
    """The whole configuration of ``evaluate``: what :class:`ScoringConfig` has, and these.

    Attributes:
        experiment: its name.
        checkpoint: one fine-tuned model or a list: folders, names of models on the hub, or folders of LoRA adapters.
        base: the model that adapters were made for; None is the one that they name.
        suite: group ``suite``: corpora of a suite in place of files.
        corpora: which corpora of the suite; None is all that can be members.
        output: folder of the results, one below it for each checkpoint; None is the job's folder.
        statistics: what some suites' files say of statistics; not read here.
        card: write the scores into the front matter of the card (README.md) of each checkpoint that is a local folder,
            where the hub reads them.
        trainer: group ``trainer``: device and precision.
        paths: group ``paths``.
        force: score although finished results are there.
    """

    experiment: str = "evaluate"
    checkpoint: Any = MISSING
    base: str | None = None
    suite: Any = None
    corpora: list[str] | None = None
    output: str | None = None
    statistics: Any = None
    card: bool = False
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    force: bool = False


SCHEMAS = {
    "collect_statistics": CollectConfig,
    "evaluate": EvaluateConfig,
    "extract_adapter": ExtractConfig,
    "merge_checkpoints": MergeCheckpointsConfig,
}


@dataclass(frozen=True)
class Measured:
    """What a job has to show when it is done.

    Attributes:
        results: results for one table; of a merge those of the merged model are the last.
        lines: what else was found, in words.
        folder: where all of it lies.
        places: the folder of each result.
        written: the folder of the model that was written, if one was.
        merged: how many results are of that model: one, or with heads that were kept one for each that was scored.
    """

    results: list[Result]
    lines: list[str]
    folder: Path
    places: list[Path] = field(default_factory=list)
    written: Path | None = None
    merged: int = 1


class RootModule(Protocol):
    """What such a module has."""

    def check(self, config: DictConfig) -> None:
        """Check a composed configuration, as far as can be done without the work itself."""

    def written(self, config: DictConfig) -> list[tuple[str, Path]]:
        """What a job writes outside of its own folder: by the key that says so, paths."""

    def run(self, config: DictConfig, folder: Path) -> Measured | None:
        """Do the work of one job; ``folder`` is the job's folder below ``paths.output_dir``."""


class PlannedModule(RootModule, Protocol):
    """One whose configuration has the key ``plan``."""

    def plan(self, config: DictConfig) -> list[str]:
        """What ``run`` would do, in lines."""


class RootError(ValueError):
    """A command line that mixes experiments of different roots."""


def split_root(arguments: Sequence[str], config: str | None = None) -> tuple[str | None, list[str]]:
    """The root that a command line asks for, and its other arguments.

    Args:
        arguments: overrides and flags, as on a command line.
        config: the root configuration that a verb has chosen.

    Returns:
        A name of :data:`ROOTS`, and the arguments without the override that chose it (Hydra would look for an option
        of the group ``experiment``); or None and all arguments.

    Raises:
        RootError: when such an experiment is one of several, or the verb has chosen another one.
    """
    chosen = [argument for argument in arguments if argument.partition("=")[0] == EXPERIMENT_KEY]
    names = [name.strip() for argument in chosen for name in argument.partition("=")[2].split(",")]
    roots = [name for name in names if name in ROOTS]
    if config in ROOTS:
        if others := [name for name in names if name != config]:
            raise RootError(f"{EXPERIMENT_KEY}={others[0]}: {config} has a separate configuration; leave this out")
        return config, [argument for argument in arguments if argument not in chosen]
    if not roots:
        return None, list(arguments)
    if len(names) > 1:
        raise RootError(
            f"{EXPERIMENT_KEY}: {roots[0]} has a separate configuration and cannot be one of several experiments "
            f"({', '.join(names)}); run it in a separate command"
        )
    return roots[0], [argument for argument in arguments if argument not in chosen]


def written_output(config: DictConfig) -> list[tuple[str, Path]]:
    """What a job writes outside of its own folder by the keys ``output`` and ``push``: key, path; see :data:`ROOTS`."""
    output = OmegaConf.select(config, "output")
    return [*pushed_to(config), *([] if output is None else [("output", Path(str(output)).expanduser())])]


def pushed_to(config: DictConfig) -> list[tuple[str, Path]]:
    """The repository of the hub that a job writes: no two of a sweep may write the same."""
    push = OmegaConf.select(config, "push")
    return [] if push is None else [("push", Path(f"hub:/{push}"))]


def root_module(name: str) -> RootModule:
    """The module of an experiment of :data:`ROOTS`."""
    return cast(RootModule, importlib.import_module(ROOTS[name]))


def planned_module(name: str) -> PlannedModule:
    """The module of an experiment of :data:`ROOTS` whose configuration has the key ``plan``."""
    return cast(PlannedModule, root_module(name))
