"""YAML whose nodes know their line numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from regmean_lab.models.headers import CheckpointError

MOST_BYTES = 1 << 20
MOST_NODES = 100_000
"""Aliases of aliases make a short file a huge tree."""

PLAIN = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


@dataclass(frozen=True)
class Located:
    """A part of a YAML file.

    Attributes:
        value: a scalar, a list of parts, or a dict of parts by key.
        line: where it begins, from 1.
        keys: for a dict, the line of each key.
    """

    value: Any
    line: int
    keys: dict[str, int]

    @property
    def kind(self) -> str:
        """What messages call it."""
        if isinstance(self.value, dict):
            return "a mapping"
        return "a list" if isinstance(self.value, list) else repr(self.value)

    def plain(self) -> Any:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {key: part.plain() for key, part in self.value.items()}
        return [part.plain() for part in self.value] if isinstance(self.value, list) else self.value


def read_yaml(path: Path) -> Located:
    """Read a YAML file of plain values.

    Raises:
        CheckpointError: when it cannot be read, is no YAML, has a key twice, or names other things than plain values.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError([f"{path}: more than {MOST_BYTES} bytes; expected a recipe in YAML"])
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CheckpointError([f"{path}: cannot be read ({reason})"]) from None
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise CheckpointError([f"{path}: empty; expected a recipe in YAML"])
        found: list[str] = []
        located = _located(loader, node, path, found, iter(range(MOST_NODES)))
    except yaml.YAMLError as error:
        raise CheckpointError([_yaml_problem(path, error)]) from None
    except (StopIteration, RecursionError):
        raise CheckpointError([f"{path}: too large or without end, by its aliases"]) from None
    finally:
        loader.dispose()
    if found:
        raise CheckpointError(found)
    return located


def _located(loader: yaml.SafeLoader, node: yaml.Node, path: Path, found: list[str], budget: Iterator[int]) -> Located:
    next(budget)
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN:
        found.append(f"{path}:{line}: {node.tag}: not a plain list or mapping")
    if isinstance(node, yaml.SequenceNode):
        return Located([_located(loader, part, path, found, budget) for part in node.value], line, {})
    if not isinstance(node, yaml.MappingNode):
        return Located(loader.construct_object(node), line, {})
    loader.flatten_mapping(node)  # merge keys, <<
    content: dict[str, Located] = {}
    keys: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, key_line = str(loader.construct_object(key_node)), key_node.start_mark.line + 1
        if key in content and keys[key] != key_line:
            found.append(f"{path}:{key_line}: {key}: given twice, first in line {keys[key]}")
        content[key], keys[key] = _located(loader, value_node, path, found, budget), key_line
    return Located(content, line, keys)


def _yaml_problem(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
    return f"{place}: not plain YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"
