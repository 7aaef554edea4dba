"""Spherical interpolation and the Karcher mean, against rotations and the condition that defines the mean."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from merging_members import merged, normal, random_member, single
from torch import Tensor

from regmean_lab.merging import MergeMember, MergeMethod
from regmean_lab.merging.karcher import Karcher
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.slerp import Slerp

SHAPE = (6, 5)


def polar(angle: float, length: float = 1.0) -> Tensor:
    return length * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)


def merge(method: MergeMethod, tensors: list[Tensor]) -> Tensor:
    return single(method, tensors, torch.zeros_like(tensors[0]))


class TestSlerp:
    @pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
    def test_turns_one_member_towards_the_other(self, share: float) -> None:
        value = merge(Slerp(coefficients=[1 - share, share]), [polar(0.3, 2.0), polar(1.7, 2.0)])
        torch.testing.assert_close(value, polar(0.3 + share * 1.4, 2.0), rtol=1e-13, atol=1e-13)

    def test_is_the_published_formula_for_members_of_other_lengths(self) -> None:
        one, other = normal(0, *SHAPE), 3 * normal(1, *SHAPE)
        angle = math.acos(float((one * other).sum() / one.norm() / other.norm()))
        expected = (math.sin(0.7 * angle) * one + math.sin(0.3 * angle) * other) / math.sin(angle)
        torch.testing.assert_close(merge(Slerp(coefficients=[0.7, 0.3]), [one, other]), expected, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("factor", [1.0, 3.0, -1.0, 0.0])
    def test_without_an_arc_it_is_linear(self, factor: float) -> None:
        one = normal(0, *SHAPE)
        value = merge(Slerp(coefficients=[0.6, 0.4]), [one, factor * one])
        torch.testing.assert_close(value, (0.6 + 0.4 * factor) * one, rtol=1e-13, atol=1e-13)

    def test_members_that_are_nearly_parallel_are_interpolated_smoothly(self) -> None:
        one, other = normal(0, *SHAPE), normal(1, *SHAPE)
        for distance in (1e-3, 1e-5, 1e-6, 1e-7, 1e-9):
            pair = [one, one + distance * other]
            value = (merge(Slerp(), pair) - one) / distance
            torch.testing.assert_close(value, other / 2, rtol=1e-2, atol=1e-2)

    def test_a_label_that_one_member_annotates_is_that_members(self) -> None:
        annotated = [(True, False) * 3, (True, True, False) * 2]
        members = [random_member(seed, annotated=labels) for seed, labels in enumerate(annotated)]
        value = merged(Slerp(), members)["head.weight"]
        assert torch.equal(value[2], members[0].weights["head.weight"][2])
        assert torch.equal(value[1], members[1].weights["head.weight"][1])


class TestKarcher:
    @pytest.mark.parametrize("coefficients", [[0.5, 0.5], [0.8, 0.2]])
    def test_of_two_members_it_lies_on_their_arc(self, coefficients: list[float]) -> None:
        tensors = [2 * normal(0, *SHAPE) / normal(0, *SHAPE).norm(), 2 * normal(1, *SHAPE) / normal(1, *SHAPE).norm()]
        expected = merge(Slerp(coefficients=coefficients), tensors)
        torch.testing.assert_close(merge(Karcher(coefficients=coefficients), tensors), expected, rtol=1e-7, atol=1e-8)

    @pytest.mark.parametrize("coefficients", [None, [0.5, 0.3, 0.1, 0.1]])
    def test_its_logarithms_have_the_mean_zero(self, coefficients: list[float] | None) -> None:
        """What defines the mean, computed in the whole space; and its length is the mean of the lengths."""
        tensors = [(seed + 1) * (0.5 * normal(9, *SHAPE) + normal(seed, *SHAPE)) for seed in range(4)]
        value = merge(Karcher(coefficients=coefficients), tensors).numpy().ravel()
        weights = coefficients or [0.25] * 4
        lengths = [float(tensor.norm()) for tensor in tensors]
        assert np.linalg.norm(value) == pytest.approx(sum(w * x for w, x in zip(weights, lengths, strict=True)))
        mean, gradient = value / np.linalg.norm(value), np.zeros(value.size)
        for weight, tensor, length in zip(weights, tensors, lengths, strict=True):
            unit = tensor.numpy().ravel() / length
            across = unit - (unit @ mean) * mean
            gradient += weight * math.acos(unit @ mean) * across / np.linalg.norm(across)
        assert np.linalg.norm(gradient) < 1e-6

    def test_is_not_the_normalised_mean(self) -> None:
        tensors = [polar(0.0), polar(0.1), polar(2.0)]
        torch.testing.assert_close(merge(Karcher(), tensors), polar(0.7), rtol=1e-8, atol=1e-8)

    def test_the_order_of_members_does_not_matter(self) -> None:
        tensors = [normal(seed, *SHAPE) + normal(9, *SHAPE) for seed in range(3)]
        expected = merge(Karcher(), tensors)
        for order in itertools.permutations(tensors):
            torch.testing.assert_close(merge(Karcher(), list(order)), expected, rtol=1e-10, atol=1e-10)

    def test_a_common_scale_scales_the_result(self) -> None:
        tensors = [normal(seed, *SHAPE) + normal(9, *SHAPE) for seed in range(3)]
        for scale in (1e-12, 1e9):
            value = merge(Karcher(), [scale * tensor for tensor in tensors])
            torch.testing.assert_close(value / scale, merge(Karcher(), tensors), rtol=1e-9, atol=1e-9)

    def test_a_member_that_is_zero_shortens_the_result(self) -> None:
        one = normal(0, *SHAPE)
        torch.testing.assert_close(merge(Karcher(), [one, 0 * one]), one / 2, rtol=1e-12, atol=1e-12)
        assert not merge(Karcher(), [0 * one, 0 * one]).any()

    @pytest.mark.parametrize("tensors", [[polar(0), polar(math.pi)], [polar(0), polar(math.pi, 2.0)]])
    def test_directions_that_cancel_give_the_arithmetic_mean(self, tensors: list[Tensor]) -> None:
        mean = merge(Simple(), tensors)
        torch.testing.assert_close(merge(Karcher(), tensors), mean, rtol=1e-12, atol=1e-12)

    def test_single_numbers_of_either_sign(self) -> None:
        members = [MergeMember(str(x), {"w": torch.tensor([x])}) for x in (1.0, -3.0, 2.0)]
        assert float(merged(Karcher(), members)["w"]) == pytest.approx(0.0, abs=1e-7)

    @pytest.mark.parametrize(
        ("settings", "setting"), [({"iterations": 0}, "iterations"), ({"tolerance": 0}, "tolerance")]
    )
    def test_wrong_settings_are_told(self, settings: dict[str, float], setting: str) -> None:
        (problem,) = Karcher(**settings).problems()  # type: ignore[arg-type]
        assert problem.startswith(f"{setting}: ")
        assert Karcher().problems() == []
