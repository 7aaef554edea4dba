"""The choice of a merge: candidates, figures and the rule, against plain loops in float64."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from merging_members import LAYOUT, Grams, merged, random_member
from scipy.stats import norm

from regmean_lab.merging import MergedParameter, merge_members
from regmean_lab.merging.auto import Auto, candidates_of, work_of
from regmean_lab.merging.choice import Candidate, choose, quadratic_errors, relative_errors, threshold_of
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.regmean_sequential import RegMeanSequential
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.starting_merge import permuted
from regmean_lab.merging.task_arithmetic import TaskArithmetic
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

    def test_with_settings_of_their_own(self) -> None:
        """Just those, but for what they share with the choice: the text, and layers that owners have left out."""
        given = [
            {"regmean_sequential": {"start": "simple", "text": "pseudo"}},
            "regmean",
            {"regmean": {"gram": "weighted"}},
        ]
        auto = Auto(candidates=given, off_diagonals=[0.5], mixes=[0.0], favour=1.0, text_seed=3, exclude_layers=["a"])
        assert auto.problems() == []
        assert candidates_of(auto, 2) == [
            Candidate(Simple()),
            Candidate(RegMeanSequential(start="simple", text="pseudo", text_seed=3, exclude_layers=["a"])),
            Candidate(RegMean(off_diagonal=0.5, exclude_layers=["a"])),
            Candidate(RegMean(gram="weighted", exclude_layers=["a"])),
        ]
        assert set(auto.statistics) == {"tokens", "gram", "weighted_gram"}
        words = "regmean_sequential exclude_layers=['a'] text=pseudo text_seed=3 start=simple"
        assert candidates_of(auto, 2)[1].words == words
        both = Auto(candidates=[{"ties": None, "regmean": {"off_diagonal": 0.2}}], favour=1.0, mixes=[0.0])
        assert candidates_of(both, 2)[1:] == [Candidate(Ties()), Candidate(RegMean(off_diagonal=0.2))]

    def test_with_weights_of_their_own(self) -> None:
        """They are tried as they are, the mean's among them, and nothing favours a member a second time."""
        given = [{"simple": {"weights": [0.2, 0.8]}}, {"task_arithmetic": {"weights": [1.0, -0.5]}}]
        auto = Auto(candidates=given, mixes=[0.0], favour=2.0)
        assert auto.problems() == [] and auto.number_problems(2) == []
        found = candidates_of(auto, 2)
        assert [one.method.coefficients for one in found[:3]] == [None, [2 / 3, 1 / 3], [1 / 3, 2 / 3]]
        assert found[3:] == [
            Candidate(Simple(weights=[0.2, 0.8])),
            Candidate(TaskArithmetic(weights=[1.0, -0.5])),
        ]
        assert auto.number_problems(3) == ["weights: 2 numbers for 3 members"]
        turned = permuted(auto, [1, 0])
        assert turned.candidates == [{"simple": {"weights": [0.8, 0.2]}}, {"task_arithmetic": {"weights": [-0.5, 1.0]}}]

    @pytest.mark.parametrize(("text", "told"), [("pseudo", False), ("own", True), ("texts.txt", True)])
    def test_that_they_may_be_judged_by_what_they_have_read_is_told(self, text: str, told: bool) -> None:
        reading = Auto(candidates=["regmean", {"regmean_sequential": {"start": "simple"}}], text=text)
        assert any("regmean_sequential may read the texts" in note for note in reading.notes) == told
        assert Auto(candidates=["regmean"], text=text).notes == []

    def test_what_it_costs(self) -> None:
        assert work_of(Auto(), 2) == "auto tries 15 candidates, of 9 merges; each is judged on 200 texts a member"
        alone = Auto(candidates=["simple"], favour=1.0, criterion="quadratic")
        assert work_of(alone, 2) == "auto tries 1 candidates, of 1 merges"
        by_text = Auto(candidates=[{"regmean_sequential": {"start": "simple", "examples": 70}}], held_out=5)
        expected = "auto tries 9 candidates, of 6 merges; 3 of them refit every layer on 70 texts a member; "
        assert work_of(by_text, 2) == f"{expected}each is judged on 5 texts a member"

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
        (
            {"candidates": [{"regmean": {"off_diagonl": 0.5}}]},
            "candidates.regmean.off_diagonl: no setting of regmean; did you mean off_diagonal",
        ),
        (
            {"candidates": [{"regmean": {"off_diagonal": 2.0}}]},
            "candidates.regmean.off_diagonal: expected a number from",
        ),
        (
            {"candidates": [{"regmean": "weighted"}]},
            "candidates.regmean: expected its settings by name, got 'weighted'",
        ),
        (
            {"candidates": [{"regmean": {"gram_from": "auto"}}]},
            "candidates.regmean.gram_from: a candidate is tried with matrices that all members have (measured), or",
        ),
        ({"candidates": [{"distill": {}}]}, "candidates: there is no merge method 'distill' to try"),
        ({"candidates": [7]}, "candidates: there is no merge method 7 to try"),
        (
            {"candidates": [{"regmean_sequential": {"text": "own"}}]},
            "candidates.regmean_sequential.text: a candidate reads the text by which it is judged; expected method",
        ),
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
        for margin, chosen in ((0.0, 1), (1.0, 1), (100.0, 0), (math.inf, 0)):
            found = choose(CANDIDATES[:2], self.values(-0.05, noise=0.2), margin, "divergence")
            assert (found.best, found.chosen) == (1, chosen)
        assert found.reason().startswith("kept the mean: the best other candidate is regmean off_diagonal=0.9, ")
        assert found.reason().endswith(", which may be noise")

    @pytest.mark.parametrize(("others", "alike"), [(1, 0.0), (14, 0.0), (14, 0.9)])
    def test_how_often_pure_noise_beats_the_mean(self, others: int, alike: float) -> None:
        """However many candidates are as good as the mean, and however alike: one time in six, with a margin of one."""
        generator, taken, draws = np.random.default_rng(0), 0, 200
        candidates = [Candidate(Simple())] * (1 + others)
        for _ in range(draws):
            sizes = (60, 40)
            shared = [alike**0.5 * generator.normal(size=size) for size in sizes]
            rows = [[np.zeros(size) for size in sizes]]
            for _ in range(others):
                rows.append([own + (1 - alike) ** 0.5 * generator.normal(size=len(own)) for own in shared])
            values = [[torch.tensor(own) for own in row] for row in rows]
            taken += choose(candidates, values, 1.0, "divergence").chosen > 0
        assert 0.1 < taken / draws <= 0.2

    def test_the_best_of_many_is_taken_if_it_is_better(self) -> None:
        """By four standard errors, among thirteen that are as good as the mean."""
        generator, taken, draws = np.random.default_rng(1), 0, 60
        candidates = [Candidate(Simple())] * 15
        for _ in range(draws):
            noise = [[generator.normal(size=100) for _ in range(2)] for _ in range(14)]
            noise[6] = [own - 4 / math.sqrt(200) for own in noise[6]]
            values = [[torch.zeros(100), torch.zeros(100)], *([torch.tensor(own) for own in row] for row in noise)]
            taken += choose(candidates, values, 1.0, "divergence").chosen == 7
        assert taken / draws > 0.8

    def test_the_threshold_against_the_normal_distribution(self) -> None:
        """Of independent normal candidates and many texts it is known: Φ(t)^K = Φ(margin)."""
        generator = torch.Generator().manual_seed(0)
        for count in (1, 5, 14):
            gains = [torch.randn(count, 400, generator=generator, dtype=torch.float64) for _ in range(2)]
            errors = [math.sqrt(sum(float(own[number].var()) / 400 for own in gains)) / 2 for number in range(count)]
            for margin in (1.0, 2.0):
                expected = norm.ppf(norm.cdf(margin) ** (1 / count))
                assert threshold_of(gains, errors, margin) == pytest.approx(expected, abs=0.15)
            assert threshold_of(gains, errors, 5.0) == pytest.approx(norm.isf(norm.sf(5.0) / count), rel=1e-3)
            # Candidates that are all the same are one.
            same = [own[:1].expand(14, -1) for own in gains]
            assert threshold_of(same, errors[:1] * 14, 1.0) == pytest.approx(1.0, abs=0.1)
        assert threshold_of([torch.zeros(2, 9)], [0.0, math.inf], 1.5) == 1.5

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

    @pytest.mark.parametrize("criterion", ["divergence", "quadratic"])
    def test_a_gain_that_one_owner_alone_gives_is_none(self, criterion: str) -> None:
        """The second is best by far on the third member, and worse than the mean without it."""
        means = [[1.0, 1.0, 1.0], [1.1, 1.1, 0.1], [0.9, 0.95, 0.98]]
        values = [[torch.tensor([mean, mean]) for mean in row] for row in means]
        found = choose(CANDIDATES, values, 1.0, criterion)
        assert (found.best, found.chosen) == (1, 2)
        assert found.verdicts[1].gains_left_out == pytest.approx([0.4, 0.4, -0.1])
        assert not found.verdicts[1].holds and found.verdicts[2].holds
        alone = choose(CANDIDATES[:2], values[:2], 1.0, criterion)
        assert (alone.best, alone.chosen) == (1, 0)
        assert "which does not hold without one of the members" in alone.reason()
        assert alone.record()["candidates"][1]["gains_left_out"] == pytest.approx([0.4, 0.4, -0.1])
        two = choose(CANDIDATES[:2], [row[1:] for row in values[:2]], 1.0, criterion)
        assert two.chosen == 1 and two.verdicts[1].gains_left_out is None

    def test_by_what_candidates_are_fitted_to_there_is_no_standard_error(self) -> None:
        """Layers are no sample: the least figure is taken, and what that is evidence of is said."""
        found = choose(CANDIDATES, self.values(-0.001, 0.1, noise=0.0001), 50.0, "quadratic")
        assert (found.best, found.chosen, found.threshold) == (1, 1, None)
        record = found.record()
        assert [row["standard_error"] for row in record["candidates"]] == [None] * 3
        assert "fitted to" in record["evidence"] and "no evidence of other text" in record["evidence"]
        assert "±" not in found.reason() and record["evidence"] in found.reason()
        assert all("| – |" in line for line in found.lines()[2:])
        assert choose(CANDIDATES, self.values(-0.2, -0.1), 1.0, "divergence").record()["evidence"] == "held-out text"

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
