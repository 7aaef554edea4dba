"""Keeps what ``make reproduce-methods`` measured, a piece at a time: ``python docs/methods_record.py REPORT/runs.csv``.

The sweep takes many hours, so that it is run in pieces, on any machine. ``docs/results/methods.csv`` has a line for
each job that was measured; ``make tables`` writes the tables of ``docs/results/methods.md`` from it. A job that is
there already is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from regmean_lab.config.baselines import comparator_types
from regmean_lab.merging import method_types
from regmean_lab.merging.member_text import OWN
from regmean_lab.report.significance import MINIMUM_PAIRS, crossed_interval
from regmean_lab.results import Result, read_result
from regmean_lab.statistics import KINDS

RECORD = Path(__file__).parent / "results" / "methods.csv"
SIZES = ["train_examples", "test_examples"]
KEY = ["suite", "model", *SIZES, "method", "members", "seed"]
MEASURED = [
    "gap_closed",
    "gap_closed_tempered",
    "gap_closed_out_of_domain",
    "agreement",
    "mean_in_domain",
    "mean_out_of_domain",
    "statistics_bytes",
    "reads_text",
    "merge_seconds",
]
TOLD_OF_STATISTICS = ("form", "rank", "minimum_count", "pairs", "by_label", "epsilon", "delta", "tokens_per_text")
"""Settings of statistics that say how much an owner publishes."""
INDIVIDUAL, BASELINE = "individual", "simple"
CONTROL = "distill text=own examples=null"
COUNTS = "regmean_sequential text=pseudo start=simple"
TOWARDS_MEAN = "regmean_sequential followed_by=towards_mean(share=0.3) text=pseudo start=simple"
RESIDUAL = "simple followed_by=residual(rank=4)"
CONTRASTS = (
    (COUNTS, CONTROL),
    (TOWARDS_MEAN, CONTROL),
    ("distill start=regmean_sequential start_settings=(start=simple)", CONTROL),
    ("regmean_sequential", CONTROL),
    (COUNTS, "regmean_sequential"),
    (TOWARDS_MEAN, COUNTS),
    (f"{COUNTS} tokens.epsilon=3 tokens.delta=1e-06", COUNTS),
    (RESIDUAL, CONTROL),
    (RESIDUAL, "regmean_sequential"),
    ("regmean followed_by=residual(rank=4) gram=weighted", RESIDUAL),
    ("mats", "regmean gram=weighted"),
    ("regmean gram=weighted", "regmean off_diagonal=1"),
)
"""Of which methods the gap closed is compared on the same members and seeds, with which."""
HEAD = (
    "method",
    "n",
    "gap closed (95 %)",
    "tempered",
    "gap out of domain",
    "agreement",
    "in domain",
    "− simple (95 %)",
    "out of domain",
    "− simple (95 %)",
    "published",
    "merge, s",
)
CONTRAST_HEAD = ("gap closed by", "compared with", "n", "first", "second", "difference (95 %)", "ratio")


def measured_jobs(report: Path) -> pd.DataFrame:
    """The jobs that a report of ``multirun_sweeps/methods.yaml`` has results of.

    Args:
        report: its ``runs.csv``.

    Raises:
        ValueError: if it is another file, or a job is there twice.
        ResultError: if a result that it names cannot be read.
    """
    runs = pd.read_csv(report)
    read = {"state", "path", *KEY} - {*SIZES}
    if missing := sorted(read - set(runs.columns)):
        raise ValueError(f"{report}: no column {', '.join(missing)}; expected the runs.csv of a report")
    jobs = runs[runs["state"] == "measured"]
    results = [read_result(Path(path)) for path in jobs["path"]]
    jobs = jobs.assign(
        method=[label(result) for result in results],
        **{size: [result.configuration["suite"].get(size) for result in results] for size in SIZES},
        reads_text=[int(result.configuration["method"].get("text") == OWN) for result in results],
        merge_seconds=[result.seconds["merge"] for result in results],
    )[[*KEY, *MEASURED]]
    if (twice := jobs.duplicated(KEY)).any():
        raise ValueError(f"{report}: several results of {', '.join(map(str, jobs[twice][KEY].iloc[0]))}")
    return jobs


def label(result: Result) -> str:
    """The method with the settings that are not its defaults, and what of the statistics that it reads is published.

    Settings that were chosen on dev may be others in each job of a row: it is said that they were chosen.
    """
    kinds: dict[str, type[Any]] = {**method_types(), **comparator_types()}
    chosen = [str(key).removeprefix("method.") for key in (result.selection or {}).get("keys", ())]
    own = _changed(kinds[result.method](), result.configuration["method"], chosen)
    for kind in result.statistics_bytes or {}:
        settings = result.configuration["statistics"][kind]
        told = {key: value for key, value in settings.items() if key in TOLD_OF_STATISTICS}
        if told.get("epsilon") is None:
            told.pop("tokens_per_text", None)  # it is for epsilon
        own += [f"{kind}.{text}" for text in _changed(KINDS[kind].settings(), told)]
    return " ".join([result.method, *own, *(["(chosen on dev)"] if result.selection else [])])


def _changed(default: Any, settings: Mapping[str, Any], left_out: list[str] | None = None) -> list[str]:
    """``key=value`` of the settings that differ from the defaults."""
    names = [entry.name for entry in fields(default) if entry.init]  # in their order, whatever that of the settings
    return [
        f"{name}={_text(settings[name])}"
        for name in names
        if name in settings and settings[name] != getattr(default, name) and name not in (left_out or ())
    ]


def _text(value: Any) -> str:
    """A setting's value, short: ``null`` for None, ``svc+lines(alpha=0.3)`` for steps with their settings."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        inner = (
            f"{key}{_text(own)}" if isinstance(own, Mapping) else f"{key}={_text(own)}" for key, own in value.items()
        )
        nested = any(isinstance(own, Mapping) for own in value.values())
        return "+".join(inner) if nested else f"({','.join(inner)})"
    if isinstance(value, list | tuple):
        return "+".join(map(_text, value))
    return str(value)


def added(record: pd.DataFrame, jobs: pd.DataFrame) -> pd.DataFrame:
    """A record with more jobs, sorted; those that are in both are taken from ``jobs``."""
    return pd.concat([record, jobs]).drop_duplicates(KEY, keep="last").sort_values(KEY, ignore_index=True)


def read_record() -> pd.DataFrame:
    """What was measured so far."""
    return pd.read_csv(RECORD)


def tables(record: pd.DataFrame) -> str:
    """Tables in Markdown for each suite and number of members, under a heading each, and for pairs of all suites."""
    counts = record["members"].str.count(r"\+") + 1
    parts = []
    groups = record.groupby(["suite", "model", *SIZES, counts], sort=True, dropna=False)
    for (suite, model, train, test, count), jobs in groups:
        seeds, sets = sorted(jobs["seed"].unique()), sorted(jobs["members"].unique())
        parts.append(f"\n### {suite}, {model}, {count} members\n\n")
        parts.append(f"Members: {', '.join(sets)}. Seeds: {', '.join(map(str, seeds))}. ")
        parts.append(f"Examples: {_examples(train)} to train a member, {_examples(test)} in a test.\n\n")
        parts += _table(HEAD, 1, _lines(jobs))
        if contrasts := list(_contrasts(jobs)):
            parts.append("\nOn the same members and seeds:\n\n")
            parts += _table(CONTRAST_HEAD, 2, contrasts)
    pairs = record[counts == 2]
    if pairs["suite"].nunique() > 1 and (contrasts := list(_contrasts(pairs))):
        parts.append("\n### All suites, 2 members\n\nOn the same members and seeds, of whichever suite:\n\n")
        parts += _table(CONTRAST_HEAD, 2, contrasts)
    return "".join([*parts, "\n"])


def _table(head: tuple[str, ...], texts: int, lines: Iterable[list[str]]) -> Iterator[str]:
    """A table whose first columns are texts."""
    yield f"| {' | '.join(head)} |\n|{'---|' * texts + '---:|' * (len(head) - texts)}\n"
    for line in lines:
        yield f"| {' | '.join(line)} |\n"


def _examples(number: float) -> str:
    return "all" if pd.isna(number) else f"{number:.0f}"


def _by_method(jobs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Jobs of each method by all that makes them comparable: another test, or another model, is another job."""
    whole = jobs.fillna(dict.fromkeys(SIZES, -1))  # without a limit
    index = [key for key in KEY if key != "method"]
    return {str(name): own.set_index(index) for name, own in whole.groupby("method", sort=True)}


def _lines(jobs: pd.DataFrame) -> Iterator[list[str]]:
    methods = _by_method(jobs)
    base = methods.get(BASELINE)
    for name, own in sorted(methods.items(), key=lambda item: _order(item[1])):
        gaps = "100" if name == INDIVIDUAL else _with_interval(own["gap_closed"].dropna(), "{:.1f}")
        line = [f"`{name}`", str(len(own)), gaps, *(_mean(own[key], "{:.1f}") for key in MEASURED[1:4])]
        for key in ("mean_in_domain", "mean_out_of_domain"):
            apart = None if base is None else (own[key] - base[key]).dropna()
            line += [_mean(own[key], "{:.2f}"), "" if name == BASELINE else _with_interval(apart, "{:+.2f}")]
        yield [
            *line,
            _size(own["statistics_bytes"].max(), bool(own["reads_text"].max())),
            _mean(own["merge_seconds"], "{:.0f}"),
        ]


def _contrasts(jobs: pd.DataFrame) -> Iterator[list[str]]:
    """Gap closed by pairs of methods, over the jobs that both have."""
    methods = _by_method(jobs)
    for first, second in CONTRASTS:
        if first not in methods or second not in methods:
            continue
        both = methods[first][["gap_closed"]].join(methods[second]["gap_closed"], rsuffix=" of second").dropna()
        if both.empty:
            continue
        one, other = both["gap_closed"], both["gap_closed of second"]
        ratio = f"{one.mean() / other.mean():.2f}" if other.mean() > 0 else ""
        means = (_mean(one, "{:.1f}"), _mean(other, "{:.1f}"))
        yield [f"`{first}`", f"`{second}`", str(len(both)), *means, _with_interval(one - other, "{:+.1f}"), ratio]


def _order(own: pd.DataFrame) -> tuple[float, float]:
    """By the gap that is closed; what is compared with and has none, after the members themselves, by its score."""
    gap = own["gap_closed"].mean()
    return (-1e9 if pd.isna(gap) else -float(gap)), -float(own["mean_in_domain"].mean())


def _with_interval(values: pd.Series | None, form: str) -> str:
    """A mean over jobs (by members and seed), with its interval where there are enough values."""
    if values is None or values.empty:
        return ""
    text = form.format(values.mean())
    if len(values) >= MINIMUM_PAIRS and values.nunique() > 1:
        sets, seeds = (list(values.index.get_level_values(name)) for name in ("members", "seed"))
        low, high = crossed_interval(list(values), sets, seeds)
        text += f" ({form.format(low)} to {form.format(high)})"
    return text.replace("-", "−")


def _mean(values: pd.Series, form: str) -> str:
    return "" if values.dropna().empty else form.format(values.mean()).replace("-", "−")


def _size(size: float, reads_text: bool) -> str:
    """What the owner of a member publishes beside it."""
    if pd.isna(size):
        return ""
    parts = [f"{size / 1e3:.1f} kB" if size < 1e5 else f"{size / 1e6:.1f} MB"] if size else []
    return " + ".join([*parts, *(["text"] if reads_text else [])]) or "0"


def main() -> None:
    """Add the jobs of reports to the record."""
    record = read_record() if RECORD.exists() else pd.DataFrame(columns=[*KEY, *MEASURED])
    for report in sys.argv[1:]:
        record = added(record, measured_jobs(Path(report)))
    whole = {key: record[key].astype("Int64") for key in (*SIZES, "statistics_bytes", "reads_text")}  # with gaps
    record = record.astype(dict.fromkeys(MEASURED, float)).round(4).assign(**whole)
    record.to_csv(RECORD, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
