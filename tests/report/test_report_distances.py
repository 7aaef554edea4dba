"""Tables, figures and tests of how far merges are from their members."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_results import cell_of, make_result, pairwise, runs_of, section_of
from scipy.stats import wilcoxon

from regmean_lab.report.charts.distances import distance_charts
from regmean_lab.report.charts.sizes import size_charts
from regmean_lab.report.comma_separated import csv_runs
from regmean_lab.report.content import Report, section_contents
from regmean_lab.report.distance_table import distance_table
from regmean_lab.report.files import FileNames
from regmean_lab.report.page import html_page
from regmean_lab.report.significance import comparisons
from regmean_lab.report.write import markdown_report
from regmean_lab.results import Result

CLOSED = {"simple": 0.0, "fisher": -12.0, "regmean": 24.0}


def measured(result: Result) -> Result:
    """The same result with a distance that follows a known rule; the members themselves have none."""
    if result.method not in CLOSED:
        return result
    noise = math.sin(97.0 * result.seed + sum(map(ord, "".join(result.members)))) if result.method != "simple" else 0.0
    gap = CLOSED[result.method] + noise
    values = {"gap_closed": gap, "gap_closed_tempered": gap + 5, "gap_closed_out_of_domain": gap / 2}
    return replace(result, divergence={**values, "agreement": 90.0 + noise, "temperature": 0.8})


def results() -> list[Result]:
    return [measured(result) for result in pairwise()]


def test_the_gap_is_drawn_against_what_members_publish() -> None:
    """Bytes of all kinds together, means over results; none stand beside the logarithmic axis."""
    every = results()
    sizes = {
        "simple": [{}],
        "fisher": [{"fisher": 90_000_000}],
        "regmean": [{"gram": 3e8, "tokens": 4000}, {"gram": 1e8}],
    }
    for number, result in enumerate(every):
        if result.method in sizes:
            of_method = sizes[result.method]
            result.statistics_bytes = {kind: int(size) for kind, size in of_method[number % len(of_method)].items()}
    column = section_of(every).columns[0]
    (chart,) = size_charts(section_of(every), FileNames())
    figure = Figure(figsize=chart.size)
    chart.draw(figure)
    (axes,) = figure.axes
    points = {line.get_label(): [float(part[0]) for part in line.get_data()] for line in axes.get_lines()}

    assert axes.get_xscale() == "log"
    own = [r for r in every if r.method == "regmean" and r.statistics_bytes]
    expected = np.mean([sum(r.statistics_bytes.values()) for r in own if r.statistics_bytes])
    assert points["regmean"] == pytest.approx([expected, np.mean(gaps(every, "regmean"))])
    assert points["fisher"] == pytest.approx([9e7, np.mean(gaps(every, "fisher"))])
    assert points["simple"][0] < 9e7
    labels = {text.get_text(): text.get_position()[0] for text in axes.get_xticklabels()}
    assert labels["none"] == points["simple"][0]
    assert "simple 0.0 with none" in chart.description
    assert [text.get_text() for text in axes.texts] == ["simple", "regmean"]  # of fisher, simple closes more with less
    assert "individual" not in points
    assert "individual" in [row.label for row in column.rows]


def test_of_many_methods_those_that_close_more_with_less_are_named() -> None:
    every = []
    for number in range(14):
        result = make_result(f"m{number:02d}")
        result.divergence = {"gap_closed": 10.0 + number % 7, "agreement": 90.0}
        result.statistics_bytes = {"gram": 1000 * (number + 1)}
        every.append(result)
    (chart,) = size_charts(section_of(every), FileNames())
    figure = Figure(figsize=chart.size)
    chart.draw(figure)
    labels = [str(text.get_text()) for text in figure.legends[0].get_texts()]
    assert labels == [f"m{number:02d}" for number in range(7)] + ["7 others"]


def test_without_sizes_the_gap_is_not_drawn_against_them() -> None:
    assert size_charts(section_of(results()), FileNames()) == []
    every = [replace(result, statistics_bytes={}) for result in results()]
    assert size_charts(section_of(every), FileNames()) == []


def test_merges_that_read_members_text_are_not_drawn_against_sizes() -> None:
    """They publish no statistics for it, and need more than any."""
    every = results()
    for result in every:
        if result.method != "individual":
            result.statistics_bytes = {"gram": 1000} if result.method == "regmean" else {}
        if result.method == "fisher":
            result.configuration = {**result.configuration, "method": {"name": "fisher", "text": "own"}}
    (chart,) = size_charts(section_of(every), FileNames())
    assert "regmean" in chart.description and "fisher" not in chart.description


def gaps(every: list[Result], method: str) -> list[float]:
    return [result.divergence["gap_closed"] for result in every if result.method == method and result.divergence]


def test_cells_are_means_and_deviations_over_seeds_of_means_over_members() -> None:
    every = results()
    table = distance_table(section_of(every), "t")
    assert table is not None

    own = [
        np.mean(
            [r.divergence["gap_closed"] for r in every if r.method == "regmean" and r.seed == seed and r.divergence]
        )
        for seed in (1, 2, 3)
    ]
    cell = cell_of(table, "regmean", "gap closed")
    assert (cell.mean, cell.deviation) == pytest.approx((np.mean(own), np.std(own, ddof=1)))
    assert cell_of(table, "regmean", "gap closed after one temperature").mean == pytest.approx(np.mean(own) + 5)
    assert cell_of(table, "regmean", "gap closed out of domain").mean == pytest.approx(np.mean(own) / 2)
    assert [label for label, _ in table.rows] == ["simple", "fisher", "regmean"]  # the members have no distance
    assert "in percent" in table.caption and "key score" not in table.caption
    assert (2, 0) in table.best


def test_results_of_before_have_no_table() -> None:
    section = section_of(pairwise())

    assert distance_table(section, "t") is None
    assert distance_charts(section, FileNames()) == []
    assert {one.domain for one in comparisons(section, "simple")} == {"in domain", "out of domain"}


def test_a_measure_that_only_some_results_have() -> None:
    tempered = replace(make_result("regmean"), divergence={"gap_closed": 10.0, "agreement": 91.0})
    section = section_of([measured(make_result("simple")), tempered])
    table = distance_table(section, "t")
    assert table is not None

    assert cell_of(table, "regmean", "gap closed").mean == 10
    assert cell_of(table, "regmean", "gap closed out of domain").state == "not applicable"


def test_gaps_are_compared_with_the_references_like_scores() -> None:
    every = results()
    found = {(one.domain, one.label): one for one in comparisons(section_of(every), "simple")}

    test = found["gap closed", "regmean"].test
    assert test is not None
    assert test.pairs == 18
    assert test.difference == pytest.approx(np.mean(gaps(every, "regmean")))
    assert test.low < test.difference < test.high
    assert test.probability == pytest.approx(wilcoxon(gaps(every, "regmean")).pvalue)
    assert "individual" not in {
        label for domain, label in found if domain == "gap closed" and found[domain, label].test
    }


def test_the_chart_shows_means_and_each_result() -> None:
    every = results()
    (chart,) = distance_charts(section_of(every), FileNames())
    figure = Figure()
    chart.draw(figure)
    (axes,) = figure.axes

    drawn = [list(line.get_xdata()) for line in axes.lines]
    assert [pytest.approx(np.mean(gaps(every, "regmean")))] in drawn
    assert gaps(every, "regmean") in drawn
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["simple", "fisher", "regmean"]
    assert f"regmean {np.mean(gaps(every, 'regmean')):.1f}" in chart.description


def test_it_stands_in_every_form_of_the_report(tmp_path: Path) -> None:
    section = section_of(results())
    contents = section_contents([section], "simple", with_figures=True)
    runs = runs_of(results())
    report = Report("t", [], [], contents, runs, "c")

    for text in (html_page(report), markdown_report(report)):
        assert "istance from the members" in text
        assert "gap closed after one temperature" in text
    assert "gap-closed" in "".join(drawn.chart.name for drawn in contents[0].charts)
    rows = list(csv.DictReader(io.StringIO(csv_runs([section]))))
    regmean = next(row for row in rows if row["row"] == "regmean")
    assert float(regmean["gap_closed"]) == pytest.approx(2 * float(regmean["gap_closed_out_of_domain"]))


def test_a_row_without_what_others_have_is_incomplete_and_not_the_best() -> None:
    """Without a definition, what belongs into a cell is what any row of its column has."""
    every = results()
    lost = next(result for result in every if result.method == "regmean")
    table = distance_table(section_of([result for result in every if result is not lost]), "distances")
    assert table is not None
    cell = dict(table.rows)["regmean"][0]
    assert (cell.state, cell.expected - cell.runs) == ("incomplete", 1)
    ((members, seed, command),) = [(absent.members, absent.seed, absent.command) for absent in cell.absent]
    assert (list(members), seed, command) == (lost.members, lost.seed, "")
    place = [label for label, _ in table.rows].index("regmean")
    assert (place, 0) not in table.best
    whole = distance_table(section_of(every), "distances")
    assert whole is not None and (place, 0) in whole.best
