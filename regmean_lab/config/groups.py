"""Configuration groups that say how to train, collect, compute and log: their keys, defaults and checks."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path

from omegaconf import MISSING

from regmean_lab.statistics.settings import (
    STORAGES,
    FisherConfig,
    GradientGramConfig,
    GramConfig,
    KindConfig,
    WeightedGramConfig,
)
from regmean_lab.statistics.token_settings import TokensConfig
from regmean_lab.utils.checks import at_least_one, fraction, one_of, positive

SCHEDULES = ("polynomial", "linear", "constant")
SELECTIONS = ("best", "last")
REWEIGHTINGS = ("none", "sqrt")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
KINDS_FOLDER = Path(__file__).resolve().parent.parent / "statistics" / "kinds"


@dataclass
class LoraConfig:
    """Training of a low-rank adapter in place of all weights (LoRA; Hu et al., ICLR 2022); key ``training.lora``.

    Attributes:
        rank: of the adapter of each layer; None trains all weights.
        alpha: what an adapter adds to its layer is multiplied by ``alpha / rank``.
        dropout: dropout probability of adapters' inputs.
        target_modules: which linear layers are adapted: names, or what names end with; None is all but the head and a
            pooler, which are trained whole.
    """

    rank: int | None = None
    alpha: int = 16
    dropout: float = 0.0
    target_modules: list[str] | None = None

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each, beginning with the setting's name."""
        found: list[str] = []
        if self.rank is None:
            if self != LoraConfig():
                found.append("rank: required with other settings of training.lora; for example training.lora.rank=8")
            return found
        at_least_one("rank", self.rank, found)
        at_least_one("alpha", self.alpha, found)
        fraction("dropout", self.dropout, found, one=False)
        if self.target_modules is not None and not self.target_modules:
            found.append("target_modules: expected names of linear layers, or null for all of them, got none")
        return found


@dataclass
class TrainingConfig:
    """How a member is trained; group ``training``, with the published settings of each suite and model.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        weight_decay: of AdamW.
        epochs: passes over the training data; ignored when ``steps`` is given.
        steps: number of optimizer steps, or None.
        eval_steps: number of steps between evaluations on dev; None evaluates after every epoch.
        batch_size: examples a step.
        eval_batch_size: examples a batch in evaluation.
        max_length: longest input in tokens; longer ones are truncated.
        schedule: ``polynomial`` (to 1e-7, power 1), ``linear`` (to 0) or ``constant``, after the warm-up.
        warmup: share of all steps with a rising learning rate.
        gradient_clip: largest norm of the gradient; 0 turns clipping off.
        selection: ``best`` keeps the epoch with the best key score on dev, ``last`` the last one.
        precision: Lightning's precision of training, for example ``32-true`` or ``bf16-mixed``.
        reweight: weights of the loss of yes/no labels: ``none``, or by the square root of the shares of positives and
            negatives (``sqrt``, as published; see :func:`regmean_lab.modules.reweighting.sqrt_weights`).
        accumulate: batches whose gradients are averaged for one optimizer step: ``batch_size`` times as many examples a
            step, with the memory of one batch.
        gradient_checkpointing: compute activations again in the backward pass, in place of keeping them: the same
            weights with less memory and more time.
        patience: with ``selection: best``, stop after so many evaluations on dev without a better score; None never
            does.
        lora: training of a low-rank adapter in place of all weights.
    """

    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    epochs: int = 20
    steps: int | None = None
    eval_steps: int | None = None
    batch_size: int = 16
    eval_batch_size: int = 32
    max_length: int = 128
    schedule: str = "polynomial"
    warmup: float = 0.06
    gradient_clip: float = 1.0
    selection: str = "best"
    precision: str = "32-true"
    reweight: str = "none"
    accumulate: int = 1
    gradient_checkpointing: bool = False
    patience: int | None = None
    lora: LoraConfig = field(default_factory=LoraConfig)

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each, beginning with the setting's name."""
        found: list[str] = []
        for name in ("epochs", "batch_size", "eval_batch_size", "max_length", "accumulate"):
            at_least_one(name, getattr(self, name), found)
        for name in ("steps", "eval_steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(f"{name}: expected at least 1 or null, got {value}")
        positive("learning_rate", self.learning_rate, found)
        for name in ("weight_decay", "gradient_clip"):
            if not getattr(self, name) >= 0:
                found.append(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            found.append(f"warmup: expected a share from 0 to below 1, got {self.warmup}")
        one_of("schedule", self.schedule, SCHEDULES, found)
        one_of("selection", self.selection, SELECTIONS, found)
        one_of("reweight", self.reweight, REWEIGHTINGS, found)
        one_of("precision", self.precision, PRECISIONS, found)
        found += [f"lora.{problem}" for problem in self.lora.problems()]
        if self.patience is not None and self.selection != "best":
            found.append(f"patience: needs scores on dev, which selection={self.selection} does without; expected null")
        return found


@dataclass
class ModelConfig:
    """A pretrained model; group ``model``.

    Attributes:
        name: the name that folders and tables use.
        checkpoint: a Hugging Face model name (``name@revision`` for a branch, a tag or a commit), a local folder,
            ``package:NAME`` (a Python package that carries a model), or ``pico:ARCHITECTURE`` (a tiny randomly
            initialised model, for tests). A local folder goes before a model of the hub with the same name.
        revision: git revision of a Hugging Face model; None is the newest.
        dropout: dropout probability of all layers, or None for the checkpoint's own.
        new_head: for a checkpoint that was fine-tuned before: leave its head out and draw one anew from the seed, as
            for a pretrained model, whether or not its size would fit. Without it, a head of the right size is what
            training begins with, and one of another size is refused.
    """

    name: str = MISSING
    checkpoint: str = MISSING
    revision: str | None = None
    dropout: float | None = None
    new_head: bool = False


def label_source_problem(source: str, task: str) -> str | None:
    """Why labels for a kind of statistics cannot come from a source; None if they can.

    Args:
        source: a value of a setting ``labels_from``.
        task: kind of the model's task.
    """
    if source == "expectation" and task in ("token_labels", "text"):
        return "expectation costs a pass for each token and label; use 'true' or pseudo"
    if source == "pseudo" and task == "regression":
        return "a regression has no most probable value but its output, where the gradient is zero; use 'true'"
    if source == "batch_hard" and task in ("token_labels", "answers", "text"):
        return "batch_hard takes one label for each text, not one for each word or an answer in words; use batch_loss"
    return None


@dataclass
class StatisticsConfig:
    """How statistics of members are collected; key ``statistics``.

    Attributes:
        gram: Gram matrices.
        fisher: diagonal Fisher information.
        seed: which examples are drawn.
        gradient_gram: Gram matrices of the gradients at layers' outputs.
        batch_tokens: tokens in a batch, padding included, wherever the result does not depend on batches; None chooses
            for the device.
        storage: ``packed`` stores only the upper triangles of Gram matrices: half the bytes, nothing lost, a little
            time to read. Files that are there already are used whichever way they were stored.
        published: use statistics that were published beside a checkpoint, whatever examples they are from; false
            measures them on the suite's own data.
        weighted_gram: loss-weighted Gram matrices.
        tokens: counts of tokens, from which pseudo-text is drawn.
    """

    gram: GramConfig = field(default_factory=GramConfig)
    fisher: FisherConfig = field(default_factory=FisherConfig)
    seed: int = 0
    gradient_gram: GradientGramConfig = field(default_factory=GradientGramConfig)
    batch_tokens: int | None = None
    storage: str = "full"
    published: bool = True
    weighted_gram: WeightedGramConfig = field(default_factory=WeightedGramConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each, beginning with the setting's name."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        kinds = {name: value for name, value in own.items() if isinstance(value, KindConfig)}
        found = [f"{name}.{problem}" for name, settings in kinds.items() for problem in settings.problems()]
        if self.batch_tokens is not None and self.batch_tokens < 1:
            found.append(f"batch_tokens: expected at least 1 or null, got {self.batch_tokens}")
        one_of("storage", self.storage, STORAGES, found)
        return found


def _with_other_kinds(config: type[StatisticsConfig]) -> type[StatisticsConfig]:
    """The class with the settings of the kinds that it does not name.

    Those are in the kinds' own files, which import PyTorch: without such files nothing is imported.
    """
    own = {entry.name for entry in fields(config)}
    if {file.name for file in pkgutil.iter_modules([str(KINDS_FOLDER)])} <= {*own, "base"}:
        return config
    from regmean_lab.statistics import KINDS

    others = [(kind.name, kind.settings, field(default_factory=kind.settings)) for kind in KINDS.values()]
    return make_dataclass(config.__name__, [other for other in others if other[0] not in own], bases=(config,))


StatisticsConfig = _with_other_kinds(StatisticsConfig)  # type: ignore[misc]


@dataclass
class TrainerConfig:
    """Arguments of Lightning's ``Trainer``; group ``trainer``.

    Attributes:
        accelerator: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        devices: number of devices among which the examples of a batch (in training) and of a member's statistics are
            divided, a process each; merging and evaluation use one. Sweeps parallelise over jobs instead.
        strategy: how several devices train together, one of Lightning's: ``ddp``, ``ddp_find_unused_parameters_true``
            (for models of which a step leaves parameters out), or ``auto``: the latter for joint training with a head
            for each task, else ``ddp``. One device needs none.
        precision: of statistics, merging and evaluation; members are trained in ``training.precision``.
        progress_bar: show Lightning's progress bars.
        deterministic: use deterministic algorithms only.
        workers: processes that load data.
        threads: threads of the processor that a job computes with; None leaves it to the launcher, which divides the
            cores among jobs that run side by side, and to PyTorch.
    """

    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    progress_bar: bool = True
    deterministic: bool = False
    workers: int = 0
    threads: int | None = None

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each, beginning with the setting's name."""
        found: list[str] = []
        one_of("accelerator", self.accelerator, ACCELERATORS, found)
        one_of("precision", self.precision, PRECISIONS, found)
        for name, least in (("devices", 1), ("workers", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                found.append(f"{name}: expected at least {least}, got {value}")
        if self.strategy not in STRATEGIES:
            found.append(
                f"strategy: expected one of {', '.join(STRATEGIES)}, got {self.strategy}; each device holds a whole "
                "model, which strategies that divide the model (fsdp, deepspeed) or start processes themselves "
                "(ddp_spawn, ddp_notebook) do not fit"
            )
        if self.devices > 1 and self.accelerator == "mps":
            found.append(f"devices: expected 1 with accelerator mps, got {self.devices}")
        return found


@dataclass
class LoggerConfig:
    """Where scores are logged beside ``result.json``; group ``logger``.

    Attributes:
        kind: ``csv``, ``wandb``, ``tensorboard`` or ``none``.
        project: W&B project.
        entity: W&B entity, or None for the account's own.
        offline: W&B: None is offline unless an account is set up on this machine.
        group: W&B group; None is the sweep.
    """

    kind: str = "csv"
    project: str = "regmean_lab"
    entity: str | None = None
    offline: bool | None = None
    group: str | None = None


@dataclass
class PathsConfig:
    """Folders; group ``paths``. Relative ones are relative to where the command runs.

    Attributes:
        data_dir: data, in the layout of data/README.md.
        zoo_dir: trained members and their statistics.
        output_dir: results; every job has a folder of its own below it.
    """

    data_dir: str = "data"
    zoo_dir: str = "zoo"
    output_dir: str = "outputs"
