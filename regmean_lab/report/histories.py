"""How members' training went, from the zoo entries that results name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.report.read import Run
from regmean_lab.utils.checks import is_number
from regmean_lab.zoo import Zoo, ZooEntry, ZooError


@dataclass(frozen=True)
class TrainingHistory:
    """The training of one member.

    Attributes:
        address: of its zoo entry.
        member: its name.
        scores: key scores on dev (times 100) by optimizer step.
        losses: mean losses on training data up to a step, by step.
    """

    address: str
    member: str
    scores: dict[int, float]
    losses: dict[int, float]


def histories_of(runs: Iterable[Run]) -> list[TrainingHistory]:
    """The training of each member of some results, once, where its zoo entry is still there and has a history."""
    entries: dict[Path, dict[str, ZooEntry]] = {}
    found: dict[str, TrainingHistory | None] = {}
    for run in runs:
        folder = _zoo(run)
        if folder is None:
            continue
        if folder not in entries:
            entries[folder] = _entries(folder)
        for member, address in run.result.zoo.items():
            if address not in found and address in entries[folder]:
                found[address] = _history(entries[folder][address], member)
    return [history for history in found.values() if history is not None]


def _zoo(run: Run) -> Path | None:
    """The zoo that a result's members are in, as the job was told."""
    paths = run.result.configuration.get("paths")
    folder = paths.get("zoo_dir") if isinstance(paths, Mapping) else None
    return Path(folder) if isinstance(folder, str) else None


def _entries(folder: Path) -> dict[str, ZooEntry]:
    try:
        return {entry.address: entry for entry in Zoo(folder).entries()}
    except OSError:
        return {}


def _history(entry: ZooEntry, member: str) -> TrainingHistory | None:
    """None of a member of an earlier version, of an adopted one, and where the record is not as training writes it."""
    try:
        records = entry.training.get("history")
    except ZooError:
        return None
    if not isinstance(records, list):
        return None
    parts = [part for part in records if isinstance(part, Mapping) and isinstance(part.get("step"), int)]
    scores, losses = (
        {part["step"]: part[key] for part in parts if is_number(part.get(key))} for key in ("score", "loss")
    )
    return TrainingHistory(entry.address, member, scores, losses) if scores or losses else None
