"""Training of one member (or of the joint model) into a Hugging Face folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from transformers import PreTrainedModel

from regmean_lab.config.groups import TrainerConfig, TrainingConfig
from regmean_lab.config.schema import Settings
from regmean_lab.models.pretrained import Checkpoint, ModelError
from regmean_lab.modules import Optimization, module_type
from regmean_lab.modules.base import TaskModule, TrainableModule
from regmean_lab.modules.multi_task import MultiTaskModule
from regmean_lab.modules.reweighting import sqrt_weights
from regmean_lab.modules.sequence_classification import SequenceClassificationModule
from regmean_lab.results import zero_note
from regmean_lab.statistics import rank
from regmean_lab.suites import Suite
from regmean_lab.suites.base import Split
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.multi_task_data import MultiTaskDataModule
from regmean_lab.suites.reading import read_together
from regmean_lab.tracking.environment import versions
from regmean_lab.tracking.loggers import open_loggers
from regmean_lab.tracking.names import DEV_SCORE
from regmean_lab.training.best_weights import BestWeights, epoch_of
from regmean_lab.training.descriptions import MemberTraining, describe, multi_task, name_of
from regmean_lab.training.history import History
from regmean_lab.training.lora import add_adapter, merge_adapter, save_adapter
from regmean_lab.training.padding import WithoutPadding
from regmean_lab.training.processes import run_together, trainer_devices
from regmean_lab.training.snapshots import Snapshots, TensorCheckpoints
from regmean_lab.training.starting_heads import head_note
from regmean_lab.training.told import ToldSteps
from regmean_lab.training.trainers import EpochProgressBar
from regmean_lab.utils.files import ADAPTER_FOLDER
from regmean_lab.utils.progress import at_stage, shows_bars
from regmean_lab.zoo import Zoo, ZooEntry

log = logging.getLogger(__name__)

OpenLogs = Callable[..., AbstractContextManager[list[Logger]]]
"""Opens the loggers of one training run; see :func:`regmean_lab.tracking.loggers.open_loggers`."""


def find_or_train(
    zoo: Zoo,
    checkpoint: Checkpoint,
    suite: Suite,
    corpora: Sequence[str],
    training: TrainingConfig,
    trainer: TrainerConfig,
    seed: int,
    open_logs: OpenLogs,
    others: Sequence[str] = (),
) -> tuple[ZooEntry, bool]:
    """A model fine-tuned on one corpus, or on several together, from the zoo; trained now if it is not there yet.

    Args:
        zoo: where it is looked for.
        checkpoint: the pretrained model.
        suite: the suite of the corpora.
        corpora: what it is trained on.
        training: how.
        trainer: on what.
        seed: seed of its head and of the order of its training data.
        open_logs: opens loggers.
        others: corpora of other models of the job, whose data are read before a training begins.

    Returns:
        The entry, and whether it was trained now.

    Raises:
        DataError: with everything that is wrong with the data, before any training.
    """
    prefix = name_of(checkpoint, suite, corpora, training, seed)
    description = describe(checkpoint, suite, corpora, training, seed)

    def train(folder: Path) -> dict[str, Any]:
        splits: tuple[Split, ...] = ("train", "dev")
        names = dict.fromkeys((*corpora, *others))
        read_together(partial(suite.examples, corpus, split) for corpus in names for split in splits)
        logs = partial(open_logs, f"train {prefix}", "train", suite.name, description)
        work = partial(
            _with_logs,
            logs,
            partial(
                train_model,
                folder,
                checkpoint,
                suite,
                corpora,
                training,
                trainer,
                seed,
                snapshots=zoo.training_folder(description),
            ),
        )
        return work() if trainer.devices == 1 else run_together(trainer, work)

    return zoo.find_or_train(description, prefix, train)


def find_or_train_for(job: Settings, needed: MemberTraining, checkpoint: Checkpoint, folder: Path) -> ZooEntry:
    """A model that a job needs, from its zoo; trained now, with loggers in the job's folder, if it is not there yet."""
    config = job.config
    entry, trained = find_or_train(
        Zoo(Path(config.paths.zoo_dir)),
        checkpoint,
        job.suite,
        needed.corpora,
        needed.training,
        config.trainer,
        needed.seed,
        partial(open_loggers, config.logger, folder / "train" / "+".join(needed.corpora)),
        job.members,
    )
    log.info("%s %s", "trained" if trained else "found", entry.path)
    return entry


def _with_logs(open_logs: OpenLogs, train: Callable[[Sequence[Logger]], dict[str, Any]]) -> dict[str, Any]:
    """Train with loggers, which only the first of several processes has."""
    with open_logs() if rank() == 0 else nullcontext([]) as loggers:
        return train(loggers)


def training_trainer(
    training: TrainingConfig,
    trainer: TrainerConfig,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
    unused_parameters: bool = False,
) -> pl.Trainer:
    """A trainer for fine-tuning; it evaluates on dev as it goes if the best weights are to be kept.

    Args:
        training: how the model is trained.
        trainer: on what.
        callbacks: callbacks.
        loggers: loggers.
        unused_parameters: whether a step leaves parameters of the model out.
    """
    devices = trainer_devices(trainer, together=True, unused_parameters=unused_parameters)
    plugins = [TensorCheckpoints(), *devices.pop("plugins", ())]
    return pl.Trainer(
        accelerator=trainer.accelerator,
        **devices,
        precision=training.precision,  # type: ignore[arg-type]  # any string that Lightning accepts
        max_epochs=training.epochs if training.steps is None else -1,
        max_steps=-1 if training.steps is None else training.steps,
        accumulate_grad_batches=training.accumulate,
        # Lightning counts batches.
        val_check_interval=None if training.eval_steps is None else training.eval_steps * training.accumulate,
        check_val_every_n_epoch=None if training.eval_steps else 1,
        gradient_clip_val=training.gradient_clip or None,
        deterministic=trainer.deterministic,
        callbacks=[*callbacks, WithoutPadding(), *([EpochProgressBar()] if shows_bars(trainer.progress_bar) else [])],
        plugins=plugins,
        logger=list(loggers) or False,
        enable_checkpointing=False,
        enable_progress_bar=shows_bars(trainer.progress_bar),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if training.selection == "best" else 0,
        use_distributed_sampler=False,
        log_every_n_steps=10,
    )


def _checkpoint_gradients(module: TrainableModule) -> None:
    """Have every Hugging Face model of a module compute activations again in the backward pass."""
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    for model in models:
        if not model.supports_gradient_checkpointing:
            raise ModelError(
                f"training.gradient_checkpointing: {type(model).__name__} keeps all activations; expected false"
            )
    models[0].activation_checkpointing_enable({"use_reentrant": False})


def train_model(
    folder: Path,
    checkpoint: Checkpoint,
    suite: Suite,
    corpora: Sequence[str],
    training: TrainingConfig,
    trainer: TrainerConfig,
    seed: int,
    loggers: Sequence[Logger] = (),
    snapshots: Path | None = None,
) -> dict[str, Any]:
    """Fine-tune a checkpoint and write it, with its tokenizer, into ``folder``.

    Args:
        folder: an empty folder.
        checkpoint: the pretrained model.
        suite: the suite of the corpora.
        corpora: what it is trained on.
        training: how.
        trainer: on what.
        seed: seed of its head and of the order of its training data.
        loggers: loggers.
        snapshots: where the state of training is written as it goes, and looked for first; None: nowhere.

    Returns:
        What ``training.json`` says of it beside its description: scores on dev (times 100), the epoch (from 0) of the
        weights, optimizer steps, examples, history of loss and score, seconds, versions.

    Raises:
        ModelError: when the weights are not finite.
    """
    started = time.perf_counter()
    at_stage(f"train {'+'.join(corpora)}")
    pl.seed_everything(seed, workers=True, verbose=False)
    for task in dict.fromkeys(suite.task(corpus) for corpus in corpora):
        if (note := head_note(checkpoint, task)) is not None:
            log.warning("%s", note)
    tokenizer = checkpoint.tokenizer()
    optimization = Optimization(training.learning_rate, training.weight_decay, training.schedule, training.warmup)
    module: TaskModule | MultiTaskModule
    data_class: type[CorpusDataModule]
    if multi_task(suite, corpora):
        tasks = {corpus: suite.task(corpus) for corpus in corpora}
        module, data_class = MultiTaskModule.from_checkpoint(checkpoint, tasks, optimization), MultiTaskDataModule
    else:
        task = suite.task(corpora[0])
        module_class = module_type(task)
        module = module_class(module_class.new_model(checkpoint, task), task, optimization)
        if training.reweight == "sqrt":
            assert isinstance(module, SequenceClassificationModule)  # the configuration was checked
            module.label_weights = sqrt_weights(
                example.label for corpus in corpora for example in suite.examples(corpus, "train")
            )
        data_class = CorpusDataModule
    adapter = None
    if training.lora.rank is not None:
        assert isinstance(module, TaskModule)  # the configuration was checked
        adapter = add_adapter(module.model, training.lora, checkpoint)
    data = data_class(
        suite,
        tokenizer,
        batch_size=training.batch_size,
        eval_batch_size=training.eval_batch_size,
        max_length=training.max_length,
        seed=seed,
        train_corpora=corpora,
        num_workers=trainer.workers,
    )
    module.train()  # from_pretrained leaves models in evaluation mode, and Lightning would keep it
    best, history = BestWeights(), History()
    # The history before snapshots, which it is part of.
    callbacks: list[pl.Callback] = [*([best] if training.selection == "best" else []), history, ToldSteps()]
    if training.patience is not None:
        # After each evaluation, so that a snapshot at the epoch's end knows whether training stops.
        callbacks.append(
            EarlyStopping(
                DEV_SCORE,
                mode="max",
                patience=training.patience,
                check_finite=False,
                check_on_train_epoch_end=False,
            )
        )
    kept = None if snapshots is None else Snapshots(snapshots)
    callbacks += [] if kept is None else [kept]
    if training.gradient_checkpointing:
        _checkpoint_gradients(module)
    fit = training_trainer(training, trainer, callbacks, loggers, unused_parameters=multi_task(suite, corpora))
    if (snapshot := None if kept is None else kept.found()) is not None:
        data.go_on_from(snapshot.epoch, snapshot.batches)
    fit.fit(module, datamodule=data, ckpt_path=None if snapshot is None else snapshot.path)
    epoch = best.epoch if best.scores else epoch_of(fit) - 1
    if not best.scores:  # the last weights are kept, or training ended before the first evaluation
        fit.limit_val_batches = 1.0
        fit.validate(module, datamodule=data, verbose=False)
    module.eval().cpu()
    if broken := [name for name, value in module.named_parameters() if not torch.isfinite(value).all()]:
        raise ModelError(
            f"training on {'+'.join(corpora)} diverged: NaN or infinity in {broken[0]} and {len(broken) - 1} other "
            "parameters; try a lower training.learning_rate"
        )
    if adapter is not None:
        assert isinstance(module, TaskModule)
        if rank() == 0:
            save_adapter(adapter, module.model, folder / ADAPTER_FOLDER)
        merge_adapter(adapter)
    scores = best.scores or module.dev_scores
    if rank() == 0 and (note := zero_note("individual", {"+".join(corpora): scores.get(module.key_score, 1.0)})):
        log.warning("on dev, %s", note)
    if rank() == 0:
        module.save(folder)
        tokenizer.save_pretrained(folder)
    return {
        "scores": scores,
        "key_score": module.key_score,
        "epoch": epoch,
        "steps": fit.global_step,
        "examples": sum(len(suite.examples(corpus, "train")) for corpus in corpora),
        "history": history.records,
        "seconds": time.perf_counter() - started,
        "versions": versions(),
    }
