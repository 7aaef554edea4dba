from __future__ import annotations

import itertools
from itertools import product
from statistics import mean

import numpy as np
import pytest
from report_results import make_result, off_diagonal, pairwise, section_of

from regmean_lab.report.significance import (
    cells_of_test,
    comparisons,
    crossed_interval,
    holm,
    mean_interval,
    paired_test,
    reference_row,
)


def exact_signed_rank(differences: list[float]) -> float:
    """Two-sided p by counting all signs, for distinct differences without zeros."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = ranks[np.asarray(differences) > 0].sum()
    half = len(ranks) * (len(ranks) + 1) / 4
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    return float(np.mean([abs(total - half) >= abs(observed - half) for total in sums]))


@pytest.mark.parametrize("seed", range(6))
def test_p_is_that_of_counting_all_signs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    differences = list(generator.normal(0.4, 1.0, size=5 + seed))

    assert paired_test(differences).probability == pytest.approx(exact_signed_rank(differences))


def test_the_interval_is_that_of_the_mean_of_many_differences() -> None:
    differences = np.random.default_rng(3).normal(2.0, 1.0, size=400)
    test = paired_test(list(differences))
    half = 1.96 * differences.std(ddof=0) / 20

    assert test.difference == pytest.approx(differences.mean())
    # The error of a percentile of 10,000 draws is a few per cent of the half width.
    assert (test.low, test.high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=half / 10)


def test_the_interval_of_equal_differences_is_their_value() -> None:
    test = paired_test([0.5] * 5)

    assert (test.difference, test.low, test.high) == (0.5, 0.5, 0.5)


def test_the_bootstrap_is_the_same_every_time() -> None:
    differences = [0.3, -0.1, 0.7, 0.2, 0.05]

    assert paired_test(differences) == paired_test(differences)


def test_no_difference_at_all_has_p_one() -> None:
    test = paired_test([0.0] * 6)

    assert (test.probability, test.low, test.high) == (1.0, 0.0, 0.0)


def test_fewer_than_five_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="4 paired scores; at least 5"):
        paired_test([1.0, 2.0, 3.0, 4.0])


def test_holm_multiplies_by_the_number_of_tests_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_every_row_is_compared_with_the_reference_over_members_and_seeds() -> None:
    results = pairwise(("individual", "simple", "regmean"), (1, 2))
    found = comparisons(section_of(results), "simple")

    assert [(one.domain, one.label, one.pairs) for one in found] == [
        ("in domain", "individual", 12),
        ("in domain", "regmean", 12),
        ("out of domain", "individual", 12),
        ("out of domain", "regmean", 12),
    ]
    scores = {(r.method, *r.members, r.seed): r.mean_in_domain for r in results}
    differences = [score - scores[("simple", *key[1:])] for key, score in scores.items() if key[0] == "regmean"]
    test = found[1].test
    assert test is not None
    assert test.difference == pytest.approx(np.mean(differences))
    assert test.probability == pytest.approx(exact_signed_rank(differences))
    assert found[1].adjusted == pytest.approx(min(1.0, 2 * test.probability))


def test_only_common_members_and_seeds_are_paired() -> None:
    results = pairwise(("simple",), (1, 2)) + pairwise(("regmean",), (2, 3))

    assert [one.pairs for one in comparisons(section_of(results), "simple")] == [6, 6]


def test_where_no_row_has_enough_pairs_one_line_says_so() -> None:
    results = [make_result(m, seed=s) for m in ("simple", "fisher", "regmean") for s in (1, 2, 3, 4)]
    found = comparisons(section_of(results), "simple")

    assert [(one.label, one.test) for one in found] == [("all rows", None)] * 2
    assert found[0].reason == "not tested: 4 paired scores, at least 5 are needed"
    assert cells_of_test(found[0])[3:] == [found[0].reason]


def test_a_reference_that_is_not_there_is_said() -> None:
    found = comparisons(section_of(pairwise(("fisher", "regmean"), (1,))), "simple")

    assert {one.reason for one in found} == {"there is no result of simple to compare with"}


def test_a_reference_with_several_rows_must_be_named_in_full() -> None:
    (column,) = section_of(off_diagonal((0.0, 0.5))).columns

    row, reason = reference_row(column, "regmean")
    assert row is None
    assert "regmean off_diagonal=0, regmean off_diagonal=0.5" in reason
    row, _ = reference_row(column, "regmean off_diagonal=0.5")
    assert row is not None
    assert row.settings["method.off_diagonal"] == "0.5"


def test_one_row_alone_is_compared_with_nothing() -> None:
    assert comparisons(section_of(pairwise(("simple",))), "simple") == []


def test_numbers_have_signs_and_small_probabilities_a_bound() -> None:
    results = pairwise(("simple", "regmean"), (1, 2))
    (inside, _) = comparisons(section_of(results), "simple")
    cells = cells_of_test(inside)

    assert cells[:4] == ["emotion, roberta_base", "in domain", "regmean", "12"]
    assert cells[4].startswith("+")
    assert cells[6] == "< 0.001"


def test_jobs_that_share_sets_and_seeds_are_drawn_together() -> None:
    """Against all outcomes of two sets and two seeds, drawn with replacement: by hand, with their probabilities."""
    values = {("a", 1): 0.0, ("a", 2): 4.0, ("b", 1): 10.0, ("b", 2): 30.0}
    outcomes = []
    for sets in product("ab", repeat=2):
        for seeds in product((1, 2), repeat=2):
            outcomes.append(mean(values[one, other] for one in sets for other in seeds))
    low, high = crossed_interval(list(values.values()), [one for one, _ in values], [seed for _, seed in values])
    assert (low, high) == (min(outcomes), max(outcomes))  # each has a probability of at least 1/16
    assert (low, high) == (0.0, 30.0)


def test_with_one_seed_the_interval_is_that_of_the_sets() -> None:
    values = [3.0, 5.0, 8.0, 1.0, 9.0, 4.0]
    expected = mean_interval(values)
    found = crossed_interval(values, list("abcdef"), [1] * 6)
    assert found == pytest.approx(expected, abs=0.1)  # other draws


def test_sets_without_some_seed_count_as_often_as_they_are_drawn() -> None:
    """Draws of a set and a seed that no job has are left out."""
    assert crossed_interval([2.0, 4.0], ["a", "b"], [1, 2]) == (2.0, 4.0)
    with pytest.raises(ValueError, match="no values"):
        crossed_interval([], [], [])
