"""Writes the documentation's tables of methods, suites and recipes from their docstrings: ``make tables``.

A table stands between two comments, ``<!-- NAME: written by make tables -->`` and ``<!-- end -->``; what is between
them is replaced.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from methods_record import read_record
from methods_record import tables as record_tables

from regmean_lab.checkpoints.recipe.methods import KNOWN
from regmean_lab.config.baselines import comparator_types
from regmean_lab.config.harness import HARNESS, HarnessSettings
from regmean_lab.merging import MergeMethod, method_types
from regmean_lab.suites import suite_types

ROOT = Path(__file__).parents[1]
STATISTICS = {
    "gram": "Gram matrices",
    "fisher": "Fisher information",
    "gradient_gram": "Gram matrices of gradients",
    "tokens": "counts of tokens",
    "weighted_gram": "loss-weighted Gram matrices",
}
NOWHERE = Path("/nowhere")


def own(kinds: Mapping[str, type[Any]]) -> dict[str, type[Any]]:
    """Those that this package brings, by name."""
    return {name: kind for name, kind in sorted(kinds.items()) if kind.__module__.startswith("regmean_lab.")}


def summary(kind: type[Any]) -> str:
    """The first line of a class's docstring, without its full stop, markup and pointers to other places."""
    line = (inspect.getdoc(kind) or "").partition("\n")[0].strip()
    line = re.sub(r" \(see [^)]*\)", "", line)
    line = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", line).replace("``", "`")
    return line.removesuffix(".")


def settings(kind: type[Any]) -> str:
    """A method's own settings, with their defaults."""
    shared = {entry.name for entry in fields(MergeMethod)}
    shown = []
    for entry in fields(kind):
        if entry.init and entry.name not in shared:
            default = entry.default if entry.default is not MISSING else None
            shown.append(f"`{entry.name}`" if default is None else f"`{entry.name}={_value(default)}`")
    return ", ".join(shown)


def needs(method: MergeMethod) -> str:
    """What a method with its default settings needs beside the members."""
    found = [STATISTICS.get(kind, kind) for kind in method.statistics]
    found += ["pretrained model"] if method.needs_base else []
    # By default some draw it from counts of tokens.
    found += ["members' text"] if method.needs_text and "tokens" not in method.statistics else []
    return ", ".join(found)


def methods_in_short() -> str:
    """For README.md."""
    kinds = {**own(method_types()), **own(comparator_types())}
    return table(("`method=`", "what it does"), ((f"`{name}`", summary(kind)) for name, kind in kinds.items()))


def methods() -> str:
    """For docs/methods.md."""
    rows = [(f"`{name}`", summary(kind), settings(kind), needs(kind())) for name, kind in own(method_types()).items()]
    rows += [(f"`{name}`", summary(kind), settings(kind), "") for name, kind in own(comparator_types()).items()]
    return table(("`method=`", "what it does", "settings", "needs"), rows)


def suites() -> str:
    """For docs/experiments.md."""
    rows = []
    for name, kind in own(suite_types()).items():
        suite = kind(NOWHERE, kind.settings_type())
        members, others = _listed(suite.members), _listed(suite.out_of_domain(()))
        outside = "those that are not merged" if members == others else others or "none"
        scores = dict.fromkeys(suite.task(member).key_score for member in suite.members)
        rows.append((f"`{name}`", summary(kind), members, outside, _listed(scores)))
    rows.append((f"`{HARNESS}`", summary(HarnessSettings), "", "", ""))
    rows.sort(key=lambda row: row[0].strip("`"))
    return table(("`suite=`", "what it is", "members by default", "out of domain by default", "score"), rows)


def recipes() -> str:
    """For docs/recipes.md."""
    bases = {
        "none": "no",
        "needed": "yes",
        "optional": "where it is given",
        "member": "is merged with the others",
        "first": "is the first of the two",
    }
    rows = []
    for name, known in KNOWN.items():
        fixed = "".join(f" `{key}={_value(value)}`" for key, value in known.fixed.items())
        weight = ["`weight`"] if known.weighted else []
        pairs = {**known.per_model, **known.shared}
        own = [f"`{key}`" if key == ours else f"`{key}` (`{ours}`)" for key, ours in pairs.items()]
        own += [f"`{key}` ({_value(value)} only)" for key, value in known.must.items()]
        rows.append((f"`{name}`", f"`{known.method}`{fixed}", ", ".join([*weight, *own]), bases[known.base]))
    return table(("`merge_method`", "`method=` here", "parameters (names here)", "`base_model`"), rows)


def record() -> str:
    """For docs/results/methods.md: what was measured of ``make reproduce-methods``."""
    return record_tables(read_record())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [list(head), ["---"] * len(head)]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join("".join(f"| {cell} " if cell else "| " for cell in cells) + "|\n" for cells in lines)


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "README.md": ("methods", methods_in_short),
    "docs/methods.md": ("methods", methods),
    "docs/experiments.md": ("suites", suites),
    "docs/recipes.md": ("recipes", recipes),
    "docs/results/methods.md": ("record", record),
}
"""By file, the name of its table and what makes it."""


def written(path: str) -> str:
    """The text of a file with its table as it should be.

    Raises:
        ValueError: if the file has no place for it.
    """
    text = (ROOT / path).read_text(encoding="utf-8")
    name, make = TABLES[path]
    begin, end = f"<!-- {name}: written by make tables -->\n", "<!-- end -->\n"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path}: expected {begin.strip()} and after it {end.strip()}")
    return f"{before}{begin}{make()}{end}{after}"


def main() -> None:
    """Bring all tables up to date."""
    for path in TABLES:
        (ROOT / path).write_text(written(path), encoding="utf-8")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _value(default: Any) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


if __name__ == "__main__":
    main()
