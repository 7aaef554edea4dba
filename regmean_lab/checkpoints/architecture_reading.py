"""Reads the architecture that a folder describes, or takes what was kept of it by an earlier process."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regmean_lab.checkpoints.architecture import MALFORMED, Architecture
from regmean_lab.checkpoints.empty_models import Like, content_problems, type_problems
from regmean_lab.checkpoints.kept_structures import keep, kept
from regmean_lab.checkpoints.origin import Origin
from regmean_lab.checkpoints.structure import (
    PROPERTIES,
    NotPlainError,
    change_settings_,
    plain,
    properties,
    read_properties,
    setting_changes,
)
from regmean_lab.models.folders import CONFIG_FILE, read_json_file
from regmean_lab.models.headers import CheckpointError, StoredTensor
from regmean_lab.models.pretrained import quiet_transformers

log = logging.getLogger(__name__)

_CODE_KEYS = ("auto_map", "custom_pipelines")


def read_architecture(
    folder: Path,
    tensors: int,
    like: Like | None = None,
    stored: Mapping[str, StoredTensor] | None = None,
    lenient: bool = False,
) -> Architecture:
    """The architecture that a folder's ``config.json`` describes; code that it names is never run.

    Args:
        folder: the folder.
        tensors: how many tensors its weights have: a configuration of more layers is refused.
        like: what an adapter makes of the model.
        stored: its tensors: they tell the class of the model where the configuration names none.
        lenient: whether an encoder without a head will do where they do not.

    Raises:
        CheckpointError: when it cannot be read, or needs code of its own.
    """
    path = folder / CONFIG_FILE
    named = read_json_file(path)
    content = {key: value for key, value in named.items() if key not in _CODE_KEYS}
    code = [key for key in _CODE_KEYS if named.get(key) is not None]
    try:
        origin = Origin(content, like or Like(), stored, lenient)
        found_before = kept_architecture(origin)
        unknown = [] if found_before is not None else type_problems(named)  # none is kept of an unknown type
        if found := [*unknown, *content_problems(named, tensors)]:
            raise CheckpointError(found)
        if found_before is None:
            with quiet_transformers():
                architecture, told = _made(origin)
                _ = architecture.labels  # numbers that are not those of the outputs show here
                _keep_structure(architecture, told)
        else:
            architecture, told = found_before
        notes = [f"names code ({key}), which is not run; transformers' own class is taken" for key in code]
        architecture.notes = [f"{path}: {note}" for note in [*notes, *told]]
    except CheckpointError as error:
        raise CheckpointError([f"{path}: {problem}" for problem in error.problems]) from None
    except Exception as error:  # whatever a class raises for settings that make no sense
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError([f"{path}: no model can be made of it ({reason[:300]})"]) from None
    return architecture


def _made(origin: Origin) -> tuple[Architecture, list[str]]:
    """The architecture with its model, and what a user should know of it."""
    config = origin.config()
    model, told = origin.model(config)
    return Architecture(model, config, dict(origin.content), origin=origin), told


def kept_architecture(origin: Origin) -> tuple[Architecture, list[str]] | None:
    """The architecture without model and configuration, and what a user should know; None where it is not kept."""
    if origin.key is None or (content := kept(origin.key)) is None:
        return None
    try:
        structure, told = read_properties(content["properties"]), [str(note) for note in content["told"]]
        changes, settings = dict(content["changes"]), content["settings"]
        settings = None if settings is None else dict(settings)
    except MALFORMED as error:
        log.debug("%s: not read (%s)", origin.key, error)
        return None
    known = Architecture(
        None, None, dict(origin.content),
        origin=origin, structure=structure, changes=changes, settings=settings,
    )  # fmt: skip
    return known, told


def _keep_structure(architecture: Architecture, told: Sequence[str]) -> None:
    """Keep what a merge wants of a model, if it is the same when it is read again."""
    origin = architecture.origin
    if origin is None or origin.key is None:
        return
    try:
        before = origin.config()
        content = {
            "properties": properties(architecture),
            "changes": setting_changes(before, architecture.config),
            "settings": _plain_settings(architecture),
            "told": plain(list(told)),
        }
        again = json.loads(json.dumps(content))
        change_settings_(before, again["changes"])
        same = read_properties(again["properties"]) == {name: getattr(architecture, name) for name in PROPERTIES}
        if same and not setting_changes(before, architecture.config):
            keep(origin.key, content)
    except Exception as error:  # whatever a class raises that lacks what most have; who asks for it is told
        log.debug("%s: not kept (%s)", origin.key, error)


def _plain_settings(architecture: Architecture) -> dict[str, Any] | None:
    """All settings of the configuration; None where JSON does not tell them: it is then made each time."""
    try:
        settings: dict[str, Any] = plain(architecture.settings)
    except NotPlainError:
        return None
    return settings
