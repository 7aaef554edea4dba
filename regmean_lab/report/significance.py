"""Whether a row's scores differ from a reference's: paired over members and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from regmean_lab.report.distance_table import GAP, by_key_of_measure, measures_of
from regmean_lab.report.grid import Column, Row, Section
from regmean_lab.report.tables import by_key, domains_of
from regmean_lab.utils.quantities import counted

MINIMUM_PAIRS = 5
"""Fewer paired scores are not tested: no outcome of a signed-rank test of 4 pairs has p below 0.125."""

RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
INTERVAL = 0.95
RESAMPLES_AT_ONCE = 500
"""Bounds the memory of the bootstrap."""


@dataclass(frozen=True)
class PairedTest:
    """Differences of paired scores, and how sure they are.

    Attributes:
        pairs: number of paired scores.
        difference: mean difference.
        low: lower end of the 95 % percentile bootstrap interval of the mean difference.
        high: its upper end.
        probability: two-sided p of Wilcoxon's signed-rank test; 1 where all differences are zero.
    """

    pairs: int
    difference: float
    low: float
    high: float
    probability: float


@dataclass(frozen=True)
class Comparison:
    """One row against the reference, in one column and domain.

    Attributes:
        column: title of the column.
        domain: whether scores in or out of domain are compared, or the gap that merges close.
        label: label of the row.
        reference: label of the reference row.
        pairs: number of paired scores.
        test: what was found, or None where it was not tested.
        adjusted: p after Holm's correction for all rows of the same column and domain.
        reason: why it was not tested.
    """

    column: str
    domain: str
    label: str
    reference: str
    pairs: int = 0
    test: PairedTest | None = None
    adjusted: float | None = None
    reason: str = ""


def comparisons(section: Section, reference: str) -> list[Comparison]:
    """Every row of a section against the reference row of its column.

    Args:
        section: its rows are paired over members and seeds.
        reference: label of a row, or name of a method that has one row.
    """
    found = []
    for column in section.columns:
        base, reason = reference_row(column, reference)
        if len(column.rows) < 2:
            continue
        for domain in [*domains_of(column), *(measure for measure in measures_of(column) if measure == GAP)]:
            if base is None:
                found.append(Comparison(column.title, domain, "all rows", reference, reason=reason))
                continue
            found += _compared(column, domain, base)
    return found


def reference_row(column: Column, reference: str) -> tuple[Row | None, str]:
    """The row that a reference names, or None and why there is none."""
    if (row := column.row(reference)) is not None:
        return row, ""
    rows = [row for row in column.rows if row.method == reference]
    if len(rows) == 1:
        return rows[0], ""
    if rows:
        return None, f"{reference} has several rows ({', '.join(row.label for row in rows)}): name one as reference"
    return None, f"there is no result of {reference} to compare with"


def paired_test(differences: Sequence[float]) -> PairedTest:
    """Bootstrap interval of a mean difference, and Wilcoxon's signed-rank test against zero.

    The bootstrap draws the differences 10,000 times with replacement (seeded: the same differences have the same
    interval) and takes the percentiles of the means. The test is two-sided; differences of zero are left out of it.

    Raises:
        ValueError: for fewer than 5 differences.
    """
    if len(differences) < MINIMUM_PAIRS:
        raise ValueError(f"{len(differences)} paired scores; at least {MINIMUM_PAIRS} are needed")
    import numpy as np
    from scipy.stats import wilcoxon  # takes seconds to import, and many reports have nothing to test

    values = np.asarray(differences, dtype=np.float64)
    low, high = mean_interval(differences)
    probability = float(wilcoxon(values, zero_method="wilcox").pvalue) if values.any() else 1.0
    return PairedTest(len(values), float(values.mean()), low, high, probability)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean; the same values have the same interval."""
    import numpy as np
    from scipy.stats import bootstrap

    interval = bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=RESAMPLES_AT_ONCE,
        confidence_level=INTERVAL,
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def crossed_interval(values: Sequence[float], sets: Sequence[str], seeds: Sequence[int]) -> tuple[float, float]:
    """95 % interval of a mean over jobs that share sets of members and seeds, which makes them alike.

    The pigeonhole bootstrap (Owen, Annals of Applied Statistics, 2007): sets and seeds are drawn with replacement,
    apart from each other, and a job counts as often as its set times as often as its seed. Its variance is at least
    about that of the mean, where a bootstrap that takes jobs for independent has too little. Seeded: the same jobs have
    the same interval.

    Args:
        values: of each job.
        sets: its members.
        seeds: its seed.

    Raises:
        ValueError: for no values.
    """
    import numpy as np

    if not values:
        raise ValueError("no values")
    random = np.random.default_rng(BOOTSTRAP_SEED)
    counts = np.ones((RESAMPLES, len(values)))
    for levels in (sets, seeds):
        names, level_of = np.unique(np.asarray(levels), return_inverse=True)
        drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
        counts *= drawn[:, level_of]
    counts = counts[counts.sum(axis=1) > 0]  # where not every set has every seed, none may be drawn
    means = counts @ np.asarray(values, dtype=np.float64) / counts.sum(axis=1)
    low, high = np.quantile(means, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p values, in their order."""
    import numpy as np  # four lines: SciPy has no correction of Holm, and nothing else here needs statsmodels

    values = np.asarray(probabilities, dtype=np.float64)
    order = values.argsort(kind="stable")
    adjusted = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1.0)
    return [float(p) for p in adjusted[order.argsort()]]


def _compared(column: Column, domain: str, base: Row) -> list[Comparison]:
    """Each row against the reference row, with Holm's correction; one line for all where none is tested."""
    values_of = by_key_of_measure if domain == GAP else by_key
    scores, compared = values_of(base, domain), []
    for row in column.rows:
        if row.label == base.label:
            continue
        own = values_of(row, domain)
        if domain == GAP and not own:
            continue  # no merge
        differences = [own[key] - scores[key] for key in sorted(own.keys() & scores.keys())]
        pairs = len(differences)
        test, reason = (paired_test(differences), "") if pairs >= MINIMUM_PAIRS else (None, _too_few(pairs))
        compared.append(Comparison(column.title, domain, row.label, base.label, pairs, test, reason=reason))
    probabilities = [one.test.probability for one in compared if one.test is not None]
    if not probabilities and len(compared) > 1:
        pairs = max(one.pairs for one in compared)
        return [replace(compared[0], label="all rows", pairs=pairs, reason=_too_few(pairs))]
    adjusted = iter(holm(probabilities))
    return [one if one.test is None else replace(one, adjusted=next(adjusted)) for one in compared]


def _too_few(pairs: int) -> str:
    return f"not tested: {counted(pairs, 'paired score')}, at least {MINIMUM_PAIRS} are needed"


HEADINGS = ("column", "domain", "method", "n", "difference", "95 % interval", "p", "p (Holm)")


def cells_of_test(comparison: Comparison) -> list[str]:
    """A comparison as texts, one for each of ``HEADINGS``; without a test, its reason stands instead of numbers."""
    named = [comparison.column, comparison.domain, comparison.label]
    test = comparison.test
    if test is None or comparison.adjusted is None:
        return [*named, comparison.reason]
    interval = f"{_signed(test.low)} to {_signed(test.high)}"
    p_values = [_probability_text(p) for p in (test.probability, comparison.adjusted)]
    return [*named, str(test.pairs), _signed(test.difference), interval, *p_values]


def _signed(value: float) -> str:
    text = f"{value:+.2f}".replace("-", "−")
    return "0.00" if text in ("+0.00", "−0.00") else text


def _probability_text(probability: float) -> str:
    return "< 0.001" if probability < 0.001 else f"{probability:.3f}"


def explanation(reference: str) -> str:
    """What is tested, in words."""
    return (
        f"Each row against {reference}, paired over sets of members × seeds (n). The interval is the 95 % percentile "
        f"bootstrap interval of the mean difference ({RESAMPLES:,} resamples, seed {BOOTSTRAP_SEED}); p is of "
        "Wilcoxon's two-sided signed-rank test, and p (Holm) is corrected for all rows of the same column and domain. "
        "Both treat pairs as independent, although sets of members that share a member, and seeds that share data, are "
        f"not quite. Fewer than {MINIMUM_PAIRS} pairs are not tested."
    )
