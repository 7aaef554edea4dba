"""Keeps what ``make reproduce-methods`` measured, a piece at a time: ``python docs/methods_record.py REPORT/runs.csv``.

The sweep takes many hours, so that it is run in pieces, on any machine. ``docs/results/methods.csv`` has a line for
each job that was measured; ``make tables`` writes the tables of ``docs/results/methods.md`` from it. A job that is
there already is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from regmean_lab.config.baselines import comparator_types
from regmean_lab.merging import method_types
from regmean_lab.merging.member_text import OWN
from regmean_lab.report.significance import MINIMUM_PAIRS, mean_interval
from regmean_lab.results import Result, read_result

RECORD = Path(__file__).parent / "results" / "methods.csv"
KEY = ["suite", "model", "method", "members", "seed"]
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
INDIVIDUAL, BASELINE = "individual", "simple"
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


def measured_jobs(report: Path) -> pd.DataFrame:
    """The jobs that a report of ``multirun_sweeps/methods.yaml`` has results of.

    Args:
        report: its ``runs.csv``.

    Raises:
        ValueError: if it is another file, or a job is there twice.
        ResultError: if a result that it names cannot be read.
    """
    runs = pd.read_csv(report)
    if missing := sorted({"state", "path", *KEY} - set(runs.columns)):
        raise ValueError(f"{report}: no column {', '.join(missing)}; expected the runs.csv of a report")
    jobs = runs[runs["state"] == "measured"]
    results = [read_result(Path(path)) for path in jobs["path"]]
    jobs = jobs.assign(
        method=[label(result) for result in results],
        reads_text=[int(result.configuration["method"].get("text") == OWN) for result in results],
        merge_seconds=[result.seconds["merge"] for result in results],
    )[[*KEY, *MEASURED]]
    if (twice := jobs.duplicated(KEY)).any():
        raise ValueError(f"{report}: several results of {', '.join(map(str, jobs[twice][KEY].iloc[0]))}")
    return jobs


def label(result: Result) -> str:
    """The method with the settings that are not its defaults, and whether they were chosen on dev."""
    kinds: dict[str, type[Any]] = {**method_types(), **comparator_types()}
    kind = kinds[result.method]
    defaults = {entry.name: getattr(kind(), entry.name) for entry in fields(kind) if entry.init}
    settings = result.configuration["method"]
    own = [
        f"{key}={'null' if value is None else f'{value:g}' if isinstance(value, float) else value}"
        for key, value in settings.items()
        if key in defaults and value != defaults[key]
    ]
    return " ".join([result.method, *own, *(["(chosen on dev)"] if result.selection else [])])


def added(record: pd.DataFrame, jobs: pd.DataFrame) -> pd.DataFrame:
    """A record with more jobs, sorted; those that are in both are taken from ``jobs``."""
    return pd.concat([record, jobs]).drop_duplicates(KEY, keep="last").sort_values(KEY, ignore_index=True)


def read_record() -> pd.DataFrame:
    """What was measured so far."""
    return pd.read_csv(RECORD)


def tables(record: pd.DataFrame) -> str:
    """A table in Markdown for each suite and number of members, under a heading each."""
    counts = record["members"].str.count(r"\+") + 1
    parts = []
    for (suite, model, count), jobs in record.groupby(["suite", "model", counts], sort=True):
        seeds, sets = sorted(jobs["seed"].unique()), sorted(jobs["members"].unique())
        parts.append(f"\n### {suite}, {model}, {count} members\n\n")
        parts.append(f"Members: {', '.join(sets)}. Seeds: {', '.join(map(str, seeds))}.\n\n")
        parts.append(f"| {' | '.join(HEAD)} |\n|{'---|' + '---:|' * (len(HEAD) - 1)}\n")
        parts += [f"| {' | '.join(line)} |\n" for line in _lines(jobs)]
    return "".join([*parts, "\n"])


def _lines(jobs: pd.DataFrame) -> Iterator[list[str]]:
    methods = {str(name): own.set_index(["members", "seed"]) for name, own in jobs.groupby("method", sort=True)}
    base = methods.get(BASELINE)
    for name, own in sorted(methods.items(), key=lambda item: _order(item[1])):
        gaps = "100" if name == INDIVIDUAL else _with_interval(own["gap_closed"].dropna(), "{:.1f}")
        line = [f"`{name}`", str(len(own)), gaps, *(_mean(own[key], "{:.1f}") for key in MEASURED[1:4])]
        for key in ("mean_in_domain", "mean_out_of_domain"):
            apart = pd.Series(dtype=float) if base is None else (own[key] - base[key]).dropna()
            line += [_mean(own[key], "{:.2f}"), "" if name == BASELINE else _with_interval(apart, "{:+.2f}")]
        yield [
            *line,
            _size(own["statistics_bytes"].max(), bool(own["reads_text"].max())),
            _mean(own["merge_seconds"], "{:.0f}"),
        ]


def _order(own: pd.DataFrame) -> tuple[float, float]:
    """By the gap that is closed; what is compared with and has none, after the members themselves, by its score."""
    gap = own["gap_closed"].mean()
    return (-1e9 if pd.isna(gap) else -float(gap)), -float(own["mean_in_domain"].mean())


def _with_interval(values: pd.Series, form: str) -> str:
    """A mean, with its bootstrap interval where there are enough values."""
    if values.empty:
        return ""
    text = form.format(values.mean())
    if len(values) >= MINIMUM_PAIRS and values.nunique() > 1:
        low, high = mean_interval(list(values))
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
    whole = {key: record[key].astype("Int64") for key in ("statistics_bytes", "reads_text")}  # with gaps
    record = record.astype(dict.fromkeys(MEASURED, float)).round(4).assign(**whole)
    record.to_csv(RECORD, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
