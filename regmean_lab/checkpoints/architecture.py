"""Inspects a checkpoint's architecture on the ``meta`` device, without allocating memory.

What a merge of weights wants of a model and its configuration is plain data, kept between processes
(``kept_structures.py``). The model is made where it is not kept, and by whoever wants the model itself: adapters,
weights that are untied or put together from several, and all that reads text. So is the configuration, whose class may
import as much as a model.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from regmean_lab.checkpoints.kept_structures import header_content, keep, kept, structure_key
from regmean_lab.checkpoints.names import StoredNames, read_names, tied_names
from regmean_lab.checkpoints.origin import Origin
from regmean_lab.checkpoints.structure import (
    NotPlainError,
    change_settings_,
    flat_settings,
    read_stored_names,
    stored_names,
)
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.parameters import Layout
from regmean_lab.models.headers import CheckpointError, StoredTensor
from regmean_lab.models.pretrained import head_parameters, quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)

LABEL_ARCHITECTURES = ("ForSequenceClassification", "ForTokenClassification")
"""Endings of the names of classes whose last layer has a row for each label."""

TOKEN_SETTINGS = tuple(f"{token}_token_id" for token in ("pad", "bos", "eos", "sep", "cls", "mask", "unk"))
"""Settings of a configuration that are numbers of tokens."""

MALFORMED = (AttributeError, KeyError, TypeError, ValueError, NotPlainError)
"""What is raised for kept content that is not what it should be."""


class Architecture:
    """A checkpoint's model, without weights.

    Args:
        model: the model, its parameters on the device ``meta``; None where it is made when it is asked for.
        config: its configuration; None where it is made when it is asked for.
        content: the configuration as it was read, without what names code.
        notes: what a user should know of how the configuration was read.
        origin: what the model is made of; None for one that is not kept.
        structure: what is known of the model, by the names of these properties.
        changes: what making the model changes in its configuration (``setting_changes``), if neither is made.
        settings: all settings of the configuration (``flat_settings``), if they are known without it.
    """

    def __init__(
        self,
        model: PreTrainedModel | None,
        config: PreTrainedConfig | None,
        content: Mapping[str, Any],
        notes: Sequence[str] = (),
        origin: Origin | None = None,
        structure: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.content = content
        self.notes = list(notes)
        self.origin = origin
        self.__dict__.update(structure or {})
        self._changes = changes
        self._known_settings = settings
        if config is not None:
            self.__dict__["config"] = config
        if model is not None:
            self.__dict__["model"] = model

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The configuration, as making the model leaves it; made here if its settings were known without it."""
        assert self.origin is not None
        with quiet_transformers():
            try:
                config = self.origin.config()
                change_settings_(config, self._changes or {})
            except MALFORMED as error:
                log.debug("%s: not read (%s)", self.origin.key, error)
                config = self.origin.config()
                self.origin.model(config)
        return config

    @property
    def has_config(self) -> bool:
        """Whether the configuration was made, which can then be changed."""
        return "config" in self.__dict__

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings of the configuration by name, as :func:`~regmean_lab.checkpoints.structure.flat_settings`."""
        if self._known_settings is not None and not self.has_config:
            return self._known_settings
        return flat_settings(self.config.to_dict())

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model, on the device ``meta``; made here if its structure was known without it."""
        assert self.origin is not None
        with quiet_transformers():
            return self.origin.model(self.origin.config())[0]

    def stored_names(self, tensors: Mapping[str, StoredTensor]) -> StoredNames:
        """What stored tensors are for the model (:func:`~regmean_lab.checkpoints.names.read_names`)."""
        key = None
        if self.origin is not None and self.origin.key is not None:
            key = structure_key({"architecture": self.origin.key, "names": header_content(tensors)})
            if (content := kept(key)) is not None:
                try:
                    return read_stored_names(content)
                except MALFORMED as error:
                    log.debug("%s: not read (%s)", key, error)
        names = read_names(tensors, self.model)
        if key is not None:
            try:
                keep(key, stored_names(names))
            except NotPlainError as error:
                log.debug("%s: not kept (%s)", key, error)
        return names

    @cached_property
    def name(self) -> str:
        """Name of the model's class."""
        return type(self.model).__name__

    @cached_property
    def base_class(self) -> str:
        """Module and name of the class of its encoder (or decoder)."""
        cls = type(self.model.base_model)
        return f"{cls.__module__}.{cls.__qualname__}"

    @property
    def base_name(self) -> str:
        """Name of the class of its encoder (or decoder)."""
        return self.base_class.rpartition(".")[2]

    @cached_property
    def base_model_prefix(self) -> str:
        """What its class calls its encoder."""
        return self.model.base_model_prefix

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
    def tied(self) -> dict[str, str]:
        """By name, the name that a tensor is tied to when a file is loaded, in the model's order."""
        return tied_names(self.model)

    @cached_property
    def ties_words(self) -> bool:
        """Whether its configuration ties the output layer to the input embedding."""
        return bool(getattr(self.model.config, "tie_word_embeddings", True))

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
    def model_type(self) -> str:
        """What transformers calls the type of the model."""
        return str(self.config.model_type)

    @cached_property
    def token_settings(self) -> dict[str, Any]:
        """Numbers of special tokens by setting, those that the configuration has."""
        return {key: getattr(self.config, key) for key in TOKEN_SETTINGS if hasattr(self.config, key)}

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

    @cached_property
    def is_bare(self) -> bool:
        """Whether it is an encoder (or decoder) without anything on top."""
        return bool(self.model.base_model is self.model) and self.model.get_output_embeddings() is None

    @cached_property
    def encoder_prefix(self) -> str:
        """What the names of its encoder's tensors begin with."""
        return "" if self.model.base_model is self.model else f"{self.model.base_model_prefix}."

    def encoder_part(self, name: str) -> str:
        """The part of the encoder (such as its pooler) that a tensor of it belongs to."""
        return name.removeprefix(self.encoder_prefix).split(".")[0]

    @cached_property
    def encoder_parts(self) -> frozenset[str]:
        """All parts of its encoder that have tensors."""
        return frozenset(name.split(".")[0] for name in self.model.base_model.state_dict(keep_vars=True))

    @cached_property
    def may_lack(self) -> frozenset[str]:
        """Tensors that its files need not have: transformers fills them (``_keys_to_ignore_on_load_missing``)."""
        info: Any = SimpleNamespace(missing_keys=set(self.shapes), unexpected_keys=set())
        self.model._adjust_missing_and_unexpected_keys(info)
        return frozenset(self.shapes) - info.missing_keys

    @cached_property
    def pads_positions(self) -> bool:
        """Whether its positions begin after the number of the padding token, as RoBERTa's do."""
        tokens = self.model.get_input_embeddings()
        return any(
            isinstance(module, torch.nn.Embedding) and module.padding_idx is not None and "position" in name
            for name, module in self.model.named_modules()
            if module is not tokens
        )

    def groups(self) -> list[tuple[str, ...]]:
        """Names of its tensors; those of tied ones together, the leader first."""
        together: dict[str, list[str]] = {}
        for name, leader in self.leaders.items():
            together.setdefault(leader, []).append(name)
        return [tuple(names) for names in together.values()]

    def untie(self, values: Mapping[str, object]) -> None:
        """Let tied tensors share no more than their values allow.

        Args:
            values: by name, what identifies the values of a tensor; names that are not there stay with their leader.
        """
        changed = False
        for names in self.groups():
            first = values.get(names[0])
            own: dict[object, torch.nn.Parameter] = {}
            for name in names[1:]:
                if (value := values.get(name, first)) == first:
                    continue
                if value not in own:
                    own[value] = torch.nn.Parameter(self._state[name].detach().clone())
                path, _, attribute = name.rpartition(".")
                setattr(self.model.get_submodule(path), attribute, own[value])
                changed = True
        if changed:
            for key in ("_state", "shapes", "leaders", "layout", "head", "label_outputs", "vocabulary"):
                self.__dict__.pop(key, None)

    @property
    def is_untied(self) -> bool:
        """Whether files, an adapter or the configuration say that weights are apart which others of its class tie."""
        apart = bool(self.tied) and all(self.leaders[name] == name for name in self.tied)
        return apart or not self.ties_words

    def own_config(self) -> PreTrainedConfig:
        """A copy of the configuration that says whether weights are tied as the files or an adapter said."""
        config = copy.deepcopy(self.config)
        if self.is_untied:
            config.tie_word_embeddings = False
        return config

    def canonical(self, name: str) -> str:
        """The model's own name for a stored tensor; for tied tensors, the first. Files may omit the model's prefix."""
        own = self.own_name(name)
        return name if own is None else self.leaders[own]

    def own_name(self, name: str) -> str | None:
        """The model's own name for a stored tensor; for tied tensors, this one; None where it has no such tensor."""
        prefix = f"{self.base_model_prefix}."
        candidates = (name, f"{prefix}{name}", name.removeprefix(prefix))
        return next((candidate for candidate in candidates if candidate in self.leaders), None)

    @cached_property
    def _state(self) -> Mapping[str, torch.Tensor]:
        return self.model.state_dict(keep_vars=True)


def untied_architecture(architecture: Architecture, names: Sequence[str]) -> Architecture:
    """The same model with a separate output layer, where input embedding and output layer are tied.

    Args:
        architecture: the model with its ties.
        names: tied weights that must become separate weights.

    Raises:
        CheckpointError: for models that cannot be without the tie.
    """
    config = copy.deepcopy(architecture.config)
    shown = " and ".join(dict.fromkeys([*names, *(architecture.leaders[name] for name in names)]))
    problem = (
        f"{shown} are one weight, and would be changed apart; a {config.model_type} model cannot hold them apart, so "
        "there is no whole model to be merged"
    )
    if config.is_encoder_decoder:  # these scale their outputs by whether they are tied
        raise CheckpointError([problem])
    config.tie_word_embeddings = False
    config.get_text_config().tie_word_embeddings = False
    with quiet_transformers(), torch.device("meta"), torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = type(architecture.model)(config)
    # The configuration stays that of the base: members without such an adapter, which have it too, are untied as well.
    untied = Architecture(model.eval(), architecture.config, architecture.content, architecture.notes)
    if any(list(untied.leaders.values()).count(untied.leaders[name]) > 1 for name in names):
        raise CheckpointError([problem])
    return untied


def lacking(architecture: Architecture, found: Collection[str]) -> list[str]:
    """Tensors of a model that it needs and that are not among those found, tied ones by their leader.

    Those that transformers fills itself are not needed.
    """
    missing = set(architecture.leaders.values()) - set(found) - architecture.may_lack
    return [name for name in architecture.shapes if name in missing]
