"""What a fine-tuned model of any origin predicts, and how much text it reads, by its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regmean_lab.checkpoints.labels import label_problems
from regmean_lab.models.pretrained import PROBLEM_TYPES, ModelError
from regmean_lab.models.sentence_folders import SentenceFolder
from regmean_lab.suites.base import Task, TaskKind

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

LONGEST = 512
"""Tokens to which texts are cut where no length is given and the model could take more."""

UNLIMITED = 10**6
"""A tokenizer that claims to take more tokens knows no limit."""

TASKS = {
    "sequence_classification": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION"),
    "token_classification": ("AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION"),
    "seq2seq": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM"),
    "causal": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM"),
    "masked_lm": ("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM"),
    "question_answering": ("AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING"),
    "multiple_choice": ("AutoModelForMultipleChoice", "MODEL_FOR_MULTIPLE_CHOICE"),
    "encoder": ("AutoModel", "MODEL"),
}
"""What transformers calls the class that loads a model of each task, and its list of such models' classes by type."""

READS = {
    "masked_lm": "texts",
    "question_answering": "pairs",
    "multiple_choice": "choices",
    "encoder": "texts",
}
"""Of tasks that need no labels, what is read: texts, pairs of texts, or a text with each of several choices."""

ENCODER_CLASS = "EncoderModel"
"""Ending of the names of classes that are the encoder of an encoder-decoder."""


def auto_class(task: str) -> Any:
    """The class of transformers that loads a model of a task."""
    import transformers

    return getattr(transformers, TASKS[task][0])


def class_names(task: str) -> Any:
    """Names of the classes of a task's models by type of model: one, or several."""
    from transformers.models.auto import modeling_auto

    return getattr(modeling_auto, f"{TASKS[task][1]}_MAPPING_NAMES")


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
        for task in TASKS:
            known = class_names(task).get(config.model_type, ())
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
