"""A report as a run of W&B: its tables, its figures and its page."""

from __future__ import annotations

from pathlib import Path

from regmean_lab.config.groups import LoggerConfig
from regmean_lab.report.content import Report
from regmean_lab.report.tables import Table
from regmean_lab.report.write import FIGURES, PAGE
from regmean_lab.tracking.loggers import open_loggers
from regmean_lab.tracking.names import REPORT_PAGE

JOB_TYPE = "report"


def log_report(report: Report, folder: Path, config: LoggerConfig, group: str) -> None:
    """Log a report that was written into a folder: each section's first tables, all figures, and the page.

    Args:
        report: the report.
        folder: where :func:`regmean_lab.report.write.write_report` has written it; the run's files are put there, too.
        config: of W&B.
        group: group of the run, unless the configuration or a sweep names one.
    """
    import wandb

    about = {"command": report.command, **dict(report.facts)}
    with open_loggers(config, folder, report.title, JOB_TYPE, group, about) as loggers:
        for logger in loggers:
            for section in report.sections:
                for table in (section.overview, section.distances):
                    if table is not None:
                        columns, rows = logged_table(table)
                        logger.log_table(f"table/{table.name}", columns=columns, data=rows)  # type: ignore[attr-defined]
                for drawn in section.charts:
                    path, title = folder / FIGURES / f"{drawn.chart.name}.png", drawn.chart.title
                    logger.log_image(f"figure/{drawn.chart.name}", images=[str(path)], caption=[title])  # type: ignore[attr-defined]
            logger.experiment.log({REPORT_PAGE: wandb.Html(str(folder / PAGE))})  # type: ignore[attr-defined]


def logged_table(table: Table) -> tuple[list[str], list[list[str | float | None]]]:
    """Names of columns, and rows of unrounded means; None where nothing was measured."""
    columns = [table.corner, *(heading.full for heading in table.headings)]
    return columns, [[label, *(cell.mean for cell in cells)] for label, cells in table.rows]
