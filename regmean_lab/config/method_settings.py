"""The settings of merge methods and the statistics they need, without importing the methods: torch takes seconds.

The command's help, completion and checks of keys and types need a method's fields and their defaults, nothing else. So
the dataclasses are made from the source of ``regmean_lab/merging``, with the fields alone. Once the methods have been
imported, and where other packages add methods, the classes themselves are used. Reports read from the source which
kinds of statistics a method asks for.
"""

from __future__ import annotations

import ast
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from regmean_lab.utils import plugins

METHODS = "regmean_lab.merging"
METHODS_FOLDER = Path(__file__).resolve().parent.parent / "merging"
WITHOUT_SETTINGS = ("ABC", "object")
"""Base classes that are known to have no fields."""


class NotDeclaredError(Exception):
    """Settings that the source does not state plainly: only importing the method tells them."""


def method_settings() -> dict[str, type[Any]]:
    """A dataclass with the fields of each registered method's settings, by the method's name."""
    if METHODS not in sys.modules and not plugins.plugins(plugins.METHODS):
        try:
            return declared_settings(METHODS_FOLDER)
        except NotDeclaredError:
            pass
    from regmean_lab.merging import method_types

    return dict(method_types())


@cache
def declared_settings(folder: Path) -> dict[str, type[Any]]:
    """The settings of the methods in a folder's Python files, by name.

    Raises:
        NotDeclaredError: for a base class that is not in the folder, or a default that is no literal.
    """
    classes = _classes(folder)
    made: dict[str, type[Any]] = {}
    return {name: _made(node, classes, made) for node in classes.values() if (name := _registered_as(node)) is not None}


def declared_statistics(folder: Path = METHODS_FOLDER) -> dict[str, tuple[str, ...]]:
    """The kinds of statistics that methods in a folder's Python files may ask for, by the method's name.

    Left out are methods that read members' text, and those whose source does not state the kinds plainly.
    """
    classes = _classes(folder)
    found = {}
    for node in classes.values():
        if (name := _registered_as(node)) is not None:
            with suppress(NotDeclaredError):
                if not _returned(node, "needs_text", classes)[-1]:
                    kinds = [kind for kinds in _returned(node, "statistics", classes) for kind in kinds]
                    found[name] = tuple(dict.fromkeys(kinds))
    return found


def _classes(folder: Path) -> dict[str, ast.ClassDef]:
    found = [node for path in sorted(folder.glob("*.py")) for node in ast.parse(path.read_bytes()).body]
    return {node.name: node for node in found if isinstance(node, ast.ClassDef)}


def _returned(node: ast.ClassDef, name: str, classes: dict[str, ast.ClassDef]) -> list[Any]:
    """What a property of a class, or of the first of its bases that has it, may return."""
    for entry in node.body:
        if isinstance(entry, ast.FunctionDef) and entry.name == name:
            returned = [inner.value for inner in ast.walk(entry) if isinstance(inner, ast.Return)]
            return [value for expression in returned for value in _alternatives(expression)]
    for base in map(ast.unparse, node.bases):
        if base in classes:
            with suppress(NotDeclaredError):
                return _returned(classes[base], name, classes)
    raise NotDeclaredError(f"{node.name}: no property {name}")


def _alternatives(expression: ast.expr | None) -> list[Any]:
    if isinstance(expression, ast.IfExp):
        return [*_alternatives(expression.body), *_alternatives(expression.orelse)]
    return [None if expression is None else _literal(expression)]


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
    return _literal(value)


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise NotDeclaredError(f"{ast.unparse(value)} is no literal") from None
