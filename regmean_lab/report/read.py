"""Finds and reads results; unreadable files are reported and skipped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regmean_lab.report.layers import Layers, layers_of
from regmean_lab.results import RESULT_FILE, Result, ResultError, read_result
from regmean_lab.utils.checks import is_number


class NoResultsError(Exception):
    """A folder that is not there, or nothing in it that a report could be made of."""


@dataclass(frozen=True)
class Run:
    """One result and where it was read.

    Attributes:
        result: what the job measured.
        path: its ``result.json``.
        modified: when the file was written, in seconds since 1970.
        layers: of its diagnostics, what figures show; None where it has none.
    """

    result: Result
    path: Path
    modified: float
    layers: Layers | None = None


@dataclass(frozen=True)
class Found:
    """What a search for results brought.

    Attributes:
        runs: every readable result, in the order of the paths.
        problems: one message for each file that is left out.
    """

    runs: list[Run]
    problems: list[str]


def find_runs(folders: Sequence[Path]) -> Found:
    """Read every ``result.json`` below some folders; hidden folders are not looked into.

    Raises:
        NoResultsError: when a folder is not there, or no file could be read.
    """
    if absent := [str(folder) for folder in folders if not folder.is_dir()]:
        raise NoResultsError(f"results: there is no folder {', '.join(absent)}; run jobs first, or name another folder")
    paths = list(dict.fromkeys(path.resolve() for folder in folders for path in _result_files(folder)))
    runs: list[Run] = []
    problems: list[str] = []
    for path in paths:
        try:
            runs.append(_read(path))
        except ResultError as error:
            problems.append(str(error))
    if not runs:
        where = ", ".join(map(str, folders))
        message = f"results: no {RESULT_FILE} below {where}; a job writes one when it has finished"
        if problems:
            message = "\n".join([f"results: none of the {len(problems)} results below {where} can be read", *problems])
        raise NoResultsError(message)
    return Found(runs, problems)


def _result_files(folder: Path) -> Iterable[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RESULT_FILE in files:
            yield Path(parent) / RESULT_FILE


def _read(path: Path) -> Run:
    try:
        result = read_result(path)
        modified = path.stat().st_mtime
    except (OSError, RecursionError) as error:
        raise ResultError(f"{path}: not a readable result ({error})") from None
    if wrong := list(_form_problems(result)):
        raise ResultError(f"{path}: not the form of a result ({'; '.join(wrong)})")
    # One entry a layer, which is most of the file: what figures show of it is kept, in a smaller form.
    layers, result.diagnostics = layers_of(result.diagnostics), []
    return Run(result, path, modified, layers)


COMPARED = ("gap_closed", "gap_closed_tempered", "gap_closed_out_of_domain", "agreement", "temperature")
"""What the report shows of a merge's distance from its members."""


def _form_problems(result: Result) -> Iterable[str]:
    """Fields with invalid types; the file may not be ours."""
    for name in ("fingerprint", "experiment", "suite", "model", "method", "head_init"):
        if not isinstance(getattr(result, name), str):
            yield f"{name}: expected text"
    if not (isinstance(result.members, list) and result.members and _all_are(result.members, str)):
        yield "members: expected a list of names"
    if not isinstance(result.seed, int):
        yield "seed: expected an integer"
    if not (isinstance(result.scores, Mapping) and {"in_domain", "out_of_domain"} <= set(result.scores)):
        yield "scores: expected in_domain and out_of_domain"
    else:
        for domain, scores in result.scores.items():
            if not (isinstance(scores, Mapping) and all(_is_score(score) for score in scores.values())):
                yield f"scores.{domain}: expected a number for each corpus"
    for name in ("mean_in_domain", "mean_out_of_domain"):
        if not _is_score(getattr(result, name)):
            yield f"{name}: expected a number or null"
    if not isinstance(result.diagnostics, list):
        yield "diagnostics: expected a list"
    for name in ("configuration", "environment", "seconds", "zoo"):
        if not isinstance(getattr(result, name), Mapping):
            yield f"{name}: expected an object"
    selection = result.selection
    if selection is not None and not (
        isinstance(selection, Mapping)
        and all(isinstance(selection.get(name), list) for name in ("keys", "among"))
        and all(name in selection for name in ("on", "chosen"))
    ):
        yield "selection: expected how settings were chosen, or null"
    compared = result.divergence
    if compared is not None and not (
        isinstance(compared, Mapping) and all(_is_score(compared.get(name)) for name in COMPARED)
    ):
        yield f"divergence: expected {', '.join(COMPARED)}, numbers or null"
    sizes = result.statistics_bytes
    if sizes is not None and not (isinstance(sizes, Mapping) and all(isinstance(size, int) for size in sizes.values())):
        yield "statistics_bytes: expected a number of bytes by kind, or null"
    if not isinstance(result.method_option, str | None):
        yield "method_option: expected a name, or null"
    unknown = result.unknown_labels
    if unknown is not None and not (
        isinstance(unknown, Mapping)
        and all(isinstance(labels, list) and _all_are(labels, str) for labels in unknown.values())
    ):
        yield "unknown_labels: expected lists of labels by corpus, or null"


def _all_are(values: Iterable[Any], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)


def _is_score(value: Any) -> bool:
    return value is None or is_number(value)
