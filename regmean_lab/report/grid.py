"""Which entries stand in one column and which in one row, and what both are called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from regmean_lab.report.entries import Entry
from regmean_lab.report.read import Run
from regmean_lab.report.rows import ordered_methods, short_name
from regmean_lab.utils.quantities import counted

LISTED = 3
"""How many results that newer ones replace are named one by one."""

Key = tuple[tuple[str, ...], int]
"""Members and seed: what a row's entries differ in, and what comparisons between rows are paired over."""


@dataclass(frozen=True)
class Row:
    """One way to merge (or a comparator), with its entries in one column.

    Attributes:
        label: the method and, where several rows have the same one, the settings that tell them apart.
        method: name of the method.
        settings: the settings of the method and its statistics.
        entries: one for each set of members and seed.
    """

    label: str
    method: str
    settings: Mapping[str, str]
    entries: dict[Key, Entry]


@dataclass(frozen=True)
class Column:
    """Everything whose scores can be compared: one suite, model, training and number of members.

    Attributes:
        label: what tells the column from the section's others; empty for the only one.
        title: suite, model, and what else tells it from others: stands alone.
        settings: the settings that its entries share.
        count: number of members.
        rows: its rows, comparators first.
    """

    label: str
    title: str
    settings: Mapping[str, str]
    count: int
    rows: list[Row]

    @property
    def runs(self) -> list[Run]:
        """All results of its rows."""
        return [entry.run for row in self.rows for entry in row.entries.values() if entry.run is not None]

    @property
    def keys(self) -> list[Key]:
        """All members and seeds of its rows."""
        return sorted(dict.fromkeys(key for row in self.rows for key in row.entries), key=natural_key)

    @property
    def member_sets(self) -> list[tuple[str, ...]]:
        """All sets of members of its rows, as they come."""
        return list(dict.fromkeys(members for row in self.rows for members, _ in row.entries))

    def row(self, label: str) -> Row | None:
        """The row with a label, if it has one."""
        return next((row for row in self.rows if row.label == label), None)


@dataclass(frozen=True)
class Section:
    """One experiment, one table with a definition, or what several experiments have of one suite and model.

    Attributes:
        name: its name.
        defined: whether it is known which jobs there should be.
        columns: its columns.
        notices: what a reader should know of its entries.
        across: whether it compares results of several experiments, each of which has a section of its own as well.
    """

    name: str
    defined: bool
    columns: list[Column]
    notices: list[str]
    across: bool = False

    @property
    def row_labels(self) -> list[str]:
        """Labels of all columns' rows, comparators first."""
        found: dict[str, str] = {row.label: row.method for column in self.columns for row in column.rows}
        position = {method: number for number, method in enumerate(ordered_methods(found.values()))}
        return sorted(found, key=lambda label: (position[found[label]], natural_key(label)))


def sections_of(entries: Sequence[Entry], table: str | None = None) -> list[Section]:
    """Entries by experiment, after what several experiments have of the same suite, model and members.

    With the name of a table, all are in one section of that name, which is a defined one.
    """
    if table is not None:
        return [_section(table, entries, defined=True)]
    names = sorted({entry.experiment for entry in entries}, key=natural_key)
    own = [_section(name, [e for e in entries if e.experiment == name], defined=False) for name in names]
    return [*_across_experiments(entries), *own]


def natural_key(value: object) -> list[tuple[int, float, str]]:
    """A sort key that orders the numbers in a text by value, and ``none`` after all numbers."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", str(value))
    return [(0, float(part), "") if number % 2 else (1, 0.0, part) for number, part in enumerate(parts)]


def _across_experiments(entries: Sequence[Entry]) -> list[Section]:
    """For each suite and model a section of what can be compared although other experiments made it.

    These are results of the same sets of members, in the same column. Sets that other experiments have in common stand
    in columns of their own: a mean over some sets cannot be compared with one over others.
    """
    experiments: dict[tuple[tuple[tuple[str, str], ...], tuple[str, ...]], set[str]] = {}
    for entry in entries:
        experiments.setdefault(_compared_place(entry), set()).add(entry.experiment)
    alike: dict[object, dict[tuple[str, ...], None]] = {}
    for (column, members), names in experiments.items():
        alike.setdefault((column, len(members), frozenset(names)), {})[members] = None
    grouped: dict[str, list[Entry]] = {}
    for entry in entries:
        column, members = _compared_place(entry)
        names = experiments[column, members]
        if len(names) > 1:
            sets = alike[column, len(members), frozenset(names)]
            what = " + ".join(members) if len(sets) == 1 else f"{len(sets)} sets of {'/'.join(sorted(names))}"
            suite_and_model = f"{entry.column['suite.name']}, {entry.column['model.name']}"
            own = replace(entry, column={**entry.column, "members": what})
            grouped.setdefault(suite_and_model, []).append(own)
    return [
        _section(f"{name}: across experiments", own, defined=False, across=True)
        for name, own in sorted(grouped.items(), key=lambda item: natural_key(item[0]))
    ]


def _compared_place(entry: Entry) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """What results must have in common to be compared across experiments: the settings of their column, and members."""
    return tuple(sorted(entry.column.items())), entry.members


def _section(name: str, entries: Sequence[Entry], defined: bool, across: bool = False) -> Section:
    grouped: dict[tuple[tuple[tuple[str, str], ...], int], list[Entry]] = {}
    for entry in entries:
        grouped.setdefault((tuple(sorted(entry.column.items())), entry.count), []).append(entry)
    ordered = sorted(grouped, key=lambda place: _column_order(dict(place[0]), place[1]))
    labels = _column_labels([(dict(settings), count) for settings, count in ordered])
    columns, notices = [], []
    for (settings, count), label in zip(ordered, labels, strict=True):
        own, found = _without_repetitions(grouped[settings, count])
        suite_and_model = f"{dict(settings)['suite.name']}, {dict(settings)['model.name']}"
        told = [part for part in label if part not in suite_and_model.split(", ")]
        title = ", ".join([suite_and_model, *told])
        if across:
            shared = dict(settings)["members"]
            title = title.replace(f"members={shared}", shared) if f"members={shared}" in told else f"{title}, {shared}"
            found = [f"{name}: {notice}" for notice in found]
        columns.append(Column(", ".join(label), title, dict(settings), count, _rows(own)))
        # What was chosen, and what is a copy, is told of the experiment.
        notices += found + _data_notices(title, own)
        notices += [] if across else [*_copy_notices(title, own), *_selection_notices(title, own)]
    return Section(name, defined, columns, notices, across)


def _column_order(settings: Mapping[str, str], count: int) -> tuple[object, ...]:
    different = settings.get("head_init") != "same"
    return (settings["suite.name"], settings["model.name"], different, count, natural_key(sorted(settings.items())))


def _column_labels(columns: Sequence[tuple[Mapping[str, str], int]]) -> list[list[str]]:
    """What tells each column from the others, in words.

    A suite's settings are named only where they vary within the suite, and those of the training where they vary
    within suite and model: another suite or model brings its own.
    """
    labels: list[list[str]] = [[] for _ in columns]
    for key in ("suite.name", "model.name"):
        if len({settings[key] for settings, _ in columns}) > 1:
            for label, (settings, _) in zip(labels, columns, strict=True):
                label.append(settings[key])
    for key in dict.fromkeys(key for settings, _ in columns for key in settings):
        if key in ("suite.name", "model.name"):
            continue
        for label, (settings, _) in zip(labels, columns, strict=True):
            alike = [other for other, _ in columns if _comparable(key, settings, other)]
            if len({other.get(key) for other in alike}) > 1:
                label.append(f"{_column_setting(key)}{settings.get(key, 'not recorded')}")
    if len({count for _, count in columns}) > 1:
        for label, (_, count) in zip(labels, columns, strict=True):
            label.append(counted(count, "member"))
    return labels


def _comparable(key: str, settings: Mapping[str, str], other: Mapping[str, str]) -> bool:
    same_suite = settings["suite.name"] == other["suite.name"]
    same_model = settings["model.name"] == other["model.name"]
    if key.startswith("suite."):
        return same_suite
    if key.startswith("model."):
        return same_model
    return same_suite and same_model


def _column_setting(key: str) -> str:
    if key == "head_init":
        return "head init "
    return f"{short_name(key).removeprefix('suite.').removeprefix('model.')}="


def _rows(entries: Sequence[Entry]) -> list[Row]:
    rows = []
    for method in ordered_methods(sorted({entry.method for entry in entries})):
        own = [entry for entry in entries if entry.method == method]
        keys = sorted({key for entry in own for key in entry.row})
        varying = [key for key in keys if len({entry.row.get(key) for entry in own}) > 1]
        groups: dict[str, list[Entry]] = {}
        for entry in own:
            told = [f"{short_name(key)}={entry.row.get(key, 'not recorded')}" for key in varying]
            groups.setdefault(" ".join([method, *told]), []).append(entry)
        for label in sorted(groups, key=natural_key):
            members = groups[label]
            rows.append(Row(label, method, members[0].row, {(e.members, e.seed): e for e in members}))
    return rows


def _without_repetitions(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Of several results for the same cell, members and seed the newest; the others are named where scores differ."""
    kept: dict[object, Entry] = {}
    notices = []
    for entry in sorted(entries, key=_age):
        place = (entry.method, tuple(sorted(entry.row.items())), entry.members, entry.seed)
        older = kept.get(place)
        kept[place] = entry
        if older is None or older.run is None or entry.run is None:
            continue
        if older.run.result.scores != entry.run.result.scores:
            notices.append(
                f"{older.run.path} is left out: {entry.run.path} is newer and has the same method, members and seed, "
                "but other scores"
            )
    if len(notices) > LISTED:
        more = len(notices) - LISTED
        notices = [*notices[:LISTED], f"{counted(more, 'more result')} left out for newer ones with other scores"]
    return list(kept.values()), notices


def _age(entry: Entry) -> tuple[float, str]:
    return (0.0, "") if entry.run is None else (entry.run.modified, str(entry.run.path))


def _selection_notices(title: str, entries: Iterable[Entry]) -> list[str]:
    """Which settings were chosen by scores on dev, and what was chosen how often."""
    chosen: dict[tuple[str, str], Counter[str]] = {}
    for entry in entries:
        selection = None if entry.run is None else entry.run.result.selection
        if selection:
            names = ", ".join(short_name(str(key)) for key in selection["keys"])
            among = str(len(selection["among"]))
            if "sampler" in selection:
                among = f"{selection['trials']} trials by {selection['sampler']}"
            place = (entry.method, f"{names} chosen on {selection['on']} among {among}")
            chosen.setdefault(place, Counter())[str(selection["chosen"])] += 1
    return [
        f"{title}: {method}: {what} by the mean score in domain: "
        + ", ".join(f"{settings} ({counted(count, 'result')})" for settings, count in counts.most_common())
        for (method, what), counts in chosen.items()
    ]


def _copy_notices(title: str, entries: Iterable[Entry]) -> list[str]:
    """Of which results several seeds are one measurement: of the same members, to the last digit."""
    seeds: dict[tuple[Any, ...], list[int]] = {}
    for entry in entries:
        result = None if entry.run is None else entry.run.result
        if result is not None and result.zoo:
            members = tuple(sorted(result.zoo.items()))
            row = (entry.method, tuple(sorted(entry.row.items())), entry.members)
            seeds.setdefault((*row, members, repr(result.scores)), []).append(entry.seed)
    copies = [(key, sorted(own)) for key, own in seeds.items() if len(own) > 1]
    if not copies:
        return []
    (method, _, members, *_), own = copies[0]
    seeds_told = ", ".join(map(str, own)) + (f" (and {len(copies) - 1} more)" if len(copies) > 1 else "")
    what = f"{method} of {' + '.join(members)} with the seeds {seeds_told}"
    return [
        f"{title}: {what} is one measurement, of the same members with the same scores: deviations, intervals and "
        "tests take its copies for independent ones"
    ]


def _data_notices(title: str, entries: Iterable[Entry]) -> list[str]:
    """Whether results that are compared were measured on the same data."""
    seen: dict[Key, set[str]] = {}
    for entry in entries:
        if entry.run is not None:
            seen.setdefault((entry.members, entry.seed), set()).add(str(entry.run.result.data_fingerprint))
    different = [key for key, fingerprints in seen.items() if len(fingerprints) > 1]
    if not different:
        return []
    (members, seed), more = different[0], len(different) - 1
    also = f" (and {more} more)" if more else ""
    return [f"{title}: the data changed between results of {' + '.join(members)}, seed {seed}{also}: compare with care"]
