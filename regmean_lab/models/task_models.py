"""What each kind of task makes of a pretrained model. Checks and plans need that, too, and no Lightning."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regmean_lab.models.pretrained import PROBLEM_TYPES, Checkpoint, label_names, load_model, quiet_transformers
from regmean_lab.models.shapes import CLASSES, WRITING, described, writes_as
from regmean_lab.suites.base import Task
from regmean_lab.suites.text_generation import FORMS
from regmean_lab.utils.registry import ByKind

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class TaskModel:
    """The model of a kind of task; the module that trains it derives from it."""

    @classmethod
    @abstractmethod
    def new_model(cls, checkpoint: Checkpoint, task: Task) -> PreTrainedModel:
        """The pretrained model with what the task needs on top, from torch's global random state."""

    @classmethod
    @abstractmethod
    def load_model(cls, folder: Path) -> PreTrainedModel:
        """A fine-tuned model from a folder, float32, in evaluation mode."""

    @classmethod
    def model_problems(cls, checkpoint: Checkpoint, task: Task) -> list[str]:
        """Why a pretrained model does not do for a task: one message each, beginning with the setting's name."""
        return []


_MODELS: ByKind[TaskModel] = ByKind()
register_model = _MODELS.register
"""Class decorator: make this the model of some kinds of task."""


def task_model(task: Task) -> type[TaskModel]:
    """The model for a task."""
    return _MODELS[task.kind]


@register_model("multi_label", "single_label", "regression")
class SequenceClassifier(TaskModel):
    """One of ``AutoModelForSequenceClassification``."""

    @classmethod
    def new_model(cls, checkpoint: Checkpoint, task: Task) -> PreTrainedModel:
        """The pretrained encoder with a newly initialised head."""
        return checkpoint.load(
            _auto_class(CLASSES["sequence"]), **label_names(task), problem_type=PROBLEM_TYPES[task.kind]
        )

    @classmethod
    def load_model(cls, folder: Path) -> PreTrainedModel:
        """A fine-tuned classifier from a folder."""
        return load_model(_auto_class(CLASSES["sequence"]), folder)


@register_model("token_labels")
class TokenClassifier(TaskModel):
    """One of ``AutoModelForTokenClassification``."""

    @classmethod
    def new_model(cls, checkpoint: Checkpoint, task: Task) -> PreTrainedModel:
        """The pretrained encoder with a newly initialised head."""
        return checkpoint.load(_auto_class(CLASSES["tokens"]), **label_names(task))

    @classmethod
    def load_model(cls, folder: Path) -> PreTrainedModel:
        """A fine-tuned token classifier from a folder."""
        return load_model(_auto_class(CLASSES["tokens"]), folder)


@register_model("answers")
class AnsweringModel(TaskModel):
    """One of ``AutoModelForSeq2SeqLM`` or ``AutoModelForCausalLM``, by its configuration."""

    @classmethod
    def new_model(cls, checkpoint: Checkpoint, task: Task) -> PreTrainedModel:
        """The pretrained model as it is: its output layer writes the answers."""
        return checkpoint.load(generation_class(checkpoint.config()))

    @classmethod
    def load_model(cls, folder: Path) -> PreTrainedModel:
        """A fine-tuned model from a folder."""
        return load_model(generation_class(_auto_class("AutoConfig").from_pretrained(folder)), folder)

    @classmethod
    def model_problems(cls, checkpoint: Checkpoint, task: Task) -> list[str]:
        """A message for a model that cannot write."""
        own = described(checkpoint)
        if own.writes is None:
            return [
                f"model: {checkpoint.name} ({own.model_type}) reads texts but does not write; answers in words need "
                "an encoder-decoder or a decoder, for example model=t5_v1_1_base or model=gpt2"
            ]
        if own.writes == "encoder-decoder" and not own.starts:
            return [
                f"model: the config.json of {checkpoint.name} lacks decoder_start_token_id, its decoder's first token"
            ]
        return []


@register_model("text")
class LanguageModel(AnsweringModel):
    """A model that writes, of the task's form."""

    @classmethod
    def model_problems(cls, checkpoint: Checkpoint, task: Task) -> list[str]:
        """A message for a model that cannot write, or is not of the task's form."""
        if found := super().model_problems(checkpoint, task):
            return found
        form = FORMS[0] if described(checkpoint).writes == "encoder-decoder" else FORMS[1]
        if task.labels not in ((), (form,)):
            return [
                f"model: {checkpoint.name} is {'an encoder-decoder' if form == FORMS[0] else 'a decoder'}; expected "
                f"suite.form={form}"
            ]
        return []


@register_model("unlabelled")
class BareModel(TaskModel):
    """One of ``AutoModel``: texts are only read."""

    @classmethod
    def new_model(cls, checkpoint: Checkpoint, task: Task) -> PreTrainedModel:
        """The model as it is."""
        return checkpoint.load(_auto_class(CLASSES["bare"]))

    @classmethod
    def load_model(cls, folder: Path) -> PreTrainedModel:
        """An encoder from a folder."""
        return load_model(_auto_class(CLASSES["bare"]), folder)


def generation_class(config: PreTrainedConfig) -> Any:
    """What loads a model that writes; None for a model that only reads (masked language models such as BERT)."""
    writes = writes_as(config)
    return None if writes is None else _auto_class(WRITING[writes])


def _auto_class(name: str) -> Any:
    """A class of transformers, which is imported when it is used: what is checked of a model needs none."""
    with quiet_transformers() as transformers:
        return getattr(transformers, name)
