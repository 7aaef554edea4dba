"""Details that a page shows for a cell on request: results, commands, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regmean_lab.report.entries import command_of, flat_settings, setting_text
from regmean_lab.report.read import Run
from regmean_lab.report.tables import Cell, Heading, Table
from regmean_lab.results import Result, unknown_text
from regmean_lab.utils.quantities import byte_size, counted

NOT_SETTINGS = ("seed", "members", "paths.", "logger.", "force", "save_merged", "measure_divergence")
"""Parts of a configuration that change no number, or that are shown elsewhere."""


class Details:
    """Collects what is behind the cells of a page, each result once.

    Args:
        runs: all results of the page.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._numbers = {run.path: number for number, run in enumerate(runs)}
        settings = [_settings(run) for run in runs]
        self._common = _common(settings)
        self._environments: dict[tuple[tuple[str, str], ...], int] = {}
        self._runs = [self._run(run, own) for run, own in zip(runs, settings, strict=True)]
        self._cells: list[dict[str, Any]] = []

    def add(self, table: Table, label: str, heading: Heading, cell: Cell) -> int | None:
        """Number of a cell's details; None where there is nothing behind the cell."""
        if cell.state == "not applicable":
            return None
        self._cells.append(
            {
                "title": f"{label}: {heading.full}",
                "summary": f"{table.title}. {_summary(cell)}",
                "runs": [[self._numbers[run.path], score] for run, score in cell.scores],
                "absent": [[list(absent.members), absent.seed, absent.command] for absent in cell.absent],
            }
        )
        return len(self._cells) - 1

    def content(self) -> dict[str, Any]:
        """Everything that was collected, ready for JSON."""
        return {
            "common": sorted(self._common.items()),
            "environments": list(self._environments),
            "runs": self._runs,
            "cells": self._cells,
        }

    def _run(self, run: Run, settings: Mapping[str, str]) -> dict[str, Any]:
        result = run.result
        environment = tuple(sorted(flat_settings(_environment(run)).items()))
        number = self._environments.setdefault(environment, len(self._environments))
        seconds = [(f"seconds to {name}", setting_text(value)) for name, value in _rounded(result.seconds)]
        return {
            "path": str(run.path),
            "members": result.members,
            "seed": result.seed,
            "command": command_of(run),
            "means": [result.mean_in_domain, result.mean_out_of_domain],
            "scores": [
                [corpus, domain.replace("_", " "), score]
                for domain, scores in result.scores.items()
                for corpus, score in scores.items()
            ],
            "settings": sorted((key, value) for key, value in settings.items() if self._common.get(key) != value),
            "measured": [
                *seconds,
                ("peak memory", _memory(result.peak_memory_bytes)),
                *_published(result),
                *_compared(result),
                *_unknown(result),
            ],
            "environment": number,
        }


def _published(result: Result) -> list[tuple[str, str]]:
    """How large the statistics are that a member publishes for a merge."""
    sizes = result.statistics_bytes or {}
    return [(f"{kind} statistics of a member", byte_size(size)) for kind, size in sizes.items()]


def _compared(result: Result) -> list[tuple[str, str]]:
    """How far a merge is from its members."""
    compared = result.divergence or {}
    shown = [
        ("gap closed", compared.get("gap_closed"), "%"),
        ("gap closed after one temperature", compared.get("gap_closed_tempered"), "%"),
        ("gap closed out of domain", compared.get("gap_closed_out_of_domain"), "%"),
        ("agreement with the members", compared.get("agreement"), "%"),
        ("temperature chosen on dev", compared.get("temperature"), ""),
    ]
    return [(name, f"{value:.4g} {unit}".strip()) for name, value, unit in shown if value is not None]


def _environment(run: Run) -> dict[str, Any]:
    recorded = run.result.environment
    versions = recorded.get("versions")
    shown = {name: recorded.get(name) for name in ("device", "platform", "commit", "started_as") if name in recorded}
    return {**shown, **(versions if isinstance(versions, Mapping) else {})}


def _settings(run: Run) -> dict[str, str]:
    flat = flat_settings(run.result.configuration)
    return {key: value for key, value in flat.items() if not key.startswith(NOT_SETTINGS)}


def _common(settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    common = dict(settings[0]) if settings else {}
    for own in settings[1:]:
        common = {key: value for key, value in common.items() if own.get(key) == value}
    return common


def _summary(cell: Cell) -> str:
    if cell.mean is None:
        return f"{counted(cell.expected, 'result')} missing."
    text = f"Mean {cell.mean:.2f}"
    if cell.deviation is not None:
        text += f" ± {cell.deviation:.2f} over {counted(cell.seeds, 'seed')}"
    text += f", {counted(cell.runs, 'result')}"
    return f"{text} of {cell.expected}." if cell.absent else f"{text}."


def _rounded(seconds: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(name, round(value, 2)) for name, value in seconds.items() if isinstance(value, int | float)]


def _unknown(result: Result) -> list[tuple[str, str]]:
    unknown = result.unknown_labels
    return [("not predicted, as no member was trained on them", unknown_text(unknown))] if unknown else []


def _memory(size: Any) -> str:
    return byte_size(size) if isinstance(size, int | float) else "not recorded"
