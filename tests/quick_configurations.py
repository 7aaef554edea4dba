"""Configurations of Hydra in less than half of their time, for the processes that run tests.

A composition copies hundreds of nodes, reads the same files and parses the same interpolations each time. Here
OmegaConf copies a node without the general way of ``copy.deepcopy``, and parses a text of YAML or an interpolation
once. What is composed is the same: `config/test_quick_configurations.py`. Interpreters that tests start for themselves
have nothing of this.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import omegaconf.base
from hydra._internal import defaults_list
from omegaconf import DictConfig, ListConfig, OmegaConf, nodes
from omegaconf.base import ContainerMetadata, Metadata

VALUES = (nodes.AnyNode, nodes.StringNode, nodes.IntegerNode, nodes.FloatNode, nodes.BooleanNode)


def copied_metadata(metadata: Metadata, memo: dict[int, Any]) -> Metadata:
    """Types are kept, as ``copy.deepcopy`` keeps them; keys cannot be changed."""
    copied: Metadata = object.__new__(type(metadata))
    state = dict(metadata.__dict__)
    state["flags"] = None if metadata.flags is None else dict(metadata.flags)
    cache = metadata.resolver_cache
    state["resolver_cache"] = copy.deepcopy(cache, memo) if cache else defaultdict(dict)
    copied.__dict__.update(state)
    return copied


def copied_value(node: Any, memo: dict[int, Any]) -> Any:
    """A node of one value, which is kept as it is."""
    copied = object.__new__(type(node))
    copied.__dict__.update(node.__dict__, _metadata=copied_metadata(node._metadata, memo), _flags_cache=None)
    return copied


def copied_container(node: Any, memo: dict[int, Any]) -> Any:
    """A mapping or a list with copies of all that it holds; its parent is kept."""
    copied = object.__new__(type(node))
    state = node.__dict__
    flags = state["_flags_cache"]
    copied.__dict__.update(
        state, _metadata=copied_metadata(state["_metadata"], memo), _flags_cache=None if flags is None else dict(flags)
    )
    content = state["_content"]
    if isinstance(content, dict):
        copied.__dict__["_content"] = {key: _child(value, copied, memo) for key, value in content.items()}
    elif isinstance(content, list):
        copied.__dict__["_content"] = [_child(value, copied, memo) for value in content]
    return copied


def _child(node: Any, parent: Any, memo: dict[int, Any]) -> Any:
    child = copy.deepcopy(node, memo)
    child.__dict__["_parent"] = parent
    return child


@lru_cache(maxsize=4096)
def _loaded(text: str) -> bytes:
    return pickle.dumps(PLAIN[OmegaConf, "load"].__func__(io.StringIO(text)))


def load(file_: str | Path | IO[Any]) -> Any:
    """What is in a file; a text is parsed once."""
    if not isinstance(file_, io.TextIOBase):
        return PLAIN[OmegaConf, "load"].__func__(file_)
    start = file_.tell()
    text = file_.read()
    try:
        return pickle.loads(_loaded(text))
    except Exception:
        file_.seek(start)
        return PLAIN[OmegaConf, "load"].__func__(file_)  # its error names the file


def interpolation_map(overrides: Any, defaults: list[Any], self_added: bool) -> DictConfig | None:
    """What names of groups stand for, which is asked only where a name has an interpolation in it."""
    if not any(default.is_interpolation() for default in defaults):
        return None
    found: DictConfig = PLAIN[defaults_list, "_create_interpolation_map"](overrides, defaults, self_added)
    return found


QUICK: dict[tuple[Any, str], Any] = {
    **{(kind, "__deepcopy__"): copied_metadata for kind in (Metadata, ContainerMetadata)},
    **{(kind, "__deepcopy__"): copied_value for kind in VALUES},
    **{(kind, "__deepcopy__"): copied_container for kind in (DictConfig, ListConfig)},
    (OmegaConf, "load"): staticmethod(load),
    (defaults_list, "_create_interpolation_map"): interpolation_map,
    (omegaconf.base, "parse"): lru_cache(maxsize=4096)(omegaconf.base.parse),
}
PLAIN: dict[tuple[Any, str], Any] = {(owner, name): vars(owner).get(name) for owner, name in QUICK}
"""What the libraries have themselves; None: nothing."""


def install() -> None:
    """Change the libraries in this process."""
    for (owner, name), changed in QUICK.items():
        setattr(owner, name, changed)


def uninstall() -> None:
    """Leave the libraries as they were."""
    for (owner, name), plain in PLAIN.items():
        if plain is None:
            delattr(owner, name)
        else:
            setattr(owner, name, plain)
