"""Ways to regularise RegMean's system other than the published factor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_members import Grams, merged, normal, random_gram
from torch import Tensor

from regmean_lab.merging import Layout, LinearLayer, MergeMember, merge_members
from regmean_lab.merging.linear_algebra import agreement
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple

LINEAR = Layout({"layer.weight": LinearLayer("layer")})
TRANSPOSED = Layout({"layer.weight": LinearLayer("layer", transposed=True)})
BASE = {"layer.weight": normal(99, 3, 5)}


def member(seed: int, gram: Tensor | None = None) -> MergeMember:
    own = random_gram(5, torch.Generator().manual_seed(seed)) if gram is None else gram
    return MergeMember(f"member {seed}", {"layer.weight": normal(seed, 3, 5)}, Grams({"layer": own}))


def gram_of(member: MergeMember) -> np.ndarray:
    assert member.gram is not None
    return member.gram.matrix("layer").numpy()


def ridge_solution(
    members: list[MergeMember], coefficients: list[float], ridge: float, anchor: np.ndarray
) -> np.ndarray:
    """(Σ Gᵢ + ρ s I)⁻¹ (Σ Gᵢ Wᵢ + ρ s V) with an explicit inverse; [out, in]."""
    total = sum(c * gram_of(m) for c, m in zip(coefficients, members, strict=True))
    right = sum(
        c * gram_of(m) @ m.weights["layer.weight"].numpy().T for c, m in zip(coefficients, members, strict=True)
    )
    strength = ridge * np.trace(total) / len(total)
    return (np.linalg.inv(total + strength * np.eye(len(total))) @ (right + strength * anchor.T)).T


class TestRidge:
    @pytest.mark.parametrize("coefficients", [[1 / 3] * 3, [0.6, 0.3, 0.1]])
    @pytest.mark.parametrize("towards", ["mean", "base"])
    def test_is_its_formula(self, coefficients: list[float], towards: str) -> None:
        members = [member(seed) for seed in range(3)]
        method = RegMean(regularization="ridge", ridge=0.2, ridge_towards=towards, coefficients=coefficients)
        mean = sum(c * m.weights["layer.weight"].numpy() for c, m in zip(coefficients, members, strict=True))
        anchor = BASE["layer.weight"].numpy() if towards == "base" else mean
        expected = ridge_solution(members, coefficients, 0.2, np.asarray(anchor))
        value = merged(method, members, LINEAR, BASE)["layer.weight"]
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-11)
        flipped = [MergeMember(m.name, {"layer.weight": m.weights["layer.weight"].T}, m.gram) for m in members]
        turned = merged(method, flipped, TRANSPOSED, {"layer.weight": BASE["layer.weight"].T})["layer.weight"]
        np.testing.assert_allclose(turned.T, expected, rtol=1e-9, atol=1e-11)

    def test_the_scale_of_inputs_makes_no_difference(self) -> None:
        members = [member(seed) for seed in range(2)]
        scaled = [member(seed, 1e6 * torch.from_numpy(gram_of(member(seed)))) for seed in range(2)]
        method = RegMean(regularization="ridge", ridge_towards="base")
        value = merged(method, scaled, LINEAR, BASE)["layer.weight"]
        torch.testing.assert_close(value, merged(method, members, LINEAR, BASE)["layer.weight"], rtol=1e-9, atol=1e-11)

    def test_a_strong_one_gives_what_it_is_drawn_towards(self) -> None:
        members = [member(seed) for seed in range(2)]
        mean = merged(Simple(), members, LINEAR)
        for towards, anchor in (("mean", mean), ("base", BASE)):
            method = RegMean(regularization="ridge", ridge=1e12, ridge_towards=towards)
            value = merged(method, members, LINEAR, BASE)["layer.weight"]
            torch.testing.assert_close(value, anchor["layer.weight"], rtol=1e-9, atol=1e-9)

    def test_a_layer_without_a_base_is_drawn_towards_the_mean(self) -> None:
        members = [member(seed) for seed in range(2)]
        value = merged(RegMean(regularization="ridge", ridge_towards="base"), members, LINEAR, {})["layer.weight"]
        expected = merged(RegMean(regularization="ridge"), members, LINEAR)["layer.weight"]
        assert torch.equal(value, expected)

    def test_off_diagonal_entries_are_left(self) -> None:
        members = [member(seed) for seed in range(2)]
        one, other = (
            merged(RegMean(regularization="ridge", off_diagonal=factor), members, LINEAR)["layer.weight"]
            for factor in (0.0, 0.9)
        )
        assert torch.equal(one, other)

    def test_needs_the_base_only_if_drawn_towards_it(self) -> None:
        assert RegMean(regularization="ridge", ridge_towards="base").needs_base
        assert not RegMean(regularization="ridge").needs_base
        assert not RegMean(ridge_towards="base").needs_base


def naive_agreement(grams: list[np.ndarray], weights: list[float]) -> float:
    """1 − Σ Var(rₖₗ) / Σ rₖₗ², entry by entry."""
    scale = np.sqrt(sum(w * np.diag(g) for w, g in zip(weights, grams, strict=True)))
    correlations = [gram / np.outer(scale, scale) for gram in grams]
    top = bottom = 0.0
    for k in range(len(scale)):
        for l in range(len(scale)):  # noqa: E741
            if k == l:
                continue
            values = [r[k, l] for r in correlations]
            mean = sum(w * v for w, v in zip(weights, values, strict=True))
            spread = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True))
            squares = sum(w**2 for w in weights)
            top += spread * squares / (1 - squares)  # for equal weights: Σ (v − mean)² / (n (n − 1))
            bottom += mean**2
    return max(0.0, 1 - top / bottom)


class TestShrinkage:
    @pytest.mark.parametrize("weights", [[0.25] * 4, [0.4, 0.3, 0.2, 0.1]])
    def test_the_factor_is_the_published_estimate(self, weights: list[float]) -> None:
        shared = 0.3 * random_gram(5, torch.Generator().manual_seed(50)) + 0.1
        grams = [shared + 0.5 * random_gram(5, torch.Generator().manual_seed(seed)) for seed in range(4)]
        expected = naive_agreement([gram.numpy() for gram in grams], weights)
        assert 0.2 < expected < 0.99
        assert agreement(lambda: grams, weights) == pytest.approx(expected, rel=1e-10)
        members = [member(seed, gram) for seed, gram in enumerate(grams)]
        method = RegMean(regularization="shrinkage", coefficients=weights)
        (part,) = merge_members(method, members, LINEAR)
        assert part.diagnostics is not None
        assert part.diagnostics.off_diagonal == pytest.approx(expected, rel=1e-10)
        same = merged(RegMean(off_diagonal=expected, coefficients=weights), members, LINEAR)["layer.weight"]
        torch.testing.assert_close(part.value, same, rtol=1e-9, atol=1e-11)

    def test_members_with_equal_statistics_agree(self) -> None:
        gram = random_gram(5, torch.Generator().manual_seed(0))
        assert agreement(lambda: [gram, gram, gram], [0.5, 0.3, 0.2]) == pytest.approx(1.0, abs=1e-14)
        assert agreement(lambda: [gram, 2 * gram.diagonal().diag()], [1.0, 0.0]) == 1.0

    def test_statistics_with_nothing_in_common_are_reduced_to_their_diagonals(self) -> None:
        positive, negative = torch.ones(2, 2) + torch.eye(2), -torch.ones(2, 2) + 3 * torch.eye(2)
        assert agreement(lambda: [positive, negative], [0.5, 0.5]) == 0.0
        assert agreement(lambda: [torch.eye(3), 2 * torch.eye(3)], [0.5, 0.5]) == 1.0

    @settings(max_examples=50, deadline=None)
    @given(seed=st.integers(0, 2**31), count=st.integers(2, 4), scale=st.floats(1e-6, 1e6))
    def test_lies_between_0_and_1_whatever_the_scale_of_features(self, seed: int, count: int, scale: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        grams = [random_gram(5, generator) for _ in range(count)]
        factor = agreement(lambda: grams, [1 / count] * count)
        assert 0 <= factor <= 1
        sizes = scale ** torch.linspace(0, 1, 5, dtype=torch.float64)
        scaled = [gram * sizes * sizes[:, None] for gram in grams]
        assert agreement(lambda: scaled, [1 / count] * count) == pytest.approx(factor, rel=1e-9, abs=1e-12)

    def test_features_that_no_member_saw_have_no_part(self) -> None:
        grams = [random_gram(5, torch.Generator().manual_seed(seed)) for seed in range(2)]
        wide = [torch.zeros(6, 6, dtype=torch.float64) for _ in grams]
        for larger, gram in zip(wide, grams, strict=True):
            larger[:5, :5] = gram
        assert agreement(lambda: wide, [0.5, 0.5]) == pytest.approx(agreement(lambda: grams, [0.5, 0.5]), rel=1e-12)

    def test_the_published_factor_has_no_estimate(self) -> None:
        (part,) = merge_members(RegMean(), [member(0), member(1)], LINEAR)
        assert part.diagnostics is not None
        assert part.diagnostics.off_diagonal is None


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (RegMean(regularization="none"), "regularization"),
        (RegMean(ridge=0), "ridge"),
        (RegMean(ridge=math.inf), "ridge"),
        (RegMean(ridge_towards="zero"), "ridge_towards"),
        (RegMean(diagonal=True, regularization="ridge"), "regularization"),
    ],
)
def test_wrong_settings_are_told(method: RegMean, setting: str) -> None:
    (problem,) = method.problems()
    assert problem.startswith(f"{setting}: ")
