"""One entry for each job that a report is about: what was set, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from regmean_lab.config.baselines import comparator_types
from regmean_lab.config.method_settings import declared_statistics
from regmean_lab.report.member_names import member_names
from regmean_lab.report.read import Run
from regmean_lab.results import Result

COLUMN_PARTS = ("suite", "model", "training", "trainer.precision", "head_init", "order", "evaluate_on")
"""Settings that make scores incomparable: results that differ in them stand in different columns."""

ROW_PARTS = ("method", "statistics")
"""Settings that are compared: results that differ in them stand in different rows."""

OF_ALL_KINDS = ("statistics.seed", "statistics.published")
"""Settings of statistics that concern all of their kinds."""

NOT_DISTINGUISHING = (".checkpoint", ".revision", "method.name")


@dataclass(frozen=True)
class Entry:
    """One job, measured or only expected.

    Attributes:
        experiment: name of the experiment.
        method: what the method is called.
        column: settings that say with which other entries its scores can be compared, by dotted key, as text.
        row: settings of the method and its statistics, by dotted key, as text.
        members: what is merged.
        count: number of members.
        seed: the job's seed.
        run: the result, or None while there is none.
        command: the command that runs the job.
    """

    experiment: str
    method: str
    column: Mapping[str, str]
    row: Mapping[str, str]
    members: tuple[str, ...]
    count: int
    seed: int
    run: Run | None
    command: str


def entries_of(runs: Sequence[Run]) -> list[Entry]:
    """An entry for each result, with the settings that its configuration records."""
    flat = [flat_settings(run.result.configuration) for run in runs]
    following = _following_seed(runs, flat)
    names = member_names([run.result for run in runs])
    own = [
        {key: value for key, value in settings.items() if (run.result.suite, key) not in following}
        for run, settings in zip(runs, flat, strict=True)
    ]
    return [_entry(run, members, settings) for run, members, settings in zip(runs, names, own, strict=True)]


def command_of(run: Run) -> str:
    """The command that runs a result's job again, as the result records it."""
    return str(run.result.environment.get("command", ""))


def setting_text(value: Any) -> str:
    """A value as text, the same however it was written: ``1`` for 1.0, ``none`` for null; mappings as in overrides."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(setting_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{setting_text(own)}' for key, own in value.items())}}}"
    return str(value)


def chosen_settings(result: Result) -> dict[str, str]:
    """Settings that were chosen by scores, which may be others for every set of members and seed of one row."""
    selection = result.selection
    return {} if not selection else dict.fromkeys(map(str, selection["keys"]), f"chosen on {selection['on']}")


def flat_settings(configuration: Mapping[str, Any], text: Callable[[Any], str] = setting_text) -> dict[str, str]:
    """A nested configuration by dotted key, with values as text."""
    return dict(_flat(configuration, "", text))


@cache
def statistics_settings() -> dict[str, tuple[str, ...]]:
    """Which settings of statistics may change a method's result; for methods that are not listed, all may.

    From the methods' source: a report starts without PyTorch, which the methods import.
    """
    kinds = {**dict.fromkeys(comparator_types(), ()), **declared_statistics()}
    return {
        method: (*(f"statistics.{kind}" for kind in own), *(OF_ALL_KINDS if own else ()))
        for method, own in kinds.items()
    }


def row_settings(method: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Those settings that make a method's results another row."""
    statistics = statistics_settings().get(method, ("statistics",))
    return {key: value for key, value in settings.items() if _below(key, ("method", *statistics)) and _tells(key)}


def column_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Those settings that make results another column."""
    return {key: value for key, value in settings.items() if _below(key, COLUMN_PARTS) and _tells(key)}


def _entry(run: Run, members: tuple[str, ...], settings: dict[str, str]) -> Entry:
    result = run.result
    settings |= {"suite.name": result.suite, "model.name": result.model, "head_init": result.head_init}
    settings.setdefault("evaluate_on", "test")  # as all results of version 0.1 are
    settings.setdefault("statistics.published", "true")  # likewise
    settings |= chosen_settings(result)
    return Entry(
        experiment=result.experiment,
        method=result.label,
        column=column_settings(settings),
        row=row_settings(result.method, settings),
        members=members,
        count=len(result.members),
        seed=result.seed,
        run=run,
        command=command_of(run),
    )


def _following_seed(runs: Sequence[Run], flat: Sequence[Mapping[str, str]]) -> set[tuple[str, str]]:
    """By suite, settings that are the job's seed under another name (``suite.partition_seed``): averaged over."""
    seen: dict[tuple[str, str], bool] = {}
    for run, settings in zip(runs, flat, strict=True):
        for key, value in settings.items():
            if key.endswith("_seed"):
                place = (run.result.suite, key)
                seen[place] = seen.get(place, True) and value == str(run.result.seed)
    return {place for place, follows in seen.items() if follows}


def _flat(value: Any, prefix: str, text: Callable[[Any], str]) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{prefix}.{key}" if prefix else str(key), text)
    else:
        yield prefix, text(value)


def _below(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def _tells(key: str) -> bool:
    return not key.endswith(NOT_DISTINGUISHING)
