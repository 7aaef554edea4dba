"""A fine-tuned model of any origin: its task, and the module that runs it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from regmean_lab.checkpoints.architecture import Architecture, lacking
from regmean_lab.checkpoints.labels import label_problems
from regmean_lab.checkpoints.members import read_stored
from regmean_lab.models.empty import empty_of, fill_unstored_
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import Checkpoint, ModelError
from regmean_lab.models.sentence_folders import SentenceFolder
from regmean_lab.models.sentence_layers import sentence_layers
from regmean_lab.modules import TaskModule
from regmean_lab.modules.language_modeling import LanguageModule
from regmean_lab.modules.reading import ReadingModule
from regmean_lab.modules.sequence_classification import PROBLEM_TYPES, SequenceClassificationModule
from regmean_lab.modules.token_classification import TokenClassificationModule
from regmean_lab.statistics import ReadWeight
from regmean_lab.suites.base import Task, TaskKind
from regmean_lab.utils.names import abbreviated

log = logging.getLogger(__name__)

LONGEST = 512
"""Tokens to which texts are cut where no length is given and the model could take more."""

UNLIMITED = 10**6
"""A tokenizer that claims to take more tokens knows no limit."""

TASKS: dict[str, tuple[Any, Any]] = {
    "sequence_classification": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    "token_classification": (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
    "seq2seq": (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    "causal": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "masked_lm": (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "question_answering": (AutoModelForQuestionAnswering, MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
    "multiple_choice": (AutoModelForMultipleChoice, MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES),
    "encoder": (AutoModel, MODEL_MAPPING_NAMES),
}
"""What loads a model of each task, and the classes of such models by type of model."""

READS = {
    "masked_lm": "texts",
    "question_answering": "pairs",
    "multiple_choice": "choices",
    "encoder": "texts",
}
"""Of tasks that need no labels, what is read: texts, pairs of texts, or a text with each of several choices."""

ENCODER_CLASS = "EncoderModel"
"""Ending of the names of classes that are the encoder of an encoder-decoder."""


def task_name(config: PreTrainedConfig, wanted: str | None, sentence: SentenceFolder | None = None) -> str:
    """The task of a model, one of :data:`TASKS`.

    Args:
        config: its configuration.
        wanted: the task that is asked for, or None: the configuration's ``architectures`` tell it.
        sentence: the folder of sentence-transformers that it belongs to: it is an encoder then, whatever class it was
            saved from.

    Raises:
        ModelError: when they do not.
    """
    architecture = (getattr(config, "architectures", None) or [""])[0]
    name = wanted
    if name is None and sentence is not None and sentence.is_embedding:
        name = "encoder"
    if name is None:
        for task, (_, classes) in TASKS.items():
            known = classes.get(config.model_type, ())
            if architecture and architecture in (known if isinstance(known, tuple) else (known,)):
                name = task
                break
    if name is None and architecture.endswith(ENCODER_CLASS):
        name = "encoder"
    if name is None:
        raise ModelError(
            f"task: the model's config.json names {architecture or 'no class'} ({config.model_type}), which is no "
            f"model of text that is known; expected one of {', '.join(TASKS)}"
        )
    if name in READS and config.is_encoder_decoder and not (sentence or architecture.endswith(ENCODER_CLASS)):
        raise ModelError(
            f"task: {name} is for encoders and decoders, and {architecture or config.model_type} is an "
            "encoder-decoder; expected task=seq2seq, or the encoder alone, saved by its own class"
        )
    return name


def task_of(config: PreTrainedConfig, name: str) -> Task:
    """What a model predicts, with the labels that its configuration names."""
    if name in ("seq2seq", "causal"):
        return Task("text", (), "loss")
    if name in READS:
        return Task("unlabelled", (READS[name],), "loss")
    names: Any = config.id2label
    if found := label_problems({"id2label": names}):
        raise ModelError(f"checkpoint: config.json: {found[0]}")
    labels = tuple(str(names[number]) for number in range(len(names)))
    kind: TaskKind = "token_labels"
    if name == "sequence_classification":
        problem = getattr(config, "problem_type", None)
        kinds = {transformers_name: kind for kind, transformers_name in PROBLEM_TYPES.items()}
        kind = kinds[problem] if problem in kinds else "regression" if len(labels) == 1 else "single_label"
    return Task(kind, labels, "loss")


def read_checkpoint(checkpoint: Checkpoint) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Configuration and tokenizer of a checkpoint.

    Raises:
        ModelError: when they cannot be read, or need code of their own, which is never run.
    """
    try:
        return checkpoint.config(), checkpoint.tokenizer()
    except (OSError, ValueError, KeyError, AttributeError) as error:  # what transformers raises for them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"checkpoint: configuration or tokenizer of {checkpoint.source} cannot be used: {reason}"
        ) from None


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
    return _encoder_class(checkpoint, sentence) if name == "encoder" else TASKS[name][0]


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


def longest_text(config: Any, tokenizer: PreTrainedTokenizerBase, wanted: int | None) -> int:
    """How many tokens of a text are read: as many as asked for and as the model can take."""
    limits = [wanted or LONGEST]
    if tokenizer.model_max_length < UNLIMITED:
        limits.append(tokenizer.model_max_length)
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # Positions of RoBERTa and its kin begin after that of padding.
        padding = config.pad_token_id if "roberta" in config.model_type or config.model_type == "camembert" else None
        limits.append(positions - (padding + 1 if isinstance(padding, int) else 0))
    return min(limits)


def is_local(checkpoint: str) -> bool:
    """Whether a checkpoint is a local folder: what is measured can be written beside it."""
    return Path(checkpoint).expanduser().is_dir()
