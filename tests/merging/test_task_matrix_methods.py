"""Methods that merge the task matrices of linear layers, each against its definition in NumPy, float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from merging_members import merged, normal, random_member, single
from torch import Tensor

from regmean_lab.merging import MergeError, MergeMethod
from regmean_lab.merging.iso_c import IsotropicCommon
from regmean_lab.merging.iso_cts import IsotropicCommonAndSpecific
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.singular_values import nearest_orthonormal, singular_values
from regmean_lab.merging.tsv import TaskSingularVectors
from regmean_lab.merging.wudi import Wudi

METHODS: list[MergeMethod] = [
    TaskSingularVectors(),
    IsotropicCommon(),
    IsotropicCommonAndSpecific(),
    IsotropicCommonAndSpecific(common_fraction=0.5),
    Wudi(steps=20, learning_rate=1e-2),
]
START = normal(100, 9, 6)
CHANGES = [0.3 * normal(seed, 9, 6) for seed in range(3)]


def change_of(method: MergeMethod, changes: Sequence[Tensor], *, transposed: bool = False) -> np.ndarray:
    """The merged task matrix [out, in]."""
    tensors, start = [START + change for change in changes], START
    if transposed:
        tensors, start = [tensor.T.contiguous() for tensor in tensors], start.T.contiguous()
    value = single(method, tensors, start, transposed=transposed) - start
    return (value.T if transposed else value).numpy()


def orthonormal(columns: np.ndarray) -> np.ndarray:
    """C (CᵀC)^(−1/2): the orthonormal columns nearest to linearly independent ones."""
    values, vectors = np.linalg.eigh(columns.T @ columns)
    return columns @ vectors @ np.diag(values**-0.5) @ vectors.T


class TestAllMethods:
    @pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
    def test_a_transposed_weight_gives_the_same(self, method: MergeMethod) -> None:
        expected = change_of(method, CHANGES)
        np.testing.assert_allclose(change_of(method, CHANGES, transposed=True), expected, rtol=1e-9, atol=1e-12)
        wide = single(method, [change.T for change in CHANGES], 0 * CHANGES[0].T)
        assert wide.shape == (6, 9)

    @pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
    def test_all_but_linear_layers_is_averaged(self, method: MergeMethod) -> None:
        members = [random_member(seed) for seed in range(3)]
        value, mean = merged(method, members), merged(Simple(), members)
        assert {name for name in mean if not torch.equal(value[name], mean[name])} == {"block.0.dense.weight"}

    @pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
    def test_scaling_scales_the_task_matrix(self, method: MergeMethod) -> None:
        method = type(method)(**{**vars(method), "scaling": 1.0})
        doubled = type(method)(**{**vars(method), "scaling": 2.0})
        np.testing.assert_allclose(change_of(doubled, CHANGES), 2 * change_of(method, CHANGES), rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("method", METHODS[:4], ids=lambda method: method.name)
    @pytest.mark.parametrize("scale", [1e-4, 1e3])
    def test_a_common_scale_scales_the_task_matrix(self, method: MergeMethod, scale: float) -> None:
        """Of the task matrices; WUDI's steps have a length of their own."""
        scaled = change_of(method, [scale * change for change in CHANGES]) / scale
        np.testing.assert_allclose(scaled, change_of(method, CHANGES), rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
    def test_nothing_moved_gives_the_base(self, method: MergeMethod) -> None:
        assert not change_of(method, [0 * change for change in CHANGES]).any()

    @pytest.mark.parametrize("method", METHODS[:4], ids=lambda method: method.name)
    def test_a_member_that_did_not_move_brings_no_directions(self, method: MergeMethod) -> None:
        """Its task matrix has no singular vectors: all that comes out lies in what the others' outputs span."""
        changes = [CHANGES[0].clone() for _ in range(2)]
        changes[0][:, 1:], changes[1][:, [0, 2, 3, 4, 5]] = 0, 0
        found = change_of(method, [*changes, 0 * changes[0]])
        span = np.linalg.qr(CHANGES[0][:, :2].numpy())[0]
        assert np.abs(found).max() > 0.05
        np.testing.assert_allclose(span @ span.T @ found, found, atol=1e-12)
        np.testing.assert_allclose(found[:, 2:], 0, atol=1e-12)

    def test_what_cannot_be_decomposed_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise torch.linalg.LinAlgError("no convergence")

        monkeypatch.setattr(torch.linalg, "svd", fail)
        with pytest.raises(MergeError, match=r"layer\.weight: the task matrices cannot be merged: .*does not converge"):
            change_of(IsotropicCommon(), CHANGES)


class TestTaskSingularVectors:
    @pytest.mark.parametrize("count", [2, 3])
    @pytest.mark.parametrize("coefficients", [None, [0.5, 0.3, 0.2]])
    def test_is_the_published_procedure(self, count: int, coefficients: list[float] | None) -> None:
        weights = [count * c for c in coefficients[:count]] if coefficients else [1.0] * count
        if coefficients:
            total = sum(coefficients[:count])
            coefficients, weights = [c / total for c in coefficients[:count]], [w / total for w in weights]
        left, right, values = [], [], []
        for change, weight in zip(CHANGES[:count], weights, strict=True):
            u, s, v = np.linalg.svd(change.numpy(), full_matrices=False)
            left.append(u[:, : 6 // count])
            right.append(v[: 6 // count].T)
            values += list(weight * s[: 6 // count])
        expected = orthonormal(np.hstack(left)) @ np.diag(values) @ orthonormal(np.hstack(right)).T
        method = TaskSingularVectors(coefficients=coefficients)
        np.testing.assert_allclose(change_of(method, CHANGES[:count]), expected, rtol=1e-9, atol=1e-11)

    def test_members_that_do_not_interfere_are_added(self) -> None:
        """Task matrices of low rank with singular vectors at right angles to each other."""
        u, v = torch.linalg.qr(normal(0, 9, 6))[0], torch.linalg.qr(normal(1, 6, 6))[0]
        parts = [u[:, 3 * i : 3 * i + 3] * torch.tensor([3.0, 2.0, 1.0]) @ v[:, 3 * i : 3 * i + 3].T for i in range(2)]
        np.testing.assert_allclose(change_of(TaskSingularVectors(), parts), parts[0] + parts[1], rtol=1e-9, atol=1e-11)

    def test_members_that_moved_alike_give_what_is_kept_of_one(self) -> None:
        u, s, v = np.linalg.svd(CHANGES[0].numpy(), full_matrices=False)
        expected = u[:, :3] @ np.diag(s[:3]) @ v[:3]
        np.testing.assert_allclose(change_of(TaskSingularVectors(), [CHANGES[0]] * 2), expected, rtol=1e-9, atol=1e-11)


class TestIsotropic:
    def test_common_is_the_sum_with_a_flat_spectrum(self) -> None:
        total = sum(change.numpy() for change in CHANGES)
        mean = np.linalg.svd(total, compute_uv=False).mean()
        np.testing.assert_allclose(change_of(IsotropicCommon(), CHANGES), mean * orthonormal(total), rtol=1e-9)
        spectrum = np.linalg.svd(change_of(IsotropicCommon(), CHANGES), compute_uv=False)
        np.testing.assert_allclose(spectrum, [mean] * 6, rtol=1e-10)

    def test_coefficients_weight_the_sum(self) -> None:
        total = sum(3 * c * change.numpy() for c, change in zip([0.6, 0.3, 0.1], CHANGES, strict=True))
        expected = np.linalg.svd(total, compute_uv=False).mean() * orthonormal(total)
        method = IsotropicCommon(coefficients=[0.6, 0.3, 0.1])
        np.testing.assert_allclose(change_of(method, CHANGES), expected, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize(("fraction", "own"), [(1.0, 0), (0.8, 1), (0.5, 1), (0.0, 2)])
    def test_common_and_specific_is_the_published_procedure(self, fraction: float, own: int) -> None:
        changes = [change.numpy() for change in CHANGES]
        u, s, v = np.linalg.svd(sum(changes), full_matrices=False)
        common = 6 - 3 * own
        left, right, values = [u[:, :common]], [v[:common].T], list(s[:common])
        for change in changes:
            rest = change - left[0] @ left[0].T @ change
            u, s, v = np.linalg.svd(rest, full_matrices=False)
            left.append(u[:, :own])
            right.append(v[:own].T)
            values += list(s[:own])
        assert len(values) == 6
        expected = np.mean(values) * orthonormal(np.hstack(left)) @ orthonormal(np.hstack(right)).T
        method = IsotropicCommonAndSpecific(common_fraction=fraction)
        np.testing.assert_allclose(change_of(method, CHANGES), expected, rtol=1e-8, atol=1e-10)

    def test_without_specific_directions_both_are_the_same(self) -> None:
        expected = change_of(IsotropicCommon(), CHANGES)
        method = IsotropicCommonAndSpecific(common_fraction=1)
        np.testing.assert_allclose(change_of(method, CHANGES), expected, rtol=1e-9, atol=1e-11)

    def test_more_members_than_directions(self) -> None:
        changes = [normal(seed, 9, 6) for seed in range(8)]
        found = change_of(IsotropicCommonAndSpecific(common_fraction=0), changes)
        np.testing.assert_allclose(found, change_of(IsotropicCommon(), changes), rtol=1e-9, atol=1e-11)

    def test_a_wrong_fraction_is_told(self) -> None:
        for value in (-0.1, 1.1):
            (problem,) = IsotropicCommonAndSpecific(common_fraction=value).problems()
            assert problem.startswith("common_fraction: expected a number from 0 to 1")


class TestWudi:
    @staticmethod
    def loss(merged: Tensor, changes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The published loss."""
        terms = [
            weight * ((merged - change) @ change.T).square().sum() / change.square().sum()
            for change, weight in zip(changes, weights, strict=True)
        ]
        return torch.stack(terms).sum()

    @pytest.mark.parametrize("coefficients", [None, [0.6, 0.3, 0.1]])
    def test_takes_adams_steps_down_the_published_loss(self, coefficients: list[float] | None) -> None:
        weights = [3 * c for c in coefficients] if coefficients else [1.0] * 3
        leaf = sum(w * change for w, change in zip(weights, CHANGES, strict=True)).clone().requires_grad_()
        optimizer = torch.optim.Adam([leaf], lr=1e-3)
        for _ in range(40):
            optimizer.zero_grad()
            self.loss(leaf, CHANGES, weights).backward()
            optimizer.step()
        found = change_of(Wudi(steps=40, learning_rate=1e-3, coefficients=coefficients), CHANGES)
        np.testing.assert_allclose(found, leaf.detach(), rtol=1e-8, atol=1e-10)

    def test_more_steps_lead_nearer_to_the_minimum(self) -> None:
        """Which has a closed form, as RegMean's has."""
        inputs = sum(change.T @ change / change.square().sum() for change in CHANGES)
        target = sum(change @ change.T @ change / change.square().sum() for change in CHANGES)
        minimum = target @ torch.linalg.inv(inputs)
        values = [
            float(
                self.loss(torch.from_numpy(change_of(Wudi(steps=steps, learning_rate=1e-2), CHANGES)), CHANGES, [1] * 3)
            )
            for steps in (0, 10, 100, 1000)
        ]
        least = float(self.loss(minimum, CHANGES, [1] * 3))
        assert values == sorted(values, reverse=True)
        assert values[0] > 2 * least
        assert values[-1] < 1.001 * least

    def test_a_member_that_did_not_move_has_no_part_in_the_loss(self) -> None:
        still = [CHANGES[0], 0 * CHANGES[0]]
        value = change_of(Wudi(steps=100), still)
        np.testing.assert_allclose(value, CHANGES[0], rtol=1e-9, atol=1e-11)

    def test_wrong_settings_are_told(self) -> None:
        for method, setting in ((Wudi(steps=-1), "steps"), (Wudi(learning_rate=0), "learning_rate")):
            (problem,) = method.problems()
            assert problem.startswith(f"{setting}: ")
        assert Wudi().problems() == []


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_singular_values_leave_out_what_is_zero(shape: tuple[int, int]) -> None:
    matrix = normal(0, shape[0], 3) @ normal(1, 3, shape[1])
    parts = singular_values(matrix)
    assert parts.values.shape == (3,)
    torch.testing.assert_close(parts.left * parts.values @ parts.right, matrix)
    assert singular_values(matrix, matrix * 1e17).values.shape == (0,)
    assert singular_values(0 * matrix).values.shape == (0,)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_nearest_orthonormal(shape: tuple[int, int]) -> None:
    matrix = normal(0, *shape)
    found = nearest_orthonormal(matrix).numpy()
    expected = orthonormal(matrix.numpy()) if shape[0] > shape[1] else orthonormal(matrix.T.numpy()).T
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_decomposition_that_fails_in_float32_is_made_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = normal(0, 7, 5).float()
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    decompose = torch.linalg.svd

    def fails_in_float32(given: Tensor, **options: Any) -> Any:
        if given.dtype == torch.float32:
            raise torch.linalg.LinAlgError("no convergence")
        return decompose(given, **options)

    monkeypatch.setattr(torch.linalg, "svd", fails_in_float32)
    parts = singular_values(matrix)
    assert parts.left.dtype == parts.values.dtype == parts.right.dtype == torch.float32
    np.testing.assert_allclose(parts.values.numpy(), expected, rtol=1e-6)
    torch.testing.assert_close(parts.left * parts.values @ parts.right, matrix, rtol=1e-5, atol=1e-6)
