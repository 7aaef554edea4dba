from __future__ import annotations

import io
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from regmean_lab.report.member_names import member_names
from regmean_lab.report.rows import ordered_methods, rows_of
from regmean_lab.report.summary import MEAN_IN, MEAN_OUT, markdown_table, print_table, score_table
from regmean_lab.results import Result, read_result


def result(
    method: str = "regmean",
    seed: int = 1,
    scores: dict[str, float] | None = None,
    outside: dict[str, float] | None = None,
    **configuration: Any,
) -> Result:
    inside = scores or {"tec": 50.0, "isear": 60.0}
    outside = {"emoint": 40.0} if outside is None else outside
    return Result(
        fingerprint="",
        experiment="x",
        suite="emotion",
        model="pico_bert",
        method=method,
        members=list(inside),
        seed=seed,
        head_init="same",
        scores={"in_domain": inside, "out_of_domain": outside},
        mean_in_domain=statistics.fmean(inside.values()),
        mean_out_of_domain=statistics.fmean(outside.values()) if outside else None,
        metrics={},
        seconds={},
        peak_memory_bytes=1,
        environment={},
        data_fingerprint="",
        zoo={},
        configuration={
            "suite": {"name": "emotion"},
            "model": {"name": "pico_bert", "checkpoint": "pico:bert"},
            "method": {"name": method},
            "training": {"learning_rate": 1e-5},
            "statistics": {"gram": {"examples": 5}},
            "seed": seed,
            **configuration,
        },
    )


def cells(results: list[Result], row: str) -> dict[str, str]:
    table = score_table(results)
    (values,) = [values for label, values in table.rows if label == row]
    shown = ["" if cell.mean is None else cell.text for cell in values]
    return {heading.name: text for heading, text in zip(table.headings, shown, strict=True)}


def columns(results: list[Result]) -> list[str]:
    return [heading.name for heading in score_table(results).headings]


class TestRows:
    def test_comparators_come_first_and_unknown_methods_last(self) -> None:
        given = ["new", "regmean", "simple", "regmean", "ensemble", "individual", "newer"]
        assert ordered_methods(given) == ["individual", "ensemble", "simple", "regmean", "new", "newer"]

    def test_seeds_and_members_share_a_row(self) -> None:
        results = [result(seed=1), result(seed=2), result(seed=1, scores={"tec": 1.0, "crowdflower": 2.0})]
        assert [(label, len(own)) for label, own in rows_of(results)] == [("regmean", 3)]

    def test_a_file_of_somebodys_own_is_another_method(self, tmp_path: Path) -> None:
        """Results of earlier versions, which do not say the file, are called by their method."""
        own = [replace(result(), method_option="gentle"), replace(result(), method_option="gentler"), result()]
        assert [label for label, _ in rows_of(own)] == ["regmean", "gentle", "gentler"]
        path = own[0].write(tmp_path)
        assert read_result(path).label == "gentle"
        content = json.loads(path.read_text())
        del content["method_option"]
        path.write_text(json.dumps(content))
        assert read_result(path).label == "regmean"

    def test_a_swept_setting_tells_rows_apart(self) -> None:
        results = [result(seed=seed, method="regmean") for seed in (1, 2)]
        swept = [
            replace(one, configuration={**one.configuration, "method": {"name": "regmean", "off_diagonal": value}})
            for one in results
            for value in (0.1, 0.9)
        ]
        assert {label: len(own) for label, own in rows_of(swept)} == {
            "regmean off_diagonal=0.1": 2,
            "regmean off_diagonal=0.9": 2,
        }

    @pytest.mark.parametrize(
        ("configuration", "label"),
        [
            ({"head_init": "different"}, "regmean head_init=different"),
            ({"training": {"learning_rate": 2e-5}}, "regmean learning_rate=2e-05"),
            ({"statistics": {"gram": {"examples": 9}}}, "regmean gram.examples=9"),
            ({"first": 3}, "regmean first=3"),
            ({"model": {"name": "other"}, "training": {"learning_rate": 9.0}}, "regmean model=other"),
        ],
    )
    def test_what_differs_is_in_the_label(self, configuration: dict[str, Any], label: str) -> None:
        assert label in [name for name, _ in rows_of([result(), result(**configuration)])]

    def test_a_setting_that_is_the_seed_under_another_name_is_averaged_over(self) -> None:
        def part(seed: int, partition_seed: int) -> Result:
            return result(seed=seed, suite={"name": "glue_partition", "partition_seed": partition_seed})

        assert [(label, len(own)) for label, own in rows_of([part(1, 1), part(2, 2)])] == [("regmean", 2)]
        own = [label for label, _ in rows_of([part(1, 1), part(1, 2), part(2, 1)])]
        assert own == ["regmean suite.partition_seed=1", "regmean suite.partition_seed=2"]

    def test_settings_of_one_method_do_not_divide_the_others(self) -> None:
        results = [result("simple"), result("regmean"), result("regmean", head_init="different")]
        assert next(label for label, _ in rows_of(results)) == "simple"


class TestCells:
    def test_a_single_score_has_no_deviation(self) -> None:
        assert cells([result()], "regmean") == {
            "tec": "50.00",
            "isear": "60.00",
            MEAN_IN: "55.00",
            "emoint (out)": "40.00",
            MEAN_OUT: "40.00",
        }

    def test_seeds_have_mean_and_sample_deviation(self) -> None:
        values = [50.0, 53.0, 57.5]
        results = [
            result(seed=seed, scores={"tec": value, "isear": 60.0}) for seed, value in enumerate(values, start=1)
        ]
        mean, deviation = sum(values) / 3, (sum((v - sum(values) / 3) ** 2 for v in values) / 2) ** 0.5
        assert cells(results, "regmean")["tec"] == f"{mean:.2f} ± {deviation:.2f}"
        assert cells(results, "regmean")["isear"] == "60.00 ± 0.00"

    def test_several_sets_of_members_have_means_without_deviation(self) -> None:
        results = [
            result(scores={"tec": 50.0, "isear": 60.0}, outside={"emoint": 30.0}),
            result(scores={"tec": 54.0, "crowdflower": 20.0}, outside={"emoint": 40.0}),
        ]
        assert cells(results, "regmean") == {
            "tec": "52.00",
            "isear": "60.00",
            "crowdflower": "20.00",
            MEAN_IN: "46.00",
            "emoint (out)": "35.00",
            MEAN_OUT: "35.00",
        }

    def test_corpora_out_of_domain_have_columns_if_all_results_have_them(self) -> None:
        results = [result(outside={"emoint": 30.0}), result("simple", outside={"emoint": 10.0, "ssec": 20.0})]
        assert columns(results) == ["tec", "isear", MEAN_IN, MEAN_OUT]
        assert cells(results, "simple")[MEAN_OUT] == "15.00"

    def test_without_data_out_of_domain_there_are_no_such_columns(self) -> None:
        assert columns([result(outside={})]) == ["tec", "isear", MEAN_IN]

    def test_what_was_not_measured_is_empty(self) -> None:
        results = [result("simple", scores={"tec": 1.0}), result("regmean", scores={"isear": 2.0})]
        assert cells(results, "simple")["isear"] == ""
        assert cells(results, "regmean")["tec"] == ""

    def test_the_title_tells_what_is_shown(self) -> None:
        assert (
            score_table([result(seed=2), result(seed=1)]).title
            == "emotion, pico_bert: tec+isear, seeds 1, 2; key score × 100"
        )
        assert score_table([result()]).title.endswith("seed 1; key score × 100")

    def test_the_title_names_the_metric_if_all_corpora_are_scored_by_one(self) -> None:
        def titled(**metrics: dict[str, float]) -> str:
            measured = replace(result(scores=dict.fromkeys(metrics, 50.0), outside={}), metrics=metrics)
            return score_table([measured]).title.rpartition("; ")[2]

        both = {"accuracy": 50.0, "macro_f1": 50.0}
        assert titled(tec=both, isear={"accuracy": 60.0, "macro_f1": 50.0}) == "key score (macro_f1) × 100"
        assert titled(tec=both, isear=both) == "key score × 100"
        assert titled(tec={"accuracy": 50.0}, isear={"pearson": 50.0}) == "key score × 100"


class TestLayout:
    RESULTS = (
        result("simple", scores={"tec": 50.001, "isear": 60.0}),
        result("regmean", scores={"tec": 50.004, "isear": 59.0}),
        result("fisher", scores={"tec": 40.0, "isear": 59.0}),
    )

    def test_markdown_has_a_line_for_each_row_and_the_best_in_bold(self) -> None:
        lines = markdown_table(score_table(self.RESULTS)).splitlines()
        assert lines[2:5] == [
            "| method | tec | isear | mean in domain | emoint (out) | mean out of domain |",
            "|---|---:|---:|---:|---:|---:|",
            "| simple | **50.00** | **60.00** | **55.00** | 40.00 | 40.00 |",
        ]
        assert lines[5].startswith("| fisher | 40.00 | 59.00 |")
        assert lines[6].startswith("| regmean | **50.00** | 59.00 |")  # equal as far as it is shown

    def test_where_all_rows_are_equal_none_is_best(self) -> None:
        zero = {"tec": 0.0, "isear": 0.0}
        results = [result("simple", scores=zero), result("regmean", scores=zero)]
        assert "**" not in markdown_table(score_table(results))

    def test_a_lone_row_has_no_best(self) -> None:
        assert "**" not in markdown_table(score_table([result()]))

    def test_the_terminal_shows_the_same(self) -> None:
        stream = io.StringIO()
        print_table(score_table(self.RESULTS), Console(file=stream, width=160))
        shown = stream.getvalue()
        for text in ("simple", "regmean", "50.00", "60.00", "40.00", "mean out of domain"):
            assert text in shown
        assert "[bold]" not in shown

    def test_labels_with_lists_are_shown_as_they_are(self) -> None:
        results = [
            result(method="simple"),
            replace(result(), configuration={"method": {"name": "regmean", "coefficients": [0.2, 0.8]}}),
            replace(result(), configuration={"method": {"name": "regmean", "coefficients": [0.5, 0.5]}}),
        ]
        stream = io.StringIO()
        print_table(score_table(results), Console(file=stream, width=200))
        assert "coefficients=[0.2, 0.8]" in stream.getvalue()

    def test_names_that_look_like_markup_are_shown_as_they_are(self) -> None:
        table = score_table([result("[bold]a|b")])
        stream = io.StringIO()
        print_table(table, Console(file=stream, width=200))
        assert "[bold]a|b" in stream.getvalue()
        assert r"| \[bold\]a\|b |" in markdown_table(table)


def test_merges_show_what_they_keep_of_their_members() -> None:
    merged = [
        replace(result("regmean", seed=seed), divergence={"gap_closed": gap, "agreement": 90.0, "kl": 1})
        for seed, gap in ((1, 20.0), (2, 30.0))
    ]
    table = [*merged, result("individual", seed=1)]
    assert columns(table)[-2:] == ["gap closed", "agreement"]
    assert cells(table, "regmean")["gap closed"].startswith("25.00")
    assert cells(table, "individual")["gap closed"] == ""
    assert "gap closed" not in columns([result(seed=1)])


class TestWhatIsMissing:
    """A row without something that others have is told from complete ones, and is the best of nothing."""

    def test_a_seed(self) -> None:
        every = [result("simple", seed) for seed in (1, 2, 3)]
        every += [result("regmean", seed, {"tec": 90.0, "isear": 91.0}) for seed in (1, 3)]
        shown = markdown_table(score_table(every, alike=True))
        assert "90.00 ± 0.00 (2 of 3)" in shown and "**90.00" not in shown
        assert " of 3)" not in markdown_table(score_table(every[:3], alike=True))
        assert " of 3)" not in markdown_table(score_table(every))  # of checkpoints that are scored, say

    def test_nothing_where_members_follow_from_what_is_compared(self) -> None:
        """More members in each row, the same in another order, and two suites."""
        longer = {"tec": 50.0, "isear": 60.0, "ssec": 70.0}
        rows = [result("simple", seed, first=2) for seed in (1, 2)]
        rows += [result("simple", seed, longer, first=3) for seed in (1, 2)]
        rows += [result("simple", seed, dict(reversed(longer.items())), order="greedy") for seed in (1, 2)]
        rows += [replace(result("simple", seed, longer), suite="other") for seed in (1, 2)]
        assert not re.search(r"\(\d of \d\)", markdown_table(score_table(rows, alike=True)))

    def test_joint_training_stands_beside_merges_of_checkpoints(self) -> None:
        places = {name: {"from": name, "fingerprint": name} for name in ("tec", "isear")}
        merged = replace(result("simple"), checkpoints=places)
        assert member_names([result("multitask"), merged]) == [("tec", "isear"), ("tec", "isear")]
        other = replace(merged, checkpoints={**places, "tec": {"from": "tec", "fingerprint": "new"}})
        assert member_names([merged, other, result("simple")]) == [
            ("tec=tec (tec)", "isear=isear"),
            ("tec=tec (new)", "isear=isear"),
            ("tec (trained)", "isear (trained)"),
        ]

    def test_other_checkpoints_for_the_same_corpora_are_another_set(self) -> None:
        def given(method: str, version: str, score: float, seed: int = 1) -> Result:
            places = {
                name: {"from": f"{version}/{name}", "fingerprint": f"{version}-{name}"} for name in ("tec", "isear")
            }
            return replace(result(method, seed, {"tec": score, "isear": score}), checkpoints=places)

        both = score_table([given("simple", "v1", 90.0), given("simple", "v2", 100.0)])
        assert "2 sets of members" in both.title
        ((_, cells_of_row),) = both.rows
        assert cells_of_row[0].text == "95.00"  # no deviation: it would be taken for that of seeds
        apart = markdown_table(score_table([given("simple", "v1", 90.0), given("regmean", "v2", 100.0)], alike=True))
        assert "90.00 (1 of 2)" in apart and "100.00 (1 of 2)" in apart and "**" not in apart
        same = markdown_table(score_table([given("simple", "v1", 90.0), given("regmean", "v1", 100.0)], alike=True))
        assert "**100.00**" in same and " of 2" not in same
