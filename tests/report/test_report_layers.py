"""What is kept of diagnostics, and the heat maps that are drawn of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from report_results import LAYERS, diagnosed, make_result, section_of, write_results

from regmean_lab.report.charts.layers import layer_charts, panels_of
from regmean_lab.report.entries import entries_of
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Section, sections_of
from regmean_lab.report.layers import layers_of
from regmean_lab.report.read import find_runs
from regmean_lab.results import Result


def read_back(folder: Path, results: list[Result]) -> Section:
    write_results(folder, results)
    (section,) = sections_of(entries_of(find_runs([folder]).runs))
    return section


def test_layers_are_kept_as_a_merge_wrote_them() -> None:
    found = layers_of(diagnosed(make_result("regmean")).diagnostics)
    assert found is not None
    assert found.names == LAYERS
    assert list(found.single["condition"]) == [10.0, 100.0, 1000.0]
    assert list(found.single["moved"]) == pytest.approx([0.1, 0.2, 0.3])
    assert {name: list(own) for name, own in found.by_member["distances"].items()} == {
        "tec": pytest.approx([0.9, 1.0, 1.1]),
        "isear": pytest.approx([0.91, 1.01, 1.11]),
    }
    assert layers_of([]) is None


def test_what_a_merge_does_not_write_is_left_out() -> None:
    hostile = [
        3,
        {"layer": 1},
        {"layer": "a", "condition": "high", "moved": True, "distances": {"m": None}},
        {"layer": "b"},
    ]
    found = layers_of(hostile)
    assert found is not None
    assert found.names == ("a", "b")
    numbers = [*found.single.values(), *found.by_member["distances"].values()]
    assert all(math.isnan(value) for own in numbers for value in own)
    assert panels_of([found]) == (["a", "b"], [])


def test_diagnostics_of_another_form_are_named(tmp_path: Path) -> None:
    write_results(tmp_path / "good", [make_result(seed=2)])
    (path,) = write_results(tmp_path, [make_result()])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"diagnostics": {"layer": "a"}}))
    found = find_runs([tmp_path])
    assert len(found.runs) == 1
    assert "diagnostics: expected a list" in found.problems[0]


def test_maps_show_means_over_results(tmp_path: Path) -> None:
    """Of conditions geometric means: 1 and 100 are 10."""
    results = [diagnosed(make_result("regmean", seed=seed), factor) for seed, factor in ((1, 1.0), (2, 4.0))]
    section = read_back(tmp_path, [*results, make_result("simple")])
    (chart,) = layer_charts(section, FileNames())
    figure = Figure(figsize=chart.size)
    chart.draw(figure)
    conditions, distances, moved = (axes for axes in figure.axes if axes.images)

    shown = np.asarray(conditions.images[0].get_array())
    assert [text.get_text() for text in conditions.get_yticklabels()] == ["tec", "isear", "as solved"]
    assert shown[2] == pytest.approx([20.0, 200.0, 2000.0], rel=1e-5)
    assert shown[0] == pytest.approx([math.sqrt(2 * 8)] * 3, rel=1e-5)
    assert isinstance(conditions.images[0].norm, LogNorm)
    assert np.asarray(distances.images[0].get_array()) == pytest.approx(np.array([[0.9, 1.0, 1.1], [0.91, 1.01, 1.11]]))
    assert distances.images[0].norm(1.0) == pytest.approx(0.5)  # white
    assert np.asarray(moved.images[0].get_array()) == pytest.approx(np.array([[0.25, 0.5, 0.75]]))
    assert [text.get_text() for text in moved.get_xticklabels()] == list(LAYERS)
    assert "from 0.25 (merge, encoder.layer.0.query) to 0.75 (merge, head)" in chart.description


def test_results_of_earlier_versions_have_a_map_of_what_they_tell(tmp_path: Path) -> None:
    section = read_back(tmp_path, [diagnosed(make_result("regmean"), moved=False)])
    (chart,) = layer_charts(section, FileNames())
    figure = Figure(figsize=chart.size)
    chart.draw(figure)
    (axes,) = (axes for axes in figure.axes if axes.images)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["as solved"]


def test_many_layers_are_told_apart_by_the_numbers_of_blocks() -> None:
    result = make_result("regmean")
    result.diagnostics = [
        {"layer": f"encoder.layer.{block}.{part}", "condition": 10.0 + block}
        for block in range(10)
        for part in ("query", "key", "value")
    ]
    section = section_of([result])
    (row,) = section.columns[0].rows
    (entry,) = row.entries.values()
    object.__setattr__(entry.run, "layers", layers_of(result.diagnostics))
    (chart,) = layer_charts(section, FileNames())
    figure = Figure(figsize=chart.size)
    chart.draw(figure)
    (axes,) = (axes for axes in figure.axes if axes.images)
    assert [text.get_text() for text in axes.get_xticklabels()] == [str(block) for block in range(10)]
    assert list(axes.get_xticks()) == [3 * block for block in range(10)]


def test_layers_are_ordered_by_the_numbers_in_their_names_whatever_the_order_of_the_merge() -> None:
    named = [f"layer.{number}.x" for number in (10, 2, 1)]
    layers, (panel,) = panels_of(
        [found for found in [layers_of([{"layer": n, "condition": 5.0} for n in named])] if found]
    )
    assert layers == ["layer.1.x", "layer.2.x", "layer.10.x"]
    assert panel.lines == {"as solved": pytest.approx([5.0] * 3)}


def test_colours_of_distances_are_symmetric_around_that_of_the_mean() -> None:
    """Half as far and twice as far are equally far from white, and a member itself is as dark as can be."""
    rows = [{"layer": name, "distances": {"a": value}} for name, value in (("x", 2.0), ("y", 0.8), ("z", 0.0))]
    found = layers_of(rows)
    assert found is not None
    _, (panel,) = panels_of([found])
    norm = panel.norm(panel.known)
    assert (norm.vmin, norm.vmax) == pytest.approx((0.5, 2.0))
    assert [norm(value) for value in (0.5, 1.0, 2.0)] == pytest.approx([0.0, 0.5, 1.0])


def test_rows_without_diagnostics_have_no_map(tmp_path: Path) -> None:
    assert layer_charts(read_back(tmp_path, [make_result("simple"), make_result("fisher")]), FileNames()) == []


def test_the_files_show_each_cell_of_a_map(tmp_path: Path) -> None:
    section = read_back(tmp_path, [diagnosed(make_result("regmean"))])
    png, svg = layer_charts(section, FileNames())[0].files()
    assert png.startswith(b"\x89PNG")
    assert svg.count("<image") >= 3
    assert "pixelated" in svg
