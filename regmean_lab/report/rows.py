"""Which results belong to one row of a table, and what the row is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from regmean_lab.report.entries import chosen_settings, flat_settings
from regmean_lab.results import Result

METHOD_ORDER = ("individual", "ensemble", "multitask", "simple", "fisher", "regmean")
"""Order of rows; other methods follow in the order in which they come."""

DISTINGUISHING = ("suite", "model", "method", "training", "statistics", "head_init", "order", "first", "evaluate_on")
"""Parts of the configuration that make results different rows; members and seeds are what rows average over."""


def rows_of(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Results by row: those that differ in nothing but members and seed, comparators first.

    A row is called by its method and, where several rows have the same method, by what tells them apart
    (``regmean off_diagonal=0.1``).
    """
    rows = []
    for method in ordered_methods(result.label for result in results):
        own = [result for result in results if result.label == method]
        flat = [_settings(result) for result in own]
        varying = [key for key in _varying(flat) if not _follows_seed(key, own, flat)]
        groups: dict[str, list[Result]] = {}
        for result, settings in zip(own, flat, strict=True):
            groups.setdefault(_label(method, settings, _telling(varying)), []).append(result)
        rows += list(groups.items())
    return rows


def labels_of(jobs: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """What each of several jobs is called: its method, and what tells it from the others with this method.

    Args:
        jobs: of each the method's name, and its settings by dotted key.
    """
    varying = {name: _varying([settings for other, settings in jobs if other == name]) for name, _ in jobs}
    return [_label(name, settings, varying[name]) for name, settings in jobs]


def _varying(flat: Sequence[Mapping[str, str]]) -> list[str]:
    """The settings that are not the same everywhere."""
    keys = dict.fromkeys(key for settings in flat for key in settings)
    return [key for key in keys if len({settings.get(key) for settings in flat}) > 1]


def _label(method: str, settings: Mapping[str, str], keys: Sequence[str]) -> str:
    return " ".join([method, *(f"{short_name(key)}={settings.get(key)}" for key in keys)])


def ordered_methods(methods: Iterable[str]) -> list[str]:
    """Each method once: those of :data:`METHOD_ORDER` first, then the others as they come."""
    found = list(dict.fromkeys(methods))
    return sorted(found, key=lambda name: METHOD_ORDER.index(name) if name in METHOD_ORDER else len(METHOD_ORDER))


def _settings(result: Result) -> dict[str, str]:
    recorded = {part: result.configuration.get(part) for part in DISTINGUISHING}
    recorded["evaluate_on"] = recorded["evaluate_on"] or "test"  # as all results of version 0.1 are
    settings = flat_settings(recorded, str) | chosen_settings(result)
    settings.setdefault("statistics.published", "True")  # likewise
    return {key: value for key, value in settings.items() if not key.endswith((".checkpoint", ".revision"))}


def _follows_seed(key: str, results: Sequence[Result], flat: Sequence[dict[str, str]]) -> bool:
    """Whether a setting is the job's seed under another name (``suite.partition_seed``), and so averaged over."""
    return key.endswith("_seed") and all(
        settings.get(key) == str(result.seed) for result, settings in zip(results, flat, strict=True)
    )


def _telling(varying: Sequence[str]) -> list[str]:
    """Keys that tell rows apart: another suite or model brings other training settings, which need not be named."""
    if named := [key for key in varying if key in ("suite.name", "model.name")]:
        return [
            *named,
            *(key for key in varying if key.startswith(("method.", "head_init", "order", "first", "evaluate_on"))),
        ]
    return list(varying)


def short_name(key: str) -> str:
    """What a table calls a setting: its key without the group, where that is clear."""
    if key in ("suite.name", "model.name"):
        return key.partition(".")[0]
    return key.removeprefix("method.").removeprefix("training.").removeprefix("statistics.")
