from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from report_results import (
    gram_examples,
    incremental,
    make_result,
    off_diagonal,
    pairwise,
    section_of,
    without,
)

from regmean_lab.report.charts import Chart, charts_of
from regmean_lab.report.charts.chart import INK, inline_svg, styles_of
from regmean_lab.report.charts.gains import pair_gains
from regmean_lab.report.files import FileNames
from regmean_lab.results import Result

OKABE_ITO = {"#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#000000", INK}


def charts(results: Sequence[Result], reference: str = "simple") -> dict[str, Chart]:
    """Charts of some results by what their titles say before the bracket."""
    found = charts_of(section_of(results), reference, FileNames())
    return {chart.title.partition(": ")[2].partition(" (")[0]: chart for chart in found}


def drawn(chart: Chart) -> list[Axes]:
    figure = Figure(figsize=chart.size)
    chart.draw(figure)
    return figure.axes


def curve(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    x, y = line.get_data()
    return list(np.asarray(x, float)), list(np.asarray(y, float))


def test_the_number_of_members_makes_curves() -> None:
    results = incremental()
    found = charts(results)

    assert list(found) == ["scores against the number of members"]
    inside, outside = drawn(found["scores against the number of members"])
    for axes, value in ((inside, "mean_in_domain"), (outside, "mean_out_of_domain")):
        x, y = curve(axes, "regmean")
        expected = [
            np.mean([getattr(r, value) for r in results if r.method == "regmean" and len(r.members) == count])
            for count in (2, 3, 4)
        ]
        assert x == [2, 3, 4]
        assert y == pytest.approx(expected)


def test_bands_are_one_standard_deviation_wide() -> None:
    results = incremental(("simple",), (1, 2, 3, 4))
    inside, _ = drawn(charts(results)["scores against the number of members"])
    (band,) = inside.collections
    vertices = band.get_paths()[0].vertices
    at_two = sorted({round(y, 9) for x, y in np.asarray(vertices) if x == 2})
    scores = [r.mean_in_domain for r in results if len(r.members) == 2]

    assert at_two == pytest.approx(
        [np.mean(scores) - np.std(scores, ddof=1), np.mean(scores) + np.std(scores, ddof=1)], abs=1e-6
    )


def test_the_off_diagonal_factor_makes_a_curve_beside_other_methods() -> None:
    results = off_diagonal((0.0, 0.5, 0.9, 1.0))
    found = charts(results)

    assert list(found) == ["scores against the off-diagonal factor"]
    inside, _ = drawn(found["scores against the off-diagonal factor"])
    x, y = curve(inside, "regmean")
    assert x == [0.0, 0.5, 0.9, 1.0]
    assert y[1] == pytest.approx(
        np.mean([r.mean_in_domain for r in results if r.configuration["method"].get("off_diagonal") == 0.5])
    )
    _, level = curve(inside, "simple")
    assert level == pytest.approx([np.mean([r.mean_in_domain for r in results if r.method == "simple"])] * 2)


def test_two_values_of_a_setting_do_not_hide_the_charts_of_many_other_methods() -> None:
    """As in a comparison of all methods, where RegMean has a row with another factor."""
    few = off_diagonal((0.9, 1.0))
    others = [
        make_result(method, seed=seed, experiment="off_diagonal")
        for method in ("fisher", "ties", "dare")
        for seed in (1, 2, 3)
    ]
    assert list(charts(few)) == ["scores against the off-diagonal factor"]
    assert {"scores against the off-diagonal factor", "mean scores"} <= {
        title.partition(" (")[0] for title in charts([*few, *others])
    }


def test_sample_sizes_make_a_curve_with_a_logarithmic_axis() -> None:
    found = charts(gram_examples((1, 16, 256, 4096)))

    assert list(found) == ["scores against the Gram examples"]
    inside, _ = drawn(found["scores against the Gram examples"])
    assert inside.get_xscale() == "log"
    assert curve(inside, "regmean")[0] == [1, 16, 256, 4096]


def test_coefficients_of_two_members_make_a_curve() -> None:
    results = [make_result(settings={"coefficients": [c, 1 - c]}) for c in (0.0, 0.25, 1.0)]

    (chart,) = charts(results).values()

    assert curve(drawn(chart)[0], "simple")[0] == [0.0, 0.25, 1.0]


def test_other_settings_are_other_curves() -> None:
    results = [
        make_result("regmean", settings={"off_diagonal": value, "diagonal": diagonal})
        for value in (0.1, 0.9)
        for diagonal in (False, True)
    ]
    inside, _ = drawn(charts(results)["scores against the off-diagonal factor"])

    assert {line.get_label() for line in inside.get_lines()} == {"regmean diagonal=false", "regmean diagonal=true"}


def test_pairs_make_heat_maps_of_the_gain_over_the_reference() -> None:
    found = charts(pairwise(("simple", "fisher", "regmean")))

    assert list(found) == [
        "gain over simple of each pair, in domain",
        "gain over simple of each pair, out of domain",
        "mean scores",
        "out of domain against in domain",
    ]
    panels = drawn(found["gain over simple of each pair, in domain"])
    assert [axes.get_title() for axes in panels] == ["fisher", "regmean"]
    assert [len(axes.patches) for axes in panels] == [6, 6]


def test_a_gain_is_the_mean_difference_over_common_seeds() -> None:
    results = pairwise(("simple", "regmean"), (1, 2)) + pairwise(("regmean",), (3,))
    column = section_of(results).columns[0]
    base, row = column.row("simple"), column.row("regmean")
    assert base is not None
    assert row is not None

    gains = pair_gains(row, base, column.member_sets, "out of domain")

    score = {(r.method, *r.members, r.seed): r.mean_out_of_domain for r in results}
    for (one, other), gain in gains.items():
        differences = [score["regmean", one, other, seed] - score["simple", one, other, seed] for seed in (1, 2)]
        assert gain == pytest.approx(np.mean(differences))


def test_a_pair_without_a_result_is_marked_as_missing() -> None:
    results = without(pairwise(("simple", "regmean"), (1,)), "regmean", ("tec", "isear"), 1)
    chart = charts(results)["gain over simple of each pair, in domain"]
    (panel,) = drawn(chart)

    assert [patch.get_hatch() for patch in panel.patches].count("///") == 1
    assert [text.get_text() for text in panel.texts].count("missing") == 1
    assert "1 missing" in chart.description


def test_colours_of_gains_are_symmetric_around_zero() -> None:
    def scored(method: str, pair: Sequence[str], score: float) -> Result:
        return make_result(method, pair, scores={"in_domain": dict.fromkeys(pair, score), "out_of_domain": {}})

    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    results = [scored("simple", pair, 50.0) for pair in pairs]
    results += [scored("regmean", pair, 50.0 + gain) for pair, gain in zip(pairs, (2.0, -2.0, 0.0), strict=True)]
    (panel,) = drawn(charts(results)["gain over simple of each pair, in domain"])
    colours = {
        text.get_text(): to_hex(patch.get_facecolor()) for patch, text in zip(panel.patches, panel.texts, strict=True)
    }

    scale = colormaps["PuOr"]
    assert colours == {"+2.0": to_hex(scale(1.0)), "-2.0": to_hex(scale(0.0)), "+0.0": to_hex(scale(0.5))}


def test_without_a_reference_there_are_no_gains() -> None:
    assert not any("gain over" in title for title in charts(pairwise(("fisher", "regmean"))))
    assert any("gain over fisher" in title for title in charts(pairwise(("fisher", "regmean")), "fisher"))


def test_both_domains_make_a_scatter_of_means_over_members() -> None:
    results = pairwise(("simple", "regmean"), (1, 2))
    (axes,) = drawn(charts(results)["out of domain against in domain"])

    x, y = curve(axes, "regmean")

    own = [r for r in results if r.method == "regmean"]
    assert x == pytest.approx([np.mean([r.mean_in_domain for r in own])])
    assert y == pytest.approx([np.mean([r.mean_out_of_domain for r in own])])


def scored(method: str, inside: float, outside: float, seed: int = 1) -> Result:
    scores = {"in_domain": {"tec": inside, "isear": inside}, "out_of_domain": {"emoint": outside}}
    return make_result(method, seed=seed, scores=scores)


def test_methods_that_no_other_one_beats_in_both_domains_are_marked() -> None:
    results = [
        scored("individual", 99.0, 99.0),  # no merge
        scored("simple", 50.0, 50.0),
        scored("fisher", 60.0, 50.0),  # as good in one domain and better in the other
        scored("regmean", 55.0, 58.0),
        scored("ties", 54.0, 58.0),
        scored("dare", 60.0, 50.0),  # equal to another
    ]
    chart = charts(results)["out of domain against in domain"]
    (axes,) = drawn(chart)
    front = [line for line in axes.get_lines() if line.get_label() == "not dominated"]

    assert [list(part) for part in front[0].get_data()] == [[55.0, 60.0, 60.0], [58.0, 50.0, 50.0]]
    assert sorted(text.get_text() for text in axes.texts) == ["dare", "fisher", "regmean"]
    assert chart.description.endswith("Of the merges no other is better in both than regmean, fisher, dare.")


def test_a_method_of_which_results_are_missing_dominates_nothing() -> None:
    results = [scored("simple", 50.0, 50.0, seed) for seed in (1, 2)] + [scored("regmean", 60.0, 60.0)]
    (axes,) = drawn(charts(results)["out of domain against in domain"])

    assert [text.get_text() for text in axes.texts] == ["simple"]


def test_of_many_methods_those_that_are_dominated_are_not_told_apart() -> None:
    results = [scored(f"m{number}", 50.0 + number, 50.0) for number in range(20)] + [scored("individual", 90.0, 90.0)]
    (axes,) = drawn(charts(results)["out of domain against in domain"])

    labels = {line.get_label() for line in axes.get_lines() if not str(line.get_label()).startswith("_")}
    assert labels == {"not dominated", "individual", "m19", "19 others"}


def test_one_domain_makes_no_scatter() -> None:
    results = pairwise(("simple", "regmean"), (1,), outside=())

    assert list(charts(results)) == ["gain over simple of each pair, in domain", "mean scores"]


def test_one_row_alone_makes_no_chart() -> None:
    assert charts([make_result()]) == {}


def test_rows_are_told_apart_by_colour_and_marker() -> None:
    labels = ["individual", "simple", "fisher", "regmean", *(f"regmean x={number}" for number in range(40))]
    styles = styles_of(labels)

    assert {style.colour.lower() for style in styles.values()} <= OKABE_ITO
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(labels)
    assert styles_of(["regmean", "other"])["regmean"] == styles["regmean"]
    known = [styles_of([name])[name] for name in ("individual", "simple", "fisher", "regmean", "ensemble", "multitask")]
    assert len({style.colour for style in known}) == len({str(style.line) for style in known}) == len(known)


def test_files_are_an_image_and_a_drawing_and_the_same_every_time() -> None:
    (chart,) = charts(incremental()).values()
    png, svg = chart.files()

    image = Image.open(io.BytesIO(png)).convert("L")
    assert image.width == pytest.approx(chart.size[0] * 160, abs=1)
    assert image.getextrema()[0] < 60 < 250 < image.getextrema()[1]
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    (again,) = charts(incremental()).values()
    assert again.files() == (png, svg)


def test_drawings_in_a_page_are_labelled_and_have_names_of_their_own() -> None:
    (chart,) = charts(incremental()).values()
    _, svg = chart.files()

    text = inline_svg(svg, "one", "the title", "the description")

    root = ElementTree.fromstring(text)
    names = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(names) == len(set(names))
    assert all(name is not None and name.startswith("one-") for name in names)
    spelled = {element.get("{http://www.w3.org/1999/xlink}href") for element in root.iter()} - {None}
    assert {reference.removeprefix("#") for reference in spelled if reference} <= set(names)
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "one-title one-desc"
    assert [element.text for element in root[:2]] == ["the title", "the description"]
    assert INK not in text
    assert "currentColor" in text


def test_descriptions_say_the_numbers() -> None:
    results = incremental()
    (chart,) = charts(results).values()

    first = np.mean([r.mean_in_domain for r in results if r.method == "simple" and len(r.members) == 2])
    assert f"simple: {first:.2f} at 2 members" in chart.description


def test_trials_of_a_search_are_drawn_with_the_best_so_far() -> None:
    result = make_result("regmean")
    scores = [60.0, 63.0, 58.0, 64.5, 61.0]
    among = [{"settings": f"method.off_diagonal=0.{number}", "score": score} for number, score in enumerate(scores)]
    result.selection = {
        **{"on": "dev", "by": "mean_in_domain", "keys": ["method.off_diagonal"], "chosen": "method.off_diagonal=0.3"},
        **{"score": 64.5, "among": among, "sampler": "tpe", "seed": 1, "trials": 5, "failed": 0},
    }
    section = section_of([result])
    assert "off_diagonal chosen on dev among 5 trials by tpe" in section.notices[0]
    (chart,) = [one for one in charts([result]).values() if "trials" in one.title]
    (axes,) = drawn(chart)
    dots, best = axes.get_lines()
    assert list(dots.get_ydata()) == scores
    assert list(best.get_ydata()) == [60.0, 63.0, 63.0, 64.5, 64.5]
    assert not any("trials" in one.title for one in charts([make_result("regmean")]).values())
