"""The ``config.json`` of a merged model: a member's configuration with what a merge changes, as transformers writes it.

To make a configuration takes seconds of imports for some types of model. It is not made where the text is kept that
transformers wrote of the same content and the same changes (``kept_structures.py``).
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from regmean_lab.checkpoints.architecture import Architecture
from regmean_lab.checkpoints.architecture_reading import kept_architecture
from regmean_lab.checkpoints.kept_structures import keep, kept, structure_key
from regmean_lab.checkpoints.structure import NotPlainError, plain
from regmean_lab.models.folders import CONFIG_FILE
from regmean_lab.models.pretrained import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Changes:
    """What a merge changes in a configuration.

    Attributes:
        architecture: name of the class of the written model.
        untied: whether the output layer is no longer tied to the input embedding.
        dtype: of the written weights; None leaves the configuration's.
        tokens: by setting, numbers of tokens; those that the configuration has not are left out.
        rows: of the table of tokens, if the configuration has a ``vocab_size``; None leaves the configuration's, and
            ``tokens`` as well.
    """

    architecture: str
    untied: bool = False
    dtype: torch.dtype | None = None
    tokens: Mapping[str, Any] | None = None
    rows: int | None = None

    def make_(self, config: PreTrainedConfig) -> None:
        """Change a configuration in place."""
        if self.untied:
            config.tie_word_embeddings = False
        if self.rows is not None and hasattr(config, "vocab_size"):
            for key, value in (self.tokens or {}).items():
                if hasattr(config, key):
                    setattr(config, key, value)
            config.vocab_size = self.rows
        config.architectures = [self.architecture]
        if self.dtype is not None:
            config.dtype = self.dtype

    def content(self) -> dict[str, Any]:
        """The changes as JSON.

        Raises:
            NotPlainError: where JSON does not tell them.
        """
        dtype = None if self.dtype is None else str(self.dtype)
        own: dict[str, Any] = plain({**asdict(self), "dtype": dtype})
        return own


def write_configuration(architecture: Architecture, changes: Changes, folder: Path) -> None:
    """Write a model's configuration into a folder, with changes; the configuration itself stays as it is.

    Raises:
        ValueError: for settings that transformers does not write.
    """
    key, path = _key(architecture, changes), folder / CONFIG_FILE
    if key is not None and not architecture.has_config and (text := _kept_text(key)) is not None:
        path.write_text(text, encoding="utf-8")
        return
    config = copy.deepcopy(architecture.config)
    changes.make_(config)
    with quiet_transformers():
        config.save_pretrained(folder)
    if key is not None:
        _keep_text(key, architecture, changes, path.read_text(encoding="utf-8"))


def _key(architecture: Architecture, changes: Changes) -> str | None:
    """What the text is kept under: the order of the content's settings counts too, as names of labels have one."""
    origin = architecture.origin
    if origin is None or origin.key is None:
        return None
    try:
        return structure_key(
            {"architecture": origin.key, "content": json.dumps(origin.content), "written": changes.content()}
        )
    except NotPlainError:
        return None


def _kept_text(key: str) -> str | None:
    text = (kept(key) or {}).get(CONFIG_FILE)
    return text if isinstance(text, str) else None


def _keep_text(key: str, architecture: Architecture, changes: Changes, text: str) -> None:
    """Keep what was written, if it follows from the checkpoint: nothing else has changed the configuration."""
    assert architecture.origin is not None
    try:
        with quiet_transformers():
            if (again := kept_architecture(architecture.origin)) is None:
                return
            config = again[0].config
            changes.make_(config)
            if config.to_json_string() == text:
                keep(key, {CONFIG_FILE: text})
    except Exception as error:  # whatever a class raises: the text is written anew each time
        log.debug("%s: not kept (%s)", key, error)
