"""The choice of a merge: candidates, figures and the rule, against plain loops in float64."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from merging_members import LAYOUT, Grams, merged, random_member

from regmean_lab.merging import MergedParameter, merge_members
from regmean_lab.merging.auto import Auto, candidates_of
from regmean_lab.merging.choice import Candidate, choose, quadratic_errors, relative_errors
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.ties import Ties


class TestCandidates:
    def test_by_default(self) -> None:
        found = candidates_of(Auto(), 2)
        shares = [None, [2 / 3, 1 / 3], [1 / 3, 2 / 3]]
        expected = [Candidate(Simple(coefficients=share)) for share in shares]
        for factor in (0.9, 1.0):
            expected += [
                Candidate(RegMean(off_diagonal=factor, coefficients=share), mix)
                for share in shares
                for mix in (0.0, 0.5)
            ]
        assert found == expected
        assert Auto().statistics == ("gram", "tokens")
        assert Auto(criterion="quadratic").statistics == ("gram",)

    def test_of_other_methods(self) -> None:
        auto = Auto(candidates=["ties", "regmean"], off_diagonals=[0.5], mixes=[0.25], favour=1.0, keep_top=1)
        assert candidates_of(auto, 3) == [
            Candidate(Simple(keep_top=1)),
            Candidate(Ties(keep_top=1), 0.25),
            Candidate(RegMean(off_diagonal=0.5, keep_top=1), 0.25),
        ]
        assert auto.needs_base

    def test_in_words(self) -> None:
        candidate = Candidate(RegMean(coefficients=[2 / 3, 1 / 3]), 0.5)
        assert candidate.words == "regmean coefficients=[0.667, 0.333] off_diagonal=0.9 + 0.5 of the mean"
        assert Candidate(Simple()).words == "simple"

    def test_without_anything_to_choose_by_it_is_the_mean(self) -> None:
        members = [random_member(seed) for seed in range(2)]
        expected = merged(Simple(), members)
        assert all(torch.equal(value, expected[name]) for name, value in merged(Auto(), members).items())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"candidates": ["regmaen"]}, "candidates: there is no merge method 'regmaen' to try; did you mean regmean or"),
        ({"candidates": ["distill"]}, "candidates: there is no merge method 'distill' to try"),
        ({"candidates": ["auto"]}, "candidates: there is no merge method 'auto' to try"),
        ({"off_diagonals": [0.5, 2.0]}, "off_diagonals: expected a number from 0 to 1, got 2.0"),
        ({"mixes": [-0.5]}, "mixes: expected a number from 0 to 1, got -0.5"),
        ({"favour": 0.0}, "favour: expected a positive number, got 0.0"),
        ({"criterion": "accuracy"}, "criterion: expected one of divergence, quadratic, got 'accuracy'"),
        ({"held_out": 0}, "held_out: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"examples": 0}, "examples: expected at least 1 or null, got 0"),
        ({"margin": -1.0}, "margin: expected at least 0, got -1.0"),
        ({"coefficients": [0.5, 0.5]}, "coefficients: they are chosen; expected null"),
        ({"keep_top": -1}, "keep_top: expected at least 0, got -1"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told(settings: dict[str, Any], expected: str) -> None:
    (problem,) = Auto(**settings).problems()
    assert problem.startswith(expected)


CANDIDATES = [Candidate(Simple()), Candidate(RegMean()), Candidate(RegMean(off_diagonal=1.0))]


class TestChoice:
    def values(self, *shifts: float, noise: float = 0.1) -> list[list[torch.Tensor]]:
        """Of two members, of 50 and 80 texts; each candidate's values differ from the first's by a shift and noise."""
        generator = np.random.default_rng(0)
        first = [generator.exponential(size=size) for size in (50, 80)]
        rows = [[torch.tensor(own) for own in first]]
        for shift in shifts:
            rows.append([torch.tensor(own + shift + noise * generator.normal(size=len(own))) for own in first])
        return rows

    def test_figures(self) -> None:
        values = self.values(-0.2, -0.1)
        found = choose(CANDIDATES, values, 1.0, "divergence")
        for number, verdict in enumerate(found.verdicts):
            one, other = ([float(x) for x in own] for own in values[number])
            assert verdict.figure == pytest.approx((statistics.fmean(one) + statistics.fmean(other)) / 2, rel=1e-12)
            apart = [
                [a - b for a, b in zip(first.tolist(), own.tolist(), strict=True)]
                for first, own in zip(values[0], values[number], strict=True)
            ]
            gain = (statistics.fmean(apart[0]) + statistics.fmean(apart[1])) / 2
            variance = sum(statistics.variance(own) / len(own) for own in apart)
            assert verdict.gain == pytest.approx(gain, rel=1e-12)
            assert verdict.standard_error == pytest.approx(variance**0.5 / 2, rel=1e-12, abs=1e-15)
        assert (found.best, found.chosen) == (1, 1)
        assert found.candidate == CANDIDATES[1]
        assert found.reason().startswith("chose regmean off_diagonal=0.9: divergence from the members on held-out text")
        assert found.gain_left_out is None

    def test_noise_does_not_beat_the_mean(self) -> None:
        for margin, chosen in ((1.0, 1), (100.0, 0)):
            found = choose(CANDIDATES[:2], self.values(-0.05, noise=0.2), margin, "divergence")
            assert (found.best, found.chosen) == (1, chosen)
        assert found.reason().startswith("kept the mean: the best other candidate is regmean off_diagonal=0.9, ")

    def test_how_often_pure_noise_beats_the_mean(self) -> None:
        """One candidate that is as good as the mean is taken about one time in six, with a margin of one."""
        generator, taken = torch.Generator().manual_seed(0), 0
        for _ in range(400):
            values = [[torch.randn(60, generator=generator), torch.randn(40, generator=generator)] for _ in range(2)]
            taken += choose(CANDIDATES[:2], values, 1.0, "divergence").chosen
        assert taken / 400 == pytest.approx(0.159, abs=0.05)

    def test_what_is_worse_or_equal_leaves_the_mean(self) -> None:
        assert choose(CANDIDATES, self.values(0.2, 0.1), 0.0, "divergence").chosen == 0
        same = self.values(0.0, 0.0, noise=0.0)
        found = choose(CANDIDATES, same, 1.0, "divergence")
        assert (found.best, found.chosen) == (0, 0)
        assert (
            found.reason()
            == f"chose simple: divergence from the members on held-out text {found.verdicts[0].figure:.4g}, the least"
        )

    def test_one_text_tells_nothing(self) -> None:
        values = [[torch.tensor([1.0]), torch.tensor([1.0])], [torch.tensor([0.1]), torch.tensor([0.1])]]
        found = choose(CANDIDATES[:2], values, 1.0, "divergence")
        assert (found.best, found.chosen) == (1, 0)

    def test_one_owner_left_out(self) -> None:
        """What two members choose, on the third; by hand."""
        means = [[1.0, 1.0, 1.0], [0.2, 0.2, 3.0], [0.9, 0.8, 0.7]]
        values = [[torch.tensor([mean, mean]) for mean in row] for row in means]
        # Without the first or the second: the last (0.75 or 0.8 against 1 and 1.6); without the third: the second.
        expected = ((1 - 0.9) + (1 - 0.8) + (1 - 3.0)) / 3
        assert choose(CANDIDATES, values, 1.0, "divergence").gain_left_out == pytest.approx(expected, rel=1e-6)

    def test_the_record_and_the_table(self) -> None:
        found = choose(CANDIDATES, self.values(-0.2, -0.1), 1.0, "divergence")
        record = found.record()
        assert record["chosen"] == {"method": "regmean", "settings": {"off_diagonal": 0.9}, "mix": 0.0}
        assert [row["figure"] for row in record["candidates"]] == [one.figure for one in found.verdicts]
        lines = found.lines()
        assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
            "regmean off_diagonal=0.9",
            "regmean off_diagonal=1.0",
            "simple",
        ]
        assert [line.endswith("| chosen |") for line in lines[2:]] == [True, False, False]


class TestQuadratic:
    def test_errors_against_rows(self) -> None:
        """With inputs X of a member, the trace is ‖X (W − Wᵢ)‖²."""
        generator = torch.Generator().manual_seed(0)
        members, inputs = [], []
        for seed in range(2):
            rows = {layer.name: torch.randn(40, 0, generator=generator) for layer in LAYOUT.linear.values()}
            member = random_member(seed)
            for name, layer in LAYOUT.linear.items():
                width = member.weights[name].shape[0 if layer.transposed else 1]
                rows[layer.name] = torch.randn(40, width, generator=generator, dtype=torch.float64)
            members.append(replace(member, gram=Grams({key: own.T @ own / 40 for key, own in rows.items()})))
            inputs.append(rows)
        found = quadratic_errors(merge_members(RegMean(), members, LAYOUT), members, LAYOUT)
        values = merged(RegMean(), members)
        for name, layer in LAYOUT.linear.items():
            for number, member in enumerate(members):
                apart = (values[name] - member.weights[name]).double()
                apart = apart if layer.transposed else apart.T
                expected = float(((inputs[number][layer.name] @ apart) ** 2).sum()) / 40
                assert found[layer.name][number] == pytest.approx(expected, rel=1e-6)

    def test_nothing_is_below_regmean_itself(self) -> None:
        """It minimises just this, with equal coefficients and whole matrices."""
        members = [random_member(seed) for seed in range(3)]

        def total(method: Any) -> float:
            errors = quadratic_errors(merge_members(method, members, LAYOUT), members, LAYOUT)
            return sum(sum(own) for own in errors.values())

        least = total(RegMean(off_diagonal=1.0))
        assert least < total(RegMean(off_diagonal=0.5)) and least < total(Simple())

    def test_relative_to_the_mean(self) -> None:
        errors, mean = (
            {"a": [1.0, 4.0], "b": [3.0, 1.0], "c": [0.0, 0.0]},
            {"a": [2.0, 2.0], "b": [1.0, 4.0], "c": [0.0, 0.0]},
        )
        found = relative_errors(errors, mean)
        assert [own.tolist() for own in found] == [[0.5, 3.0], [2.0, 0.25]]
        alike = relative_errors({"c": [0.0, 0.0]}, {"c": [0.0, 0.0]})
        assert [own.tolist() for own in alike] == [[1.0], [1.0]]

    def test_only_linear_layers_count(self) -> None:
        members = [random_member(seed) for seed in range(2)]
        other = MergedParameter("embeddings.weight", torch.zeros(3))
        assert quadratic_errors([other], members, LAYOUT) == {}
