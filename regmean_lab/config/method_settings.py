"""The settings of merge methods, without importing the methods: importing torch takes seconds.

The command's help, completion and checks of keys and types need a method's fields and their defaults, nothing else. So
the dataclasses are made from the source of ``regmean_lab/merging``, with the fields alone. Once the methods have been
imported, the classes themselves are used.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METHODS = "regmean_lab.merging"
METHODS_FOLDER = Path(__file__).resolve().parent.parent / "merging"
WITHOUT_SETTINGS = ("ABC", "object")
"""Base classes that are known to have no fields."""


class NotDeclaredError(Exception):
    """Settings that the source does not state plainly: only importing the method tells them."""


def method_settings() -> dict[str, type[Any]]:
    """A dataclass with the fields of each registered method's settings, by the method's name."""
    if METHODS not in sys.modules:
        try:
            return declared_settings(METHODS_FOLDER)
        except NotDeclaredError:
            pass
    from regmean_lab.merging import method_types

    return dict(method_types())


def declared_settings(folder: Path) -> dict[str, type[Any]]:
    """The settings of the methods in a folder's Python files, by name.

    Raises:
        NotDeclaredError: for a base class that is not in the folder, or a default that is no literal.
    """
    found = [node for path in sorted(folder.glob("*.py")) for node in ast.parse(path.read_bytes()).body]
    classes = {node.name: node for node in found if isinstance(node, ast.ClassDef)}
    made: dict[str, type[Any]] = {}
    return {name: _made(node, classes, made) for node in classes.values() if (name := _registered_as(node)) is not None}


def _registered_as(node: ast.ClassDef) -> str | None:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "register_method":
            (name,) = decorator.args
            return str(ast.literal_eval(name))
    return None


def _made(node: ast.ClassDef, classes: dict[str, ast.ClassDef], made: dict[str, type[Any]]) -> type[Any]:
    """The class with its fields alone: Python's own inheritance and dataclasses give them their order."""
    if node.name not in made:
        bases = []
        for base in map(ast.unparse, node.bases):
            if base in classes:
                bases.append(_made(classes[base], classes, made))
            elif base not in WITHOUT_SETTINGS:
                raise NotDeclaredError(f"{node.name}: its base {base} is not in {METHODS}")
        body: dict[str, Any] = {"__annotations__": {}, "__module__": __name__, "__qualname__": node.name}
        for entry in node.body:
            if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
                annotation = ast.unparse(entry.annotation)
                if not annotation.startswith("ClassVar") and not entry.target.id.startswith("_"):
                    body["__annotations__"][entry.target.id] = annotation
                    if entry.value is not None:
                        body[entry.target.id] = _default(entry.value)
        plain = type(node.name, tuple(bases), body)
        is_dataclass = any(ast.unparse(decorator).startswith("dataclass") for decorator in node.decorator_list)
        made[node.name] = dataclass(plain) if is_dataclass else plain
    return made[node.name]


def _default(value: ast.expr) -> Any:
    text = ast.unparse(value)
    if text in ("field(default_factory=list)", "field(default_factory=dict)"):
        return field(default_factory=list if "list" in text else dict)
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise NotDeclaredError(f"{text} is no literal") from None
