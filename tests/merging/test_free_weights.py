"""Weights of any sign and sum, settings of one tensor, and the methods that came with them, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from merging_members import BASE, LAYOUT, normal, random_member, single
from torch import Tensor

from regmean_lab.merging import MergeError, MergeMethod, merge_members
from regmean_lab.merging.breadcrumbs import Breadcrumbs
from regmean_lab.merging.dare import Dare
from regmean_lab.merging.della import Della
from regmean_lab.merging.model_stock import ModelStock
from regmean_lab.merging.multislerp import MultiSlerp
from regmean_lab.merging.nuslerp import NuSlerp
from regmean_lab.merging.parameters import TensorSettings
from regmean_lab.merging.sce import Sce
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.slerp import Slerp
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.merging.ties import Ties

SHAPE = (6, 7)
START = normal(100, *SHAPE)
TENSORS = [START + 0.3 * normal(seed, *SHAPE) for seed in range(3)]
CHANGES = [(tensor - START).numpy() for tensor in TENSORS]
WEIGHTS = [0.7, -0.4, 1.9]


def close(found: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)


def elected(changes: list[np.ndarray], weights: list[float], normalize: bool) -> np.ndarray:
    """Signs are elected element by element, of values times weights."""
    result = np.zeros(changes[0].shape)
    for place in np.ndindex(result.shape):
        values = [weight * change[place] for weight, change in zip(weights, changes, strict=True)]
        sign = np.sign(sum(values))
        chosen = [i for i, value in enumerate(values) if value * sign > 0]
        total = sum(weights[i] for i in chosen)
        result[place] = sum(values[i] for i in chosen) / (total if normalize and total != 0 else 1)
    return result


def test_a_weighted_mean_of_any_weights() -> None:
    plain = [tensor.numpy() for tensor in TENSORS]
    total = sum(weight * tensor for weight, tensor in zip(WEIGHTS, plain, strict=True))
    close(single(Simple(weights=WEIGHTS), TENSORS, START), total / sum(WEIGHTS))
    close(single(Simple(weights=WEIGHTS, normalize=False), TENSORS, START), total)


def test_equal_weights_are_the_mean_to_the_last_bit() -> None:
    plain = single(Simple(), TENSORS[:2], START)
    assert torch.equal(single(Simple(weights=[3.0, 3.0]), TENSORS[:2], START), plain)


@pytest.mark.parametrize("normalize", [None, False, True])
def test_task_arithmetic_with_weights(normalize: bool | None) -> None:
    method = TaskArithmetic(weights=WEIGHTS, normalize=normalize, scaling=0.8)
    total = sum(weight * change for weight, change in zip(WEIGHTS, CHANGES, strict=True))
    close(single(method, TENSORS, START), START.numpy() + 0.8 * total / (sum(WEIGHTS) if normalize else 1))


@pytest.mark.parametrize("weight", [-1.0, 1.5])
def test_one_task_vector_is_negated_or_exaggerated(weight: float) -> None:
    method = TaskArithmetic(weights=[weight], scaling=1)
    close(single(method, TENSORS[:1], START), START.numpy() + weight * CHANGES[0])
    with pytest.raises(MergeError, match="two or more"):
        single(TaskArithmetic(), TENSORS[:1], START)


@pytest.mark.parametrize("normalize", [None, False])
def test_ties_elects_signs_of_values_times_weights(normalize: bool | None) -> None:
    method = Ties(weights=WEIGHTS, normalize=normalize, density=1)
    close(single(method, TENSORS, START), START.numpy() + elected(CHANGES, WEIGHTS, normalize is None))


def test_opposite_weights_are_not_divided_by_zero() -> None:
    method = TaskArithmetic(weights=[1, -1], normalize=True, scaling=1)
    close(single(method, TENSORS[:2], START), START.numpy() + CHANGES[0] - CHANGES[1])


def test_wrong_weights_are_told() -> None:
    assert Ties(weights=[1, math.nan]).problems() == ["weights: expected numbers, got [1, nan]"]
    assert "expected one of the two" in Ties(weights=[1], coefficients=[1]).problems()[0]
    assert Ties(normalize=True).problems() == ["normalize: it concerns weights, and none are given"]
    assert TaskArithmetic(scaling=-1).problems() and not TaskArithmetic(scaling=-1, weights=[1]).problems()
    with pytest.raises(MergeError, match=r"method\.weights: 2 numbers for 3 members"):
        single(Simple(weights=[1, 2]), TENSORS, START)


def test_each_tensor_has_its_settings() -> None:
    members = [random_member(seed) for seed in range(2)]

    def settings(name: str) -> TensorSettings:
        if name == "embedding.weight":
            return TensorSettings({"scaling": 0.5, "normalize": True}, weights=[3.0, 1.0])
        return TensorSettings(weights=[0.0, 1.0])

    method = TaskArithmetic(scaling=1)
    found = {part.name: part.value for part in merge_members(method, members, LAYOUT, base=BASE, settings=settings)}
    name = "embedding.weight"
    base, one, two = BASE[name], members[0].weights[name], members[1].weights[name]
    torch.testing.assert_close(found[name], base + 0.5 * (0.75 * (one - base) + 0.25 * (two - base)))
    torch.testing.assert_close(found["norm.weight"], members[1].weights["norm.weight"])
    assert method.scaling == 1


def test_each_member_has_its_density() -> None:
    own = TensorSettings(weights=[1.0, 1.0, 1.0], members=[{"density": value} for value in (1.0, 0.5, 0.0)])
    members = [random_member(seed) for seed in range(3)]
    method = Ties(scope="parameter", density=1)
    found = {
        part.name: part.value for part in merge_members(method, members, LAYOUT, base=BASE, settings=lambda _: own)
    }
    name = "block.0.dense.weight"
    changes = [(member.weights[name] - BASE[name]).numpy() for member in members]
    kept = np.argsort(-np.abs(changes[1]).ravel())[: math.ceil(changes[1].size / 2)]
    trimmed = np.zeros(changes[1].size)
    trimmed[kept] = changes[1].ravel()[kept]
    expected = elected([changes[0], trimmed.reshape(changes[1].shape), 0 * changes[2]], [1, 1, 1], True)
    close(found[name] - BASE[name], expected)


@pytest.mark.parametrize("kind", [Dare, Della])
def test_density_is_the_share_that_is_kept(kind: type[Dare] | type[Della]) -> None:
    assert torch.equal(single(kind(drop_rate=0.25), TENSORS, START), single(kind(density=0.75), TENSORS, START))
    assert kind(density=0.0).problems()[0].startswith("density: expected")
    everything = single(kind(density=1.0, weights=[1.0, 1.0, 1.0], then="linear", scaling=1), TENSORS, START)
    close(everything, START.numpy() + sum(CHANGES))


def test_epsilon_is_half_the_window() -> None:
    one, other = Della(window=0.2, drop_rate=0.5), Della(epsilon=0.1, density=0.5)
    assert torch.equal(single(one, TENSORS, START), single(other, TENSORS, START))
    assert "epsilon: expected" in Della(epsilon=0.6, density=0.5).problems()[0]


@pytest.mark.parametrize("kind", [Dare, Della])
def test_without_rescaling_what_is_kept_stays_as_it_is(kind: type[Dare] | type[Della]) -> None:
    method = kind(density=0.5, rescale=False, weights=[1.0], then="linear", scaling=1)
    change = (single(method, TENSORS[:1], START) - START).numpy()
    kept = change != 0
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(change[kept], CHANGES[0][kept], atol=1e-12)


@pytest.mark.parametrize("density", [0.3, 0.98, 1.0])
def test_breadcrumbs_by_density(density: float) -> None:
    method = Breadcrumbs(density=density, large=0.1, weights=WEIGHTS, scaling=1, elect_signs=True)
    masked = []
    for change in CHANGES:
        order = np.argsort(np.abs(change).ravel())
        count = len(order)
        wanted = int(density * count)
        start = max(0, count - wanted - int(0.1 * count))
        kept = order if density == 1 else order[start : start + wanted]
        part = np.zeros(count)
        part[kept] = change.ravel()[kept]
        masked.append(part.reshape(SHAPE))
    close(single(method, TENSORS, START), START.numpy() + elected(masked, WEIGHTS, True))


def arc(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    angle = math.acos(float(one @ other) / (np.linalg.norm(one) * np.linalg.norm(other)))
    return (math.sin((1 - share) * angle) * one + math.sin(share * angle) * other) / math.sin(angle)


class TestNuSlerp:
    def test_of_whole_tensors_is_slerp(self) -> None:
        value = single(NuSlerp(weights=[3.0, 1.0]), TENSORS[:2], START)
        torch.testing.assert_close(value, single(Slerp(coefficients=[0.75, 0.25]), TENSORS[:2], START))

    @pytest.mark.parametrize("by_column", [False, True])
    def test_vector_by_vector_from_the_base(self, by_column: bool) -> None:
        method = NuSlerp(weights=[1.0, 3.0], from_base=True, flatten=False, by_column=by_column)
        turned = [change.T if by_column else change for change in CHANGES[:2]]
        rows = np.stack([arc(one, other, 0.75) for one, other in zip(*turned, strict=True)])
        close(single(method, TENSORS[:2], START), START.numpy() + (rows.T if by_column else rows))

    def test_parallel_and_zero_vectors_are_interpolated_on_a_line(self) -> None:
        zero = torch.zeros(SHAPE, dtype=torch.float64)
        for other in (TENSORS[0] * 2, zero, -TENSORS[0]):
            value = single(NuSlerp(weights=[1.0, 3.0], flatten=False), [TENSORS[0], other], START)
            close(value, (0.25 * TENSORS[0] + 0.75 * other).numpy())

    def test_weights_that_cancel_count_alike(self) -> None:
        one = single(NuSlerp(weights=[1.0, -1.0]), TENSORS[:2], START)
        assert torch.equal(one, single(NuSlerp(), TENSORS[:2], START))

    def test_merges_two(self) -> None:
        with pytest.raises(MergeError, match="exactly two"):
            single(NuSlerp(), TENSORS, START)


class TestMultiSlerp:
    @pytest.mark.parametrize("from_base", [False, True])
    def test_is_the_tangent_procedure(self, from_base: bool) -> None:
        """Directions are averaged in the tangent space at their mean, as described; then lengths."""
        start = START.numpy() if from_base else np.zeros(SHAPE)
        vectors = [(tensor.numpy() - start).ravel() for tensor in TENSORS]
        weights = np.array([0.5, 2.0, 1.5]) / 4
        lengths = [np.linalg.norm(vector) for vector in vectors]
        units = [vector / length for vector, length in zip(vectors, lengths, strict=True)]
        mean = sum(w * unit for w, unit in zip(weights, units, strict=True))
        mean = mean / np.linalg.norm(mean)
        tangent = sum(w * (unit - (unit @ mean) * mean) for w, unit in zip(weights, units, strict=True))
        size = np.linalg.norm(tangent)
        point = mean * math.cos(size) + (tangent * math.sin(size) / size if size > 1e-12 else 0)
        expected = start + (point * float(weights @ np.array(lengths))).reshape(SHAPE)
        close(single(MultiSlerp(weights=[0.5, 2.0, 1.5], from_base=from_base), TENSORS, START), expected)

    def test_directions_that_cancel_give_the_mean(self) -> None:
        value = single(MultiSlerp(), [TENSORS[0], -2 * TENSORS[0]], START)
        close(value, -0.5 * TENSORS[0].numpy())

    def test_weights_as_they_are(self) -> None:
        one = single(MultiSlerp(weights=[1.0, 1.0, 2.0]), TENSORS, START)
        four = single(MultiSlerp(weights=[1.0, 1.0, 2.0], normalize=False), TENSORS, START)
        torch.testing.assert_close(four, 4 * one)


@pytest.mark.parametrize("density", [0.25, 1.0])
def test_sce_is_select_calculate_erase(density: float) -> None:
    changes = [change.copy() for change in CHANGES]
    if density < 1:
        variance = np.var(np.stack(changes), axis=0).ravel()
        chosen = np.zeros(variance.size)
        chosen[np.argsort(-variance)[: int(density * np.count_nonzero(variance))]] = 1
        changes = [change * chosen.reshape(SHAPE) for change in changes]
    weights = np.array([np.mean(change**2) for change in changes])
    weights = weights / weights.sum()
    expected = np.zeros(SHAPE)
    for place in np.ndindex(*SHAPE):
        sign = np.sign(sum(change[place] for change in changes))
        kept = [i for i, change in enumerate(changes) if change[place] * sign > 0]
        if kept:
            expected[place] = sum(weights[i] * changes[i][place] for i in kept) / sum(weights[i] for i in kept)
    close(single(Sce(density=density, scaling=0.7), TENSORS, START), START.numpy() + 0.7 * expected)


def test_model_stock_row_by_row() -> None:
    value = single(ModelStock(by_row=True), TENSORS, START)
    for row in range(SHAPE[0]):
        tensors = [tensor[row : row + 1] for tensor in TENSORS]
        torch.testing.assert_close(value[row : row + 1], single(ModelStock(), tensors, START[row : row + 1]))


@pytest.mark.parametrize("method", [Simple(), Ties(density=0.5), Dare(), Breadcrumbs()])
def test_settings_of_no_tensor_change_nothing(method: MergeMethod) -> None:
    members = [random_member(seed) for seed in range(2)]
    plain = {part.name: part.value for part in merge_members(method, members, LAYOUT, base=BASE)}
    again = merge_members(method, members, LAYOUT, base=BASE, settings=lambda _: TensorSettings())
    assert all(torch.equal(part.value, plain[part.name]) for part in again)
