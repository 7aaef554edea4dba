"""The rooms of the package: imports go downwards only, and the numerical core needs nothing but torch and SciPy."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import regmean_lab

PACKAGE = Path(regmean_lab.__file__).parent

ROOMS = (
    "__main__",
    "command",
    "sweeps",
    "report",
    "dashboard",
    "experiment",
    "checkpoints",
    "evaluation",
    "callbacks",
    "training",
    "modules",
    "prepare",
    "tracking",
    "models",
    "zoo",
    "metrics",
    "config",
    "suites",
    "merging",
    "statistics",
    "results",
    "utils",
    "__init__",
)
"""Files and folders of the package, top first: each imports only what is below it."""

NUMERICAL = {"torch", "numpy", "scipy", "safetensors", "threadpoolctl", "ot", "typing_extensions"}
"""What the numerical core imports beside the standard library: ``ot`` is optimal transport, ``threadpoolctl`` counts
the threads of BLAS."""

MOST_ROOT_FILES = 5


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(module: str) -> set[str]:
    """The modules that a module imports, wherever it does; imports for type checking are left out."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = [ast.Pass()]
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in MODULES else base)
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_room_has_a_place() -> None:
    assert {room(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downwards(module: str) -> None:
    place = ROOMS.index(room(module))
    upward = sorted(other for other in imported(module) if other in MODULES and ROOMS.index(room(other)) < place)
    assert not upward, f"{module} imports from above: {', '.join(upward)}"


def test_no_circle_of_files() -> None:
    arrows = {module: sorted(other for other in imported(module) if other in MODULES) for module in MODULES}
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            raise AssertionError("a circle: " + " -> ".join([*path[path.index(module) :], module]))
        if module not in finished:
            for other in arrows[module]:
                if other != module:
                    visit(other, [*path, module])
            finished.add(module)

    for module in MODULES:
        visit(module, [])


@pytest.mark.parametrize("module", sorted(m for m in MODULES if room(m) in ("merging", "statistics")))
def test_the_numerical_core_needs_no_framework(module: str) -> None:
    import sys

    others = {name.split(".")[0] for name in imported(module)} - {"regmean_lab"} - set(sys.stdlib_module_names)
    assert others <= NUMERICAL, f"{module} imports {', '.join(sorted(others - NUMERICAL))}"
    rooms = {room(name) for name in imported(module) if name in MODULES}
    assert rooms <= {"merging", "statistics", "utils"}


def test_sentence_transformers_is_never_needed() -> None:
    """Its folders are read without it."""
    assert not [
        module for module in MODULES if any(name.startswith("sentence_transformers") for name in imported(module))
    ]


def test_few_files_lie_on_the_root() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_ROOT_FILES
