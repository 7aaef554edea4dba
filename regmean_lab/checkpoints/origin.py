"""What a model without weights is made of: the content of its configuration, and the headers of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from regmean_lab.checkpoints.empty_models import Like, empty_model
from regmean_lab.checkpoints.kept_structures import header_content, structure_key
from regmean_lab.models.headers import StoredTensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_NOT_SETTINGS = ("model_type", "transformers_version")

POOLER = "pooler"
"""What encoders with a ``[CLS]`` token have on top; embeddings do without, and many are stored without it."""


@dataclass(frozen=True)
class Origin:
    """All that a model without weights is made of; what it is follows from this and from the libraries' versions.

    Attributes:
        content: of its configuration, without what names code.
        like: what an adapter makes of it.
        stored: the tensors that are to be its weights, or None.
        lenient: whether an encoder without a head will do where the class is not known.
    """

    content: Mapping[str, Any]
    like: Like
    stored: Mapping[str, StoredTensor] | None
    lenient: bool

    @cached_property
    def key(self) -> str | None:
        """What its structure is kept under; None for the base of an adapter, which fits its changes into the model."""
        if self.stored is None:
            return None
        auto_class = self.like.auto_class
        like = {**asdict(self.like), "auto_class": None if auto_class is None else auto_class.__name__}
        stored = header_content(self.stored)
        return structure_key({"content": self.content, "like": like, "stored": stored, "lenient": self.lenient})

    def config(self) -> PreTrainedConfig:
        """The configuration, before a model is made of it."""
        from transformers import AutoConfig

        settings = {key: value for key, value in self.content.items() if key not in _NOT_SETTINGS}
        config: PreTrainedConfig = AutoConfig.for_model(self.content["model_type"], **settings)
        return config

    def model(self, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]]:
        """The model of its configuration, and what a user should know of it; some settings are changed by that."""
        model, told = empty_model(config, self.like, self.stored, self.lenient)
        if self.stored and not any(f".{POOLER}." in f".{name}" for name in self.stored) and _without_pooler(model):
            told = [f"its files have no {POOLER}, which is left out", *told]
        return model, told


def _without_pooler(model: PreTrainedModel) -> bool:
    """Take the pooler from a bare encoder, which computes the same without it; whether there was one."""
    if model.base_model is not model or getattr(model, POOLER, None) is None:
        return False
    setattr(model, POOLER, None)
    return True
