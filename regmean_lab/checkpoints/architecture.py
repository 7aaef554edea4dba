"""What a checkpoint's configuration tells of its model, from the model's class on the device ``meta``: no memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import torch
import transformers
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from regmean_lab.checkpoints.folders import CONFIG_FILE, read_json_file
from regmean_lab.checkpoints.headers import CheckpointError
from regmean_lab.merging.base import Layout
from regmean_lab.merging.layout import layout_of
from regmean_lab.models import head_parameters, quiet_transformers

MAX_LABELS = 1_000_000
LABEL_ARCHITECTURES = ("ForSequenceClassification", "ForTokenClassification")
"""Endings of the names of classes whose last layer has a row for each label."""

_LAYER_COUNT = re.compile(r"(^|_)n?_?(hidden_|encoder_|decoder_)*layers?$|^n_layers?$|^num_layers$")
_NOT_SETTINGS = ("model_type", "transformers_version")
_CODE_KEYS = ("auto_map", "custom_pipelines")


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


@dataclass
class Architecture:
    """A checkpoint's model, without weights.

    Attributes:
        model: the model, its parameters on the device ``meta``.
        config: its configuration.
        content: the configuration as it was read, without what names code.
        notes: what a user should know of how the configuration was read.
    """

    model: PreTrainedModel
    config: PreTrainedConfig
    content: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the model's class."""
        return type(self.model).__name__

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all its parameters and buffers by name, tied ones under all names."""
        return {name: tuple(tensor.shape) for name, tensor in self._state.items()}

    @cached_property
    def leaders(self) -> dict[str, str]:
        """By name, the first name of the same tensor: tied weights have one leader."""
        first: dict[int, str] = {}
        return {name: first.setdefault(id(tensor), name) for name, tensor in self._state.items()}

    @cached_property
    def layout(self) -> Layout:
        """Linear layers, label outputs and feed-forward blocks."""
        return layout_of(self.model, len(self.labels) if self.labels is not None else None)

    @cached_property
    def head(self) -> frozenset[str]:
        """Parameters on top of the model's encoder."""
        return frozenset(head_parameters(self.model))

    @cached_property
    def labels(self) -> list[str] | None:
        """Names of its labels in the order of its outputs; None for models without labels."""
        if not self.name.endswith(LABEL_ARCHITECTURES):
            return None
        names: dict[Any, str] = dict(self.config.id2label or {})
        return [str(names[number]) for number in range(len(names))]

    @cached_property
    def label_outputs(self) -> frozenset[str]:
        """Parameters with a row for each label."""
        return self.layout.label_outputs & self.head if self.labels is not None else frozenset()

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Parameters with a row for each token: input embedding, output layer and its bias, under all names."""
        table = self.model.get_input_embeddings()
        if not isinstance(table, torch.nn.Embedding):
            return frozenset()
        rows = table.num_embeddings
        found = set()
        for part in (table, self.model.get_output_embeddings()):
            if part is not None:
                found |= {id(tensor) for tensor in part.state_dict(keep_vars=True).values()}
        names = {name for name, tensor in self._state.items() if id(tensor) in found}
        # The output bias of some classes belongs to the module around the output layer.
        names |= {name for name in self.head if name.endswith("bias") and self.shapes[name] == (rows,)}
        return frozenset(name for name in names if self.shapes[name][0] == rows)

    def canonical(self, name: str) -> str:
        """The model's own name for a stored tensor, of tied ones the first: files may leave out the model's prefix."""
        prefix = f"{self.model.base_model_prefix}."
        for candidate in (name, f"{prefix}{name}", name.removeprefix(prefix)):
            if candidate in self.leaders:
                return self.leaders[candidate]
        return name

    @cached_property
    def _state(self) -> Mapping[str, torch.Tensor]:
        return self.model.state_dict(keep_vars=True)


def read_architecture(folder: Path, tensors: int, like: Like | None = None) -> Architecture:
    """The architecture that a folder's ``config.json`` describes; code that it names is never run.

    Args:
        folder: the folder.
        tensors: how many tensors its weights have: a configuration of more layers is refused.
        like: what an adapter makes of the model.

    Raises:
        CheckpointError: when it cannot be read, or needs code of its own.
    """
    path = folder / CONFIG_FILE
    content = read_json_file(path)
    if found := content_problems(content, tensors):
        raise CheckpointError([f"{path}: {problem}" for problem in found])
    notes = []
    for key in _CODE_KEYS:
        if content.pop(key, None) is not None:
            notes.append(f"{path}: names code ({key}), which is not run; transformers' own class is taken")
    try:
        with quiet_transformers():
            settings = {key: value for key, value in content.items() if key not in _NOT_SETTINGS}
            config: PreTrainedConfig = AutoConfig.for_model(content["model_type"], **settings)
            model = _empty_model(config, like or Like())
        architecture = Architecture(model, config, content, notes)
        _ = architecture.labels  # numbers that are not those of the outputs show here
    except CheckpointError:
        raise
    except Exception as error:  # whatever a class raises for settings that make no sense
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError([f"{path}: no model can be made of it ({reason[:300]})"]) from None
    return architecture


def content_problems(content: Mapping[str, Any], tensors: int) -> list[str]:
    """What is wrong with the content of a ``config.json``, before anything is made of it."""
    found = []
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        what = "needs code of its own (auto_map), which is never run" if "auto_map" in content else "is not known"
        found.append(
            f"model_type {str(kind)[:80]!r} {what}; transformers {transformers.__version__} has no such architecture"
        )
    for key, value in content.items():
        if _LAYER_COUNT.search(key) and _is_count(value) and value > tensors:
            found.append(f"{key} is {value}, but the weights have {tensors} tensors")
    for key in ("num_labels", "_num_labels"):
        if _is_count(value := content.get(key)) and value > MAX_LABELS:
            found.append(f"{key} is {value}; at most {MAX_LABELS} labels are read")
    if content.get("quantization_config") is not None:
        found.append("quantization_config: quantized weights cannot be merged; merge what they were quantized from")
    return found


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _empty_model(config: PreTrainedConfig, like: Like) -> PreTrainedModel:
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
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = AutoModel.from_config(config) if cls is None else cls(config)
    return model.eval()
