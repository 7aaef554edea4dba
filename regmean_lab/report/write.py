"""A report as files."""

from __future__ import annotations

from pathlib import Path

from regmean_lab.report.comma_separated import csv_runs, csv_table, csv_tests
from regmean_lab.report.content import Report
from regmean_lab.report.grid import Section
from regmean_lab.report.latex import latex_table, latex_tests
from regmean_lab.report.markdown import escape, markdown_table, markdown_tests
from regmean_lab.report.page import html_page
from regmean_lab.utils.files import write_bytes, write_text

PAGE, MARKDOWN, RUNS = "report.html", "report.md", "runs.csv"
TABLES, FIGURES = "tables", "figures"


def write_report(report: Report, sections: list[Section], folder: Path) -> Path:
    """Write every form of a report into a folder; returns the HTML page, which is written last.

    ``report.html``, ``report.md``, ``runs.csv``, and for each table ``tables/NAME.csv`` and ``tables/NAME.tex``, for
    each figure ``figures/NAME.png`` and ``figures/NAME.svg``.
    """
    for section in report.sections:
        for table in section.tables:
            write_text(folder / TABLES / f"{table.name}.csv", csv_table(table))
            write_text(folder / TABLES / f"{table.name}.tex", latex_table(table))
        if section.comparisons:
            tests = f"{section.stem}-tests"
            write_text(folder / TABLES / f"{tests}.csv", csv_tests(section.comparisons))
            write_text(folder / TABLES / f"{tests}.tex", latex_tests(tests, section.comparisons, section.explanation))
        for drawn in section.charts:
            write_bytes(folder / FIGURES / f"{drawn.chart.name}.png", drawn.png)
            write_text(folder / FIGURES / f"{drawn.chart.name}.svg", drawn.svg)
    write_text(folder / RUNS, csv_runs(sections))
    write_text(folder / MARKDOWN, markdown_report(report))
    return write_text(folder / PAGE, html_page(report))


def markdown_report(report: Report) -> str:
    """The whole report as Markdown, with links to the figures."""
    parts = [f"# {escape(report.title)}\n"]
    parts.append("".join(f"- {escape(key)}: {escape(value)}\n" for key, value in report.facts))
    if report.notices:
        parts.append("## To know before reading\n")
        parts.append("".join(f"- {escape(notice)}\n" for notice in report.notices))
    for section in report.sections:
        parts += [f"## {escape(section.name)}\n", markdown_table(section.overview)]
        if section.distances is not None:
            parts.append(markdown_table(section.distances))
        for drawn in section.charts:
            chart = drawn.chart
            parts.append(f"![{escape(chart.description)}]({FIGURES}/{chart.name}.png)\n\n{escape(chart.title)}\n")
        if section.comparisons:
            parts += ["### Differences from the reference\n", markdown_tests(section.comparisons, section.explanation)]
        parts += [markdown_table(table) for _, tables in section.more for table in tables]
    parts.append(f"Made by `{report.command}`.\n")
    return "\n".join(parts)
