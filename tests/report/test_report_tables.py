from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from report_results import CORPORA, OUTSIDE, cell_of, make_result, off_diagonal, pairwise, runs_of, section_of, without

from regmean_lab.report.entries import Entry, entries_of
from regmean_lab.report.grid import sections_of
from regmean_lab.report.tables import (
    corpus_table,
    members_table,
    overview,
)
from regmean_lab.results import Result


def seed_statistics(
    results: Sequence[Result], method: str, value: Callable[[Result], float | None]
) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds of the means over members, by numpy."""
    own = [result for result in results if result.method == method]
    means = [
        np.mean([score for result in own if result.seed == seed and (score := value(result)) is not None])
        for seed in sorted({result.seed for result in own})
    ]
    return float(np.mean(means)), float(np.std(means, ddof=1))


@pytest.mark.parametrize("method", ["individual", "simple", "regmean"])
def test_a_cell_is_the_mean_and_deviation_over_seeds_of_means_over_members(method: str) -> None:
    results = pairwise(seeds=(1, 2, 3, 4))
    table = overview(section_of(results), "t")

    inside = cell_of(table, method, "in domain")
    outside = cell_of(table, method, "out of domain")

    assert (inside.mean, inside.deviation) == pytest.approx(
        seed_statistics(results, method, lambda result: result.mean_in_domain)
    )
    assert (outside.mean, outside.deviation) == pytest.approx(
        seed_statistics(results, method, lambda result: result.mean_out_of_domain)
    )
    assert (inside.runs, inside.seeds, inside.state) == (24, 4, "complete")


def test_a_single_seed_has_no_deviation() -> None:
    cell = cell_of(overview(section_of([make_result()]), "t"), "simple", "in domain")

    assert (cell.deviation, cell.runs) == (None, 1)


def test_corpora_are_averaged_over_the_sets_of_members_that_include_them() -> None:
    results = pairwise(seeds=(1, 2, 3))
    section = section_of(results)
    table = corpus_table(section, section.columns[0], "t")

    assert [heading.full for heading in table.headings] == [
        *(f"in domain, {corpus}" for corpus in CORPORA),
        *(f"out of domain, {corpus}" for corpus in OUTSIDE),
    ]
    cell = cell_of(table, "regmean", "in domain, isear")
    expected = seed_statistics(results, "regmean", lambda result: result.scores["in_domain"].get("isear"))
    assert (cell.mean, cell.deviation) == pytest.approx(expected)
    assert (cell.runs, cell.state) == (9, "complete")


def test_each_set_of_members_is_a_row_of_its_own() -> None:
    results = pairwise(seeds=(1, 2, 3))
    section = section_of(results)
    table = members_table(section, section.columns[0], "in domain", "t")

    assert [label for label, _ in table.rows] == [" + ".join(pair) for pair in itertools.combinations(CORPORA, 2)]
    cell = cell_of(table, "tec + isear", "fisher")
    scores = [r.mean_in_domain for r in results if r.method == "fisher" and r.members == ["tec", "isear"]]
    assert (cell.mean, cell.deviation) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))


def test_a_score_of_which_results_are_missing_is_incomplete_and_not_the_best() -> None:
    results = without(pairwise(("simple", "regmean")), "regmean", ("tec", "isear"), 2)
    table = overview(section_of(results), "t")

    cell = cell_of(table, "regmean", "in domain")

    assert (cell.state, cell.runs, cell.expected) == ("incomplete", 17, 18)
    assert [(absent.members, absent.seed) for absent in cell.absent] == [(("tec", "isear"), 2)]
    assert table.best == set()


def test_a_cell_without_results_is_missing() -> None:
    results = pairwise(("simple", "regmean"), (1,)) + pairwise(("simple",), (1,), head_init="different")
    cell = cell_of(overview(section_of(results), "t"), "regmean", "head init different, in domain")

    assert (cell.state, cell.mean_text, cell.expected) == ("missing", "missing", 6)


def test_what_cannot_be_measured_is_not_missing() -> None:
    # The last set of members leaves no corpus out of domain.
    results = [make_result(method, ("a", "b")) for method in ("simple", "regmean")]
    results += [make_result(method, ("a", "b", "c"), outside=()) for method in ("simple", "regmean")]
    section = section_of(results)
    table = overview(section, "t")

    assert [heading.full for heading in table.headings] == [
        "2 members, in domain",
        "2 members, out of domain",
        "3 members, in domain",
    ]

    mixed = [make_result("simple", ("a", "b")), make_result("simple", ("a", "c"), outside=())]
    cell = cell_of(overview(section_of(mixed), "t"), "simple", "out of domain")
    assert (cell.state, cell.runs) == ("complete", 1)


def test_a_score_that_is_not_a_number_counts_as_missing() -> None:
    broken = make_result("regmean", seed=2)
    broken.mean_in_domain = None  # type: ignore[assignment]
    results = [make_result("regmean", seed=1), broken]

    cell = cell_of(
        overview(section_of([*results, make_result(seed=1), make_result(seed=2)]), "t"), "regmean", "in domain"
    )

    assert (cell.state, cell.runs, cell.expected) == ("incomplete", 1, 2)


def test_a_definition_says_what_is_missing_and_what_was_never_wanted() -> None:
    entries: list[Entry] = entries_of(runs_of([make_result("simple"), make_result("regmean")]))
    measured, expected = entries
    missing = Entry(
        measured.experiment, "regmean", measured.column, expected.row, measured.members, 2, 2, None, "the command"
    )
    (section,) = sections_of([*entries, missing], "table2")
    table = overview(section, "t")

    assert cell_of(table, "simple", "in domain").state == "complete"
    cell = cell_of(table, "regmean", "in domain")
    assert [absent.command for absent in cell.absent] == ["the command"]

    other = entries_of(runs_of([make_result("simple", model="t5")]))
    (section,) = sections_of([*entries, *other], "table2")
    assert cell_of(overview(section, "t"), "regmean", "t5, in domain").state == "not applicable"


def test_an_expected_column_without_results_has_the_domains_of_its_suite() -> None:
    (entry,) = entries_of(runs_of([make_result()]))
    column = {**entry.column, "head_init": "different"}
    missing = Entry(entry.experiment, "simple", column, entry.row, entry.members, 2, 1, None, "")
    (section,) = sections_of([entry, missing], "table2")

    assert [heading.full for heading in overview(section, "t").headings] == [
        "head init same, in domain",
        "head init same, out of domain",
        "head init different, in domain",
        "head init different, out of domain",
    ]


def scored(method: str, score: float, members: Sequence[str] = ("a", "b")) -> Result:
    return make_result(
        method, members, scores={"in_domain": dict.fromkeys(members, score), "out_of_domain": {}}, outside=()
    )


def test_scores_that_look_equal_are_equally_good() -> None:
    section = section_of([scored("simple", 50.001), scored("fisher", 49.999), scored("regmean", 49.99)])

    assert overview(section, "t").best == {(0, 0), (1, 0)}


def test_the_best_of_each_row_is_marked_in_tables_by_members() -> None:
    results = [scored("simple", 50), scored("regmean", 40), scored("simple", -9, "bc"), scored("regmean", -8, "bc")]
    section = section_of(results)

    assert members_table(section, section.columns[0], "in domain", "t").best == {(0, 0), (1, 1)}
    assert overview(section, "t").best == {(0, 0)}


def test_one_score_alone_is_not_the_best() -> None:
    assert overview(section_of([scored("simple", 50)]), "t").best == set()


def test_captions_say_how_many_results_and_seeds_there_are() -> None:
    table = overview(section_of(off_diagonal()), "t")

    assert table.common_runs == 3
    assert "Every score is of 3 results (3 seeds)" in table.caption
    assert "sample standard deviation over seeds" in table.caption

    section = section_of(pairwise(seeds=(1,)))
    assert "deviation" not in overview(section, "t").caption
    corpora = corpus_table(section, section.columns[0], "t")
    assert corpora.common_runs is None
    assert "number of results" in corpora.caption
