"""Configurations of Hydra in less than half of their time, for the processes that run tests.

A composition copies hundreds of nodes, reads the same files and parses the same interpolations each time. Here
OmegaConf copies a node without the general way of ``copy.deepcopy``, a file is parsed once until it changes, and an
interpolation once. What is composed is the same: `config/test_quick_configurations.py`. Interpreters that tests start
for themselves have nothing of this.
"""

from __future__ import annotations

import copy
import os
import pickle
from collections import defaultdict
from functools import cache, lru_cache
from typing import Any

import omegaconf.base
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig, nodes
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
def _loaded(provider: str, folder: str, name: str, state: tuple[int, ...]) -> bytes:
    return pickle.dumps(PLAIN[FileConfigSource, "load_config"](FileConfigSource(provider, folder), name))


def load(source: FileConfigSource, config_path: str) -> ConfigResult:
    """A configuration file, which is parsed once until it is another one."""
    path = os.path.realpath(os.path.join(source.path, source._normalize_file_name(config_path)))
    try:
        about = os.stat(path)
    except OSError:
        plain: ConfigResult = PLAIN[FileConfigSource, "load_config"](source, config_path)
        return plain
    state = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    result: ConfigResult = pickle.loads(_loaded(source.provider, source.path, config_path, state))
    return result


@cache
def _resource(provider: str, package: str, name: str) -> bytes:
    source = ImportlibResourcesConfigSource(provider, f"pkg://{package}")
    return pickle.dumps(PLAIN[ImportlibResourcesConfigSource, "load_config"](source, name))


def load_resource(source: ImportlibResourcesConfigSource, config_path: str) -> ConfigResult:
    """A configuration file of Hydra's own package."""
    result: ConfigResult = pickle.loads(_resource(source.provider, source.path, config_path))
    return result


QUICK: dict[tuple[Any, str], Any] = {
    **{(kind, "__deepcopy__"): copied_metadata for kind in (Metadata, ContainerMetadata)},
    **{(kind, "__deepcopy__"): copied_value for kind in VALUES},
    **{(kind, "__deepcopy__"): copied_container for kind in (DictConfig, ListConfig)},
    (FileConfigSource, "load_config"): load,
    (ImportlibResourcesConfigSource, "load_config"): load_resource,
    (omegaconf.base, "parse"): lru_cache(maxsize=4096)(omegaconf.base.parse),
}
PLAIN = {(owner, name): vars(owner).get(name) for owner, name in QUICK}
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
