"""A fine-tuned model of any origin as the module that runs it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoModelForTextEncoding, PreTrainedModel

from regmean_lab.checkpoints.architecture import Architecture, lacking
from regmean_lab.checkpoints.members import read_stored
from regmean_lab.checkpoints.publishing.reading import is_local
from regmean_lab.checkpoints.tasks import ENCODER_CLASS, READS, auto_class
from regmean_lab.models.empty import empty_of, fill_unstored_
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import Checkpoint, ModelError
from regmean_lab.models.sentence_folders import SentenceFolder
from regmean_lab.models.sentence_layers import sentence_layers
from regmean_lab.modules import TaskModule
from regmean_lab.modules.language_modeling import LanguageModule
from regmean_lab.modules.reading import ReadingModule
from regmean_lab.modules.sequence_classification import SequenceClassificationModule
from regmean_lab.modules.token_classification import TokenClassificationModule
from regmean_lab.statistics import ReadWeight
from regmean_lab.suites.base import Task
from regmean_lab.utils.names import abbreviated

log = logging.getLogger(__name__)


def load_module(checkpoint: Checkpoint, name: str, task: Task, sentence: SentenceFolder | None = None) -> TaskModule:
    """The fine-tuned model with its head, or with the modules of sentence-transformers.

    Raises:
        ModelError: when it cannot be loaded, or its head is not among its weights.
    """
    model, missing = checkpoint.load_with_missing(_model_class(checkpoint, name, sentence))
    _check_complete(checkpoint, model, missing)
    return _as_module(model, name, task, sentence)


def empty_module(
    checkpoint: Checkpoint, name: str, task: Task, sentence: SentenceFolder | None = None
) -> tuple[TaskModule, ReadWeight]:
    """The model that :func:`load_module` loads, with its weights on the device ``meta``, and what reads them.

    Raises:
        ModelError: as that does.
    """
    model = empty_of(_model_class(checkpoint, name, sentence), checkpoint.config())
    architecture = Architecture(model, model.config, {})
    try:
        stored = read_stored(stored_tensors(checkpoint.weights_folder()), architecture)
    except CheckpointError as error:
        raise ModelError("; ".join(f"checkpoint: {problem}" for problem in error.problems)) from None
    _check_complete(checkpoint, model, set(lacking(architecture, stored.origins)))
    if found := stored.problems("checkpoint", architecture):
        raise ModelError("; ".join(found))
    leaders, origins = architecture.leaders, stored.origins
    fill_unstored_(model, leaders, origins)
    return _as_module(model, name, task, sentence), lambda part: stored.weights[origins[leaders[part]]]


def _model_class(checkpoint: Checkpoint, name: str, sentence: SentenceFolder | None) -> Any:
    """What loads the model of a task."""
    return _encoder_class(checkpoint, sentence) if name == "encoder" else auto_class(name)


def _check_complete(checkpoint: Checkpoint, model: PreTrainedModel, missing: set[str]) -> None:
    if missing:
        shown = ", ".join([*sorted(missing)[:4], *(["…"] if len(missing) > 4 else [])])
        raise ModelError(
            f"checkpoint: {checkpoint.source} lacks weights of {type(model).__name__} ({shown}): it "
            f"was not fine-tuned for this task{_other_names(checkpoint, model)}"
        )


def _as_module(model: PreTrainedModel, name: str, task: Task, sentence: SentenceFolder | None) -> TaskModule:
    """A model with its task, and with the modules of sentence-transformers."""
    if name in READS:
        on_top, problem = (None, None) if sentence is None else sentence_layers(sentence)
        if problem is not None:
            log.warning("%s", problem)
        return ReadingModule(model.eval(), task, on_top).eval()
    module: type[TaskModule] = LanguageModule
    if name == "sequence_classification":
        module = SequenceClassificationModule
    elif name == "token_classification":
        module = TokenClassificationModule
    return module(model.eval(), task)


def _encoder_class(checkpoint: Checkpoint, sentence: SentenceFolder | None) -> Any:
    if sentence is not None and sentence.is_embedding:
        return sentence.auto_class
    architecture = (checkpoint.config().architectures or [""])[0]
    return AutoModelForTextEncoding if architecture.endswith(ENCODER_CLASS) else AutoModel


def _other_names(checkpoint: Checkpoint, model: PreTrainedModel) -> str:
    """What else may be the reason why weights are not found: names in the files that the model does not know."""
    if not is_local(checkpoint.source):
        return ""
    known = set(model.state_dict())
    try:
        strange = [name for name in stored_tensors(Path(checkpoint.source)) if name not in known]
    except CheckpointError:
        return ""
    return f", or its files name them otherwise: they have {abbreviated(strange)}" if strange else ""
