"""Models without weights from untrusted configurations: which are refused, and which class each has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from regmean_lab.checkpoints.labels import label_problems
from regmean_lab.checkpoints.names import read_names, tied_names, ties
from regmean_lab.models.headers import CheckpointError, StoredTensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

MAX_LABELS = 1_000_000

_LAYER_COUNT = re.compile(r"(^|_)n?_?(hidden_|encoder_|decoder_)*layers?$|^n_layers?$|^num_layers$")
_CLASSES = (
    "AutoModel",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
    "AutoModelForNextSentencePrediction",
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForPreTraining",
)
"""Where the class of a model is looked for that its configuration does not name."""


@dataclass(frozen=True)
class Like:
    """What makes a model another one than its configuration describes: what an adapter has made of it.

    Attributes:
        auto_class: transformers' ``AutoModelFor…`` whose class it has; None for the configuration's own.
        labels: number of its labels, or None for the configuration's.
        tokens: rows of its table of tokens, or None for the configuration's.
    """

    auto_class: Any = None
    labels: int | None = None
    tokens: int | None = None


def type_problems(content: Mapping[str, Any]) -> list[str]:
    """Why transformers has no model for the content of a ``config.json``."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = content.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return []
    what = "needs code of its own (auto_map), which is never run" if "auto_map" in content else "is not known"
    return [f"model_type {str(kind)[:80]!r} {what}; transformers {transformers.__version__} has no such architecture"]


def content_problems(content: Mapping[str, Any], tensors: int) -> list[str]:
    """What else is wrong with the content of a ``config.json``, before anything is made of it."""
    found = []
    for key, value in content.items():
        if _LAYER_COUNT.search(key) and _is_count(value) and value > tensors:
            found.append(f"{key} is {value}, but the weights have {tensors} tensors")
    for key in ("num_labels", "_num_labels"):
        if _is_count(value := content.get(key)) and value > MAX_LABELS:
            found.append(f"{key} is {value}; at most {MAX_LABELS} labels are read")
    found += label_problems(content)
    if content.get("quantization_config") is not None:
        found.append("quantization_config: quantized weights cannot be merged; merge what they were quantized from")
    return found


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def empty_model(
    config: PreTrainedConfig, like: Like, stored: Mapping[str, StoredTensor] | None, lenient: bool
) -> tuple[PreTrainedModel, list[str]]:
    """The model of a configuration without weights, and what a user should know of how its class was found."""
    import transformers
    from transformers import AutoModel, PreTrainedModel

    if like.labels is not None and like.labels != config.num_labels:
        config.num_labels = like.labels
    if like.tokens is not None:
        config.vocab_size = like.tokens
    named = config.architectures[0] if config.architectures else None
    cls: Any = getattr(transformers, named, None) if isinstance(named, str) else None
    if named is not None and not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        raise CheckpointError(
            [f"architectures: transformers {transformers.__version__} has no model {str(named)[:80]!r}"]
        )
    if like.auto_class is not None and cls not in like.auto_class._model_mapping.values():
        cls = like.auto_class._model_mapping[type(config)]
    if cls is not None:
        return _on_meta(cls, config), []
    fitting, tried = _fitting(config, stored) if stored is not None else ([], [])
    if len(fitting) == 1:
        return fitting[0], [f"names no architectures; its tensors are those of {type(fitting[0]).__name__}"]
    if stored is None or lenient:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return AutoModel.from_config(config).eval(), []
    classes = [type(model).__name__ for model in fitting] or tried
    fit = "several classes" if fitting else "none of the classes that were tried"
    raise CheckpointError(
        [
            f"names no architectures, and the tensors fit {fit} ({', '.join(classes)}): add the class that the model "
            f'was saved from, such as "architectures": ["{classes[-1]}"]'
        ]
    )


def _on_meta(cls: Any, config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = cls(config)
    return model.eval()


def _fitting(
    config: PreTrainedConfig, stored: Mapping[str, StoredTensor]
) -> tuple[list[PreTrainedModel], Sequence[str]]:
    """Models of all classes for a configuration that have just the stored tensors, and the names of all classes."""
    import transformers

    classes: dict[str, Any] = {}
    for auto_class in _CLASSES:
        mapped = getattr(transformers, auto_class)._model_mapping.get(type(config), ())
        for cls in mapped if isinstance(mapped, tuple) else (mapped,):
            classes.setdefault(cls.__name__, cls)
    fitting: list[tuple[int, bool, PreTrainedModel]] = []
    for cls in classes.values():
        try:
            model = _on_meta(cls, config)
        except (ValueError, TypeError, AttributeError):  # a class for other settings of the configuration
            continue
        names = read_names(stored, model)
        state = model.state_dict(keep_vars=True)
        origin, _ = ties(tied_names(model), names.found, lambda one, other: True)
        if names.strangers or names.problems or set(state) - set(origin):
            continue
        shaped = all(tuple(state[name].shape) == stored[own].shape for name, own in names.plain.items())
        fitting.append((len(stored.keys() & state.keys()), shaped, model))
    # An encoder's tensors are also those of a model around it whose head is tied; stored names tell the two apart.
    most = max((exact for exact, _, _ in fitting), default=0)
    models = [(shaped, model) for exact, shaped, model in fitting if exact == most]
    if len(models) > 1 and any(shaped for shaped, _ in models):
        models = [(shaped, model) for shaped, model in models if shaped]
    return [model for _, model in models], list(classes)
