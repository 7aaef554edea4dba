"""What a report contains, before it takes any form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from regmean_lab.report.charts import Chart, charts_of
from regmean_lab.report.distance_table import distance_table
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Section
from regmean_lab.report.read import Run
from regmean_lab.report.significance import Comparison, comparisons, explanation
from regmean_lab.report.tables import Table, corpus_table, domains_of, members_table, overview


@dataclass(frozen=True)
class DrawnChart:
    """A chart and its two files."""

    chart: Chart
    png: bytes
    svg: str


@dataclass(frozen=True)
class SectionContent:
    """One section of a report.

    Attributes:
        name: its name.
        stem: what its own files are called.
        overview: the table of means.
        distances: the table of how far merges are from their members, where that was measured.
        charts: its figures.
        comparisons: rows against the reference.
        explanation: what the comparisons are.
        more: tables of single columns, below what they show.
    """

    name: str
    stem: str
    overview: Table
    distances: Table | None
    charts: list[DrawnChart]
    comparisons: list[Comparison]
    explanation: str
    more: list[tuple[str, list[Table]]]

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        shown = [self.overview] if self.distances is None else [self.overview, self.distances]
        return [*shown, *(table for _, tables in self.more for table in tables)]


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: its title.
        facts: what it is about, by name.
        notices: what a reader should know first: files left out, jobs missing.
        sections: one for each experiment, or one for a table with a definition.
        runs: all results in it.
        command: the command that made it.
    """

    title: str
    facts: list[tuple[str, str]]
    notices: list[str]
    sections: list[SectionContent]
    runs: list[Run]
    command: str


def section_contents(sections: Sequence[Section], reference: str, with_figures: bool) -> list[SectionContent]:
    """Tables, comparisons and figures of some sections; every file name is given once."""
    table_names, figure_names = FileNames(), FileNames()
    return [_content(section, reference, with_figures, table_names, figure_names) for section in sections]


def _content(
    section: Section, reference: str, with_figures: bool, table_names: FileNames, figure_names: FileNames
) -> SectionContent:
    stem = table_names.stem(section.name)
    charts = charts_of(section, reference, figure_names) if with_figures else []
    more = [(column.title, _column_tables(section, column, table_names)) for column in section.columns]
    return SectionContent(
        section.name,
        stem,
        overview(section, stem),
        distance_table(section, table_names.stem(section.name, "distance")),
        [DrawnChart(chart, *chart.files()) for chart in charts],
        comparisons(section, reference),
        explanation(reference),
        [(f"{title}: {_what(tables)}", tables) for title, tables in more if tables],
    )


def _column_tables(section: Section, column: Column, names: FileNames) -> list[Table]:
    """Scores by corpus and, where there are several sets of members, by set; none while nothing was measured.

    Across experiments by corpus alone: the sets are shown where they belong.
    """
    if not column.runs:
        return []
    tables = [corpus_table(section, column, names.stem(section.name, column.label, "corpora"))]
    if len(column.member_sets) > 1 and not section.across:
        for domain in domains_of(column):
            stem = names.stem(section.name, column.label, "members", domain)
            tables.append(members_table(section, column, domain, stem))
    return tables


def _what(tables: Sequence[Table]) -> str:
    return "by corpus" if len(tables) == 1 else "by corpus and by members"
