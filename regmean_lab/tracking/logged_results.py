"""What a job's loggers show of its result: scores as metrics, and tables of scores and of the merge's diagnostics."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from regmean_lab.results import Result
from regmean_lab.statistics import StatisticsFile
from regmean_lab.tracking.names import DIAGNOSTICS_TABLE, SCORES_TABLE
from regmean_lab.utils.files import write_text


@dataclass(frozen=True)
class LoggedTable:
    """A table as loggers get it.

    Attributes:
        name: what it is called.
        columns: names of the columns.
        rows: cells, row by row; None where there is none.
    """

    name: str
    columns: list[str]
    rows: list[list[Any]]


def log_result(loggers: Sequence[Logger], result: Result, key_metrics: Mapping[str, str]) -> None:
    """Log a result's scores and tables.

    Args:
        loggers: the job's open loggers.
        result: what the job measured.
        key_metrics: the name of the key metric of each corpus.
    """
    means = {"mean_in_domain": result.mean_in_domain, "mean_out_of_domain": result.mean_out_of_domain}
    metrics = {
        **flatten(result.scores, "score"),
        **flatten(means, ""),
        **flatten(result.seconds, "seconds"),
        **flatten(result.metrics, "metric"),
        **flatten(result.divergence or {}, "divergence"),
    }
    for logger in loggers:
        logger.log_metrics(metrics, step=0)
        for table in (scores_table(result, key_metrics), diagnostics_table(result)):
            if table.rows:
                _log_table(logger, table)


def log_statistics(loggers: Sequence[Logger], file: StatisticsFile, seconds: float) -> None:
    """Log what it took to collect a member's statistics, and how much they are the mean of.

    Args:
        loggers: the open loggers.
        file: the statistics.
        seconds: how long it took to collect them.
    """
    metadata = file.metadata
    metrics = {
        "seconds/statistics": seconds,
        "statistics/examples": float(metadata["examples"]),
        "statistics/batches": float(metadata["batches"]),
        "statistics/megabytes": file.path.stat().st_size / 1e6,
    }
    if metadata["rows"]:  # Fisher information has none
        metrics["statistics/fewest_rows"] = float(min(metadata["rows"].values()))
        metrics["statistics/most_rows"] = float(max(metadata["rows"].values()))
    if "relative_change" in metadata:
        metrics["statistics/relative_change"] = float(metadata["relative_change"])
    for logger in loggers:
        logger.log_metrics(metrics, step=0)


def scores_table(result: Result, key_metrics: Mapping[str, str]) -> LoggedTable:
    """One row for each model and corpus: the model, the corpus, its domain, the key score, and every metric.

    The model is the method's, or a member's where each member is evaluated by itself.
    """
    by_model: dict[str, dict[str, dict[str, float]]] = {}
    for name, metrics in result.metrics.items():
        if name in key_metrics and not any(isinstance(value, Mapping) for value in metrics.values()):
            by_model.setdefault(result.method, {})[name] = metrics
        else:
            by_model[name] = metrics
    measured = [(model, corpus, metrics) for model, part in by_model.items() for corpus, metrics in part.items()]
    names = list(dict.fromkeys(name for _, _, metrics in measured for name in metrics))
    rows = [
        [
            *(model, corpus, "in" if corpus in result.scores["in_domain"] else "out"),
            metrics[key_metrics[corpus]],
            *(metrics.get(name) for name in names),
        ]
        for model, corpus, metrics in measured
    ]
    return LoggedTable(SCORES_TABLE, ["model", "corpus", "domain", "key_score", *names], rows)


def diagnostics_table(result: Result) -> LoggedTable:
    """One row for each layer that the merge solved for; no rows for methods that solve for none."""
    flat = [_by_column(row) for row in result.diagnostics]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    rows = [[row.get(name) for name in columns] for row in flat]
    return LoggedTable(DIAGNOSTICS_TABLE, columns, rows)


def _by_column(row: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's diagnostics with a column for each member where there is one value a member."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{member}": own for member, own in value.items()}
        else:
            found[name] = value
    return found


def _log_table(logger: Logger, table: LoggedTable) -> None:
    if isinstance(logger, WandbLogger):
        logger.log_table(f"table/{table.name}", columns=table.columns, data=table.rows)
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(f"table/{table.name}", _markdown(table), 0)
    elif isinstance(logger, CSVLogger):
        write_text(Path(logger.log_dir) / f"{table.name}.csv", _comma_separated(table))


def _markdown(table: LoggedTable) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *([_cell(cell) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _comma_separated(table: LoggedTable) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue()


def flatten(metrics: dict[str, Any], prefix: str) -> dict[str, float]:
    """Nested metrics as one dict with keys joined by ``/``, for loggers."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        name = f"{prefix}/{key}" if prefix else key
        if isinstance(value, dict):
            flat.update(flatten(value, name))
        elif value is not None:
            flat[name] = value
    return flat
