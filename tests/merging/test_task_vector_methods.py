"""Methods that merge task vectors element by element, each against its definition in plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from merging_members import BASE, LAYOUT, SHAPES, merged, normal, random_member, single
from torch import Tensor

from regmean_lab.merging import MergeMethod, merge_members
from regmean_lab.merging.breadcrumbs import Breadcrumbs
from regmean_lab.merging.dare import Dare
from regmean_lab.merging.della import Della
from regmean_lab.merging.model_stock import ModelStock
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.merging.ties import Ties

SHAPE = (6, 7)
START = normal(100, *SHAPE)
TENSORS = [START + 0.3 * normal(seed, *SHAPE) for seed in range(3)]
CHANGES = [(tensor - START).numpy() for tensor in TENSORS]


class TestTaskArithmetic:
    def test_is_the_base_plus_the_scaled_sum(self) -> None:
        expected = START.numpy() + 0.4 * sum(CHANGES)
        np.testing.assert_allclose(single(TaskArithmetic(), TENSORS, START), expected, rtol=1e-13, atol=1e-13)

    def test_coefficients_weight_the_task_vectors(self) -> None:
        method = TaskArithmetic(scaling=0.7, coefficients=[0.5, 0.3, 0.2])
        expected = START.numpy() + 0.7 * 3 * (0.5 * CHANGES[0] + 0.3 * CHANGES[1] + 0.2 * CHANGES[2])
        np.testing.assert_allclose(single(method, TENSORS, START), expected, rtol=1e-13, atol=1e-13)

    def test_a_scaling_of_one_over_the_members_is_the_mean(self) -> None:
        members = [random_member(seed) for seed in range(4)]
        mean = merged(Simple(), members)
        for name, value in merged(TaskArithmetic(scaling=0.25), members).items():
            torch.testing.assert_close(value, mean[name], rtol=1e-13, atol=1e-13)

    def test_half_precision_is_computed_in_float32(self) -> None:
        # 1 + 1/256 has no bfloat16: computed there, the first task vectors would be lost in the sum.
        values, start = [1.0, 1.0, 2.0], torch.tensor([1.0])
        tensors = [torch.tensor([value + 2**-8], dtype=torch.bfloat16) for value in values[2:]] * 3
        result = single(TaskArithmetic(scaling=1 / 3), tensors, start.bfloat16())
        assert result.dtype == torch.bfloat16
        assert float(result) == float(tensors[0])


class TestTies:
    @staticmethod
    def naive(changes: list[np.ndarray], density: float, weights: list[float]) -> np.ndarray:
        """The published three steps on flat vectors."""
        count = math.ceil(density * changes[0].size - 1e-9)
        trimmed = []
        for change in changes:
            kept = np.argsort(-np.abs(change).ravel())[:count]
            part = np.zeros(change.size)
            part[kept] = change.ravel()[kept]
            trimmed.append(part)
        result = np.zeros(changes[0].size)
        for element in range(result.size):
            elected = np.sign(sum(w * part[element] for w, part in zip(weights, trimmed, strict=True)))
            chosen = [(w, p[element]) for w, p in zip(weights, trimmed, strict=True) if p[element] * elected > 0]
            if chosen:
                result[element] = sum(w * v for w, v in chosen) / sum(w for w, _ in chosen)
        return result

    @pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
    @pytest.mark.parametrize("scope", ["model", "parameter"])
    def test_is_the_published_procedure(self, density: float, scope: str) -> None:
        value = single(Ties(density=density, scope=scope, scaling=0.9), TENSORS, START)
        expected = START.numpy() + 0.9 * self.naive(CHANGES, density, [1, 1, 1]).reshape(SHAPE)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-12)

    def test_the_largest_changes_of_the_whole_model_are_kept(self) -> None:
        members = [random_member(seed) for seed in range(3)]
        names = list(BASE)
        flat = [np.concatenate([(m.weights[n] - BASE[n]).numpy().ravel() for n in names]) for m in members]
        expected = self.naive(flat, 0.3, [0.6, 1.5, 0.9])
        value = merged(Ties(density=0.3, coefficients=[0.2, 0.5, 0.3]), members)
        found = np.concatenate([(value[n] - BASE[n]).numpy().ravel() for n in names])
        np.testing.assert_allclose(found, expected, atol=1e-12)
        per_parameter = merged(Ties(density=0.3, scope="parameter"), members)
        assert any(not torch.allclose(per_parameter[name], value[name]) for name in names)

    def test_what_stays_each_members_own_has_no_part_in_trimming(self) -> None:
        members = [random_member(seed) for seed in range(2)]
        huge = [
            replace(m, weights={**m.weights, "embedding.weight": m.weights["embedding.weight"] * 1e6}) for m in members
        ]
        method = Ties(keep_layers=["embedding"])
        one, other = merged(method, members), merged(method, huge)
        assert all(torch.equal(value, other[name]) for name, value in one.items())
        assert "embedding.weight" not in one

    def test_members_that_moved_alike_keep_what_is_not_trimmed(self) -> None:
        value = single(Ties(density=1), [TENSORS[0]] * 3, START)
        torch.testing.assert_close(value, TENSORS[0], rtol=1e-14, atol=1e-14)


class TestDare:
    @pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
    def test_elements_are_dropped_or_scaled_up(self, rate: float) -> None:
        tensors = [normal(seed, 50, 60) for seed in (1, 1)]
        start = torch.zeros(50, 60, dtype=torch.float64)
        value = single(Dare(drop_rate=rate, coefficients=[1, 0]), tensors, start) / tensors[0] * (1 - rate)
        dropped = value == 0
        torch.testing.assert_close(value[~dropped], torch.ones_like(value[~dropped]), rtol=1e-12, atol=0)
        assert float(dropped.double().mean()) == pytest.approx(rate, abs=4.5 * math.sqrt(rate * (1 - rate) / 3000))

    def test_linear_is_the_mean_of_the_sparse_task_vectors(self) -> None:
        """Each member's sparse task vector is found from a merge in which it alone counts."""
        alone = [
            single(Dare(drop_rate=0.4, coefficients=np.eye(3)[i].tolist()), TENSORS, START) - START for i in range(3)
        ]
        assert len({tuple((part != 0).flatten().tolist()) for part in alone}) == 3
        value = single(Dare(drop_rate=0.4, scaling=1.5, coefficients=[0.5, 0.3, 0.2]), TENSORS, START)
        expected = START + 1.5 * (0.5 * alone[0] + 0.3 * alone[1] + 0.2 * alone[2])
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        elected = single(Dare(drop_rate=0.4, then="ties"), TENSORS, START) - START
        naive = TestTies.naive([part.numpy() for part in alone], 1.0, [1, 1, 1])
        np.testing.assert_allclose(elected.numpy().ravel(), naive, rtol=1e-12, atol=1e-12)

    def test_nothing_dropped_is_the_mean(self) -> None:
        members = [random_member(seed) for seed in range(3)]
        mean = merged(Simple(), members)
        for name, value in merged(Dare(drop_rate=0), members).items():
            torch.testing.assert_close(value, mean[name], rtol=1e-13, atol=1e-13)

    def test_the_mean_over_seeds_is_the_mean(self) -> None:
        values = torch.stack([single(Dare(seed=seed, drop_rate=0.5), TENSORS, START) for seed in range(400)])
        mean = torch.stack(TENSORS).mean(0)
        largest = max(float(np.abs(change).max()) for change in CHANGES)
        assert float((values.mean(0) - mean).abs().max()) < 4.5 * largest / math.sqrt(3 * 400)
        assert float(values.std(0).min()) > 0


@pytest.mark.parametrize("method", [Dare(drop_rate=0.5), Della()], ids=lambda method: method.name)
class TestRandomMethods:
    def test_a_seed_gives_the_same_merge(self, method: MergeMethod) -> None:
        members = [random_member(seed) for seed in range(2)]
        one, again = merged(method, members), merged(method, members)
        other = merged(replace(method, seed=1), members)  # type: ignore[call-arg]
        assert all(torch.equal(one[name], again[name]) for name in SHAPES)
        assert not any(torch.equal(one[name], other[name]) for name in BASE)

    def test_what_is_merged_before_or_beside_makes_no_difference(self, method: MergeMethod) -> None:
        members = [random_member(seed) for seed in range(2)]
        everything = merged(method, members)
        alone = merged(replace(method, merge_layers=["block.0.dense"]), members)
        assert set(alone) == {"block.0.dense.weight", "block.0.dense.bias"}
        assert all(torch.equal(value, everything[name]) for name, value in alone.items())
        backwards = [replace(m, weights=dict(reversed(list(m.weights.items())))) for m in members]
        assert all(torch.equal(value, everything[name]) for name, value in merged(method, backwards).items())

    def test_float32_and_float64_drop_the_same(self, method: MergeMethod) -> None:
        wide = merged(method, [random_member(seed) for seed in range(2)])
        narrow = merged(method, [random_member(seed, dtype=torch.float32) for seed in range(2)])
        for name, value in narrow.items():
            torch.testing.assert_close(value.double(), wide[name], rtol=1e-4, atol=1e-5)


class TestDella:
    @staticmethod
    def kept_shares(vector: Tensor, seeds: int, *, transposed: bool = False, **settings: float) -> Tensor:
        """How often each element of a task vector survives."""
        start = torch.zeros_like(vector)
        method = Della(coefficients=[1, 0], then="linear", scaling=1, **settings)  # type: ignore[arg-type]
        found = [
            single(replace(method, seed=seed), [vector, vector], start, transposed=transposed) for seed in range(seeds)
        ]
        return torch.stack([(value != 0).double() for value in found]).mean(0)

    def test_small_elements_of_a_row_are_dropped_more_often(self) -> None:
        vector = torch.tensor([[1.0, -5.0, 3.0, 2.0, -4.0], [50.0, 10.0, -40.0, 20.0, 30.0]], dtype=torch.float64)
        drop = {rank: 0.5 + 0.3 - 0.6 * rank / 4 for rank in range(5)}
        expected = 1 - torch.tensor(
            [[drop[0], drop[4], drop[2], drop[1], drop[3]], [drop[4], drop[0], drop[3], drop[1], drop[2]]],
            dtype=torch.float64,
        )
        found = self.kept_shares(vector, 600, drop_rate=0.5, window=0.6)
        assert float((found - expected).abs().max()) < 4.5 * math.sqrt(0.25 / 600)
        turned = self.kept_shares(vector.T.contiguous(), 600, transposed=True, drop_rate=0.5, window=0.6)
        assert float((turned.T - expected).abs().max()) < 4.5 * math.sqrt(0.25 / 600)

    def test_what_survives_is_scaled_up_by_its_own_rate(self) -> None:
        vector = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
        method = Della(drop_rate=0.4, window=0.4, then="linear", scaling=1, coefficients=[1, 0])
        values = torch.cat([single(replace(method, seed=s), [vector, vector], vector * 0) for s in range(30)])
        for column, rate in enumerate([0.6, 0.4, 0.2]):
            kept = values[values[:, column] != 0, column]
            torch.testing.assert_close(kept, torch.full_like(kept, (column + 1) / (1 - rate)))

    def test_without_a_window_it_is_dare_with_signs_elected(self) -> None:
        members = [random_member(seed) for seed in range(3)]
        della = merged(Della(drop_rate=0.25, window=0, scaling=1, seed=5), members)
        dare = merged(Dare(drop_rate=0.25, then="ties", seed=5), members)
        for name, value in della.items():
            torch.testing.assert_close(value, dare[name], rtol=1e-13, atol=1e-13)

    def test_a_row_of_one_element_is_dropped_at_the_mean_rate(self) -> None:
        found = self.kept_shares(torch.ones(300, 1, dtype=torch.float64), 10, drop_rate=0.3, window=0.5)
        assert float(found.mean()) == pytest.approx(0.7, abs=4.5 * math.sqrt(0.21 / 3000))


class TestBreadcrumbs:
    def test_the_smallest_and_the_largest_changes_are_hidden(self) -> None:
        change = torch.tensor([0.5, -9.0, 0.1, 2.0, -1.0, 0.2, 3.0, -0.3, 0.4, -4.0], dtype=torch.float64)
        value = single(Breadcrumbs(small=0.3, large=0.2, scaling=0.5), [change, change], torch.zeros_like(change))
        assert value.tolist() == [0.5, 0.0, 0.0, 2.0, -1.0, 0.0, 3.0, 0.0, 0.4, 0.0]

    def test_is_the_base_plus_the_scaled_sum(self) -> None:
        expected = START.numpy().copy()
        for change, weight in zip(CHANGES, [0.6, 1.5, 0.9], strict=True):
            order = np.argsort(np.abs(change).ravel())
            mask = np.zeros(change.size)
            mask[order[int(0.5 * change.size) : change.size - int(0.1 * change.size)]] = 1
            expected += 0.2 * weight * change * mask.reshape(SHAPE)
        method = Breadcrumbs(small=0.5, large=0.1, coefficients=[0.2, 0.5, 0.3])
        np.testing.assert_allclose(single(method, TENSORS, START), expected, rtol=1e-13, atol=1e-13)

    def test_nothing_hidden_is_task_arithmetic(self) -> None:
        members = [random_member(seed) for seed in range(3)]
        expected = merged(TaskArithmetic(scaling=0.2), members)
        for name, value in merged(Breadcrumbs(small=0, large=0), members).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-14, atol=1e-14)


class TestModelStock:
    @pytest.mark.parametrize("count", [2, 3])
    def test_is_the_published_formula(self, count: int) -> None:
        shared = normal(7, *SHAPE)
        tensors = [START + shared + normal(seed, *SHAPE) for seed in range(count)]
        changes = [(tensor - START).numpy().ravel() for tensor in tensors]
        cosines = [
            float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for i, a in enumerate(changes) for b in changes[:i]
        ]
        cosine = sum(cosines) / len(cosines)
        ratio = count * cosine / (1 + (count - 1) * cosine)
        assert 0.1 < ratio < 0.95
        expected = ratio * np.mean([tensor.numpy() for tensor in tensors], axis=0) + (1 - ratio) * START.numpy()
        np.testing.assert_allclose(single(ModelStock(), tensors, START), expected, rtol=1e-12, atol=1e-13)

    def test_two_members_give_the_point_nearest_to_the_centre_of_their_shell(self) -> None:
        """Members are centre + noise at right angles to all else; the result is the foot of the perpendicular.

        With w₁ − μ, w₂ − μ and w₀ − μ such that (w₁ − μ) ⊥ (w₂ − μ) and both ⊥ (w₀ − μ), the
        point of the plane of w₀, w₁ and w₂ that is nearest to μ.
        """
        centre, noise = torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
        start, one, other = centre + 2.0 * noise[2], centre + noise[0], centre + noise[1]
        plane = torch.stack([one - start, other - start], 1).numpy()
        foot = start.numpy() + plane @ np.linalg.lstsq(plane, (centre - start).numpy(), rcond=None)[0]
        np.testing.assert_allclose(single(ModelStock(), [one, other], start), foot, rtol=1e-12, atol=1e-12)

    def test_members_at_right_angles_or_more_give_the_base(self) -> None:
        one = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
        for other in (torch.tensor([0.0, 1.0, 0.0]), torch.tensor([-1.0, 0.2, -0.5])):
            value = single(ModelStock(), [START[0, :3] + one, START[0, :3] + other.double()], START[0, :3])
            torch.testing.assert_close(value, START[0, :3], rtol=1e-14, atol=1e-14)

    def test_members_that_moved_alike_give_that_member(self) -> None:
        torch.testing.assert_close(single(ModelStock(), [TENSORS[0]] * 3, START), TENSORS[0], rtol=1e-12, atol=1e-12)

    def test_members_count_alike(self) -> None:
        (problem,) = ModelStock(coefficients=[0.5, 0.5]).problems()
        assert problem.startswith("coefficients: model_stock finds the weights itself")


@pytest.mark.parametrize("name", list(BASE))
def test_nothing_moved_gives_the_base(name: str) -> None:
    members = [replace(random_member(seed), weights={name: BASE[name]}) for seed in range(2)]
    for method in (TaskArithmetic(), Ties(), Dare(), Della(), Breadcrumbs(), ModelStock()):
        (part,) = merge_members(method, members, LAYOUT, base=BASE)
        assert torch.equal(part.value, BASE[name])


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_task_vectors_of_another_scale_are_merged_alike(scale: float) -> None:
    for method in (TaskArithmetic(), Ties(), Dare(), Della(), Breadcrumbs(small=0.2), ModelStock()):
        expected = scale * (single(method, TENSORS, START) - START)
        scaled = [START + scale * (tensor - START) for tensor in TENSORS]
        torch.testing.assert_close(single(method, scaled, START) - START, expected, rtol=1e-7, atol=1e-12 * scale)


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (TaskArithmetic(scaling=0), "scaling"),
        (TaskArithmetic(scaling=math.nan), "scaling"),
        (Ties(density=0), "density"),
        (Ties(density=1.1), "density"),
        (Ties(scope="layer"), "scope"),
        (Dare(drop_rate=1), "drop_rate"),
        (Dare(drop_rate=-0.1), "drop_rate"),
        (Dare(then="sum"), "then"),
        (Della(drop_rate=1), "drop_rate"),
        (Della(drop_rate=0.05), "window"),
        (Della(drop_rate=0.95), "window"),
        (Della(window=-0.1), "window"),
        (Della(then="count"), "then"),
        (Breadcrumbs(small=1), "small"),
        (Breadcrumbs(large=-1), "large"),
        (Breadcrumbs(small=0.7, large=0.3), "large"),
        (Ties(coefficients=[0.5, 0.4]), "coefficients"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_wrong_settings_are_told(method: MergeMethod, setting: str) -> None:
    (problem,) = method.problems()
    assert problem.startswith(f"{setting}: ")


def test_right_settings_have_no_problems() -> None:
    for method in (TaskArithmetic(), Ties(density=1), Dare(drop_rate=0), Della(drop_rate=0.07), Breadcrumbs(small=0)):
        assert method.problems() == []
