"""Charts of a report: one file per kind, each of which decides from the results whether it applies."""

from __future__ import annotations

from dataclasses import replace

from regmean_lab.report.charts.chart import Chart
from regmean_lab.report.charts.curves import incremental_charts, setting_charts
from regmean_lab.report.charts.distances import distance_charts
from regmean_lab.report.charts.domains import domain_charts
from regmean_lab.report.charts.gains import gain_charts
from regmean_lab.report.charts.layers import layer_charts
from regmean_lab.report.charts.learning import learning_charts
from regmean_lab.report.charts.scores import score_charts
from regmean_lab.report.charts.sizes import size_charts
from regmean_lab.report.charts.trials import trial_charts
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Section

__all__ = ["Chart", "charts_of"]


def charts_of(section: Section, reference: str, names: FileNames) -> list[Chart]:
    """Every chart that a section's results allow.

    Columns of which there are curves have no charts of single rows: these would be the curves' points. A section across
    experiments has those that compare rows alone.
    """
    if section.across:
        return [
            *score_charts(section, names),
            *domain_charts(section, names),
            *distance_charts(section, names),
            *size_charts(section, names),
        ]
    curves = [*incremental_charts(section, names), *setting_charts(section, names)]
    shown = {title for chart in curves for title in chart.columns}
    others = replace(section, columns=[column for column in section.columns if column.title not in shown])
    return [
        *curves,
        *gain_charts(section, reference, names),
        *score_charts(others, names),
        *domain_charts(others, names),
        *distance_charts(others, names),
        *size_charts(others, names),
        *learning_charts(section, names),
        *layer_charts(section, names),
        *trial_charts(section, names),
    ]
