"""ACTMat and ACE against matrices worked out by hand, and against plain loops in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from merging_members import BASE, LAYOUT, merged, normal, random_member, single
from torch import Tensor

from regmean_lab.merging import MergeError, merge_members
from regmean_lab.merging.ace import Ace, heterogeneity
from regmean_lab.merging.actmat import ActMat
from regmean_lab.merging.regmean import RegMean

NO_BASE: dict[str, Tensor] = {}


def naive_actmat(changes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w D DᵀD (Σ w DᵀD)⁺ of task matrices [out, in], entry by entry."""
    outputs, inputs = changes[0].shape
    left, right = torch.zeros(inputs, inputs).double(), torch.zeros(outputs, inputs).double()
    for change, weight in zip(changes, weights, strict=True):
        covariance = torch.zeros(inputs, inputs).double()
        for row in change:
            covariance += torch.outer(row, row)
        left += weight * covariance
        right += weight * change @ covariance
    return right @ torch.linalg.pinv(left, hermitian=True)


def naive_ace(changes: Sequence[Tensor], threshold: float, ridge: float, refined: float) -> Tensor:
    """Equations 5 to 19 of the paper, one after the other."""
    outputs, inputs = changes[0].shape
    logs = [math.log(float((change**2).sum())) for change in changes]
    mean = sum(logs) / len(logs)
    gamma = sum((value - mean) ** 2 for value in logs) / (len(logs) - 1) / mean**2
    left, right = torch.zeros(inputs, inputs).double(), torch.zeros(outputs, inputs).double()
    total, regular_sum, scaled = torch.zeros_like(left), torch.zeros_like(left), []
    for change in changes:
        centred = change - torch.stack([change[:, column].mean() for column in range(inputs)])
        covariance = sum((torch.outer(row, row) for row in centred), torch.zeros_like(left))
        trace = float(torch.trace(covariance))
        own = covariance / trace if gamma > threshold else covariance
        regular = own + torch.eye(inputs) * (ridge / trace if gamma > threshold else ridge)
        scaled.append(own)
        total += own
        regular_sum += regular
        right += centred @ regular
    prior = torch.ones(inputs, 1).double() @ total.mean(0, keepdim=True)
    if gamma > threshold:
        prior /= sum(float((change**2).sum()) for change in changes) / len(changes)
    pre = right @ torch.linalg.inv(regular_sum + prior)
    if gamma <= threshold:
        return pre
    residual = torch.zeros_like(pre)
    for change, own in zip(changes, scaled, strict=True):
        residual += change @ (own - regular_sum / len(changes))
    left_vectors, values, right_vectors = torch.linalg.svd(pre + residual, full_matrices=False)
    kept = int(len(values) * refined)
    for number in range(kept):
        pre = pre + values[:kept].mean() * torch.outer(left_vectors[:, number], right_vectors[number])
    return pre


class TestActMat:
    def test_by_hand(self) -> None:
        """C₁ = diag(4, 0), C₂ = diag(1, 9): of the first input 4/5 of member 1's change and 1/5 of member 2's."""
        base = torch.ones(2, 2, dtype=torch.float64)
        first = base + torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        second = base + torch.tensor([[0.0, 3.0], [1.0, 0.0]])
        found = single(ActMat(), [first, second], base)
        torch.testing.assert_close(found, base + torch.tensor([[8 / 5, 3.0], [1 / 5, 0.0]], dtype=torch.float64))

    @pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 9)])
    @pytest.mark.parametrize("transposed", [False, True])
    def test_against_loops(self, shape: tuple[int, int], transposed: bool) -> None:
        """Also where no member changes some directions of the input: there the pretrained weight stays."""
        base, changes = normal(1, *shape), [0.1 * normal(seed, *shape) for seed in (2, 3)]
        given = [base + change for change in changes]
        if transposed:
            found = single(ActMat(), [tensor.T for tensor in given], base.T, transposed=True).T
        else:
            found = single(ActMat(), given, base)
        torch.testing.assert_close(found, base + naive_actmat(changes, [1, 1]), atol=1e-6, rtol=1e-6)

    def test_coefficients_weight_members(self) -> None:
        base, changes = normal(1, 6, 4), [normal(seed, 6, 4) for seed in (2, 3)]
        found = single(ActMat(coefficients=[0.75, 0.25]), [base + change for change in changes], base)
        torch.testing.assert_close(found, base + naive_actmat(changes, [1.5, 0.5]))

    def test_a_new_head_and_all_else_is_averaged(self) -> None:
        members = [random_member(1), random_member(2)]
        found = merged(ActMat(), members)
        for name in ("head.weight", "norm.weight", "embedding.weight"):
            torch.testing.assert_close(found[name], sum(member.weights[name] for member in members) / 2)
        changes = [member.weights["block.0.dense.weight"] - BASE["block.0.dense.weight"] for member in members]
        expected = BASE["block.0.dense.weight"] + naive_actmat(changes, [1, 1])
        torch.testing.assert_close(found["block.0.dense.weight"], expected)

    def test_it_is_regmean_with_estimated_gram_matrices(self) -> None:
        members = [random_member(1), random_member(2)]
        same = merged(RegMean(off_diagonal=1.0, gram_from="estimated"), members)
        for name, value in merged(ActMat(), members).items():
            assert torch.equal(value, same[name])

    @pytest.mark.parametrize("method", [ActMat(), Ace(), RegMean(gram_from="estimated"), RegMean(gram_from="auto")])
    def test_without_a_base_it_is_refused(self, method: ActMat | Ace | RegMean) -> None:
        with pytest.raises(MergeError, match=f"{method.name} needs the weights of the model that the members were tra"):
            list(merge_members(method, [random_member(1), random_member(2)], LAYOUT))


class TestAce:
    def test_by_hand(self) -> None:
        """Two outputs, one input: centred changes (1, −1) and (2, −2), so that Σ̂ = 2 and 8 and c = 10.

        (2 + 2) (1, −1) + (8 + 2) (2, −2) = (24, −24), divided by 4 + 10 + 10 = 24.
        """
        base = torch.zeros(2, 1, dtype=torch.float64)
        first, second = torch.tensor([[3.0], [1.0]]).double(), torch.tensor([[2.0], [-2.0]]).double()
        found = single(Ace(heterogeneity=100, ridge=2.0), [first, second], base)
        torch.testing.assert_close(found, torch.tensor([[1.0], [-1.0]]).double())

    @pytest.mark.parametrize("sizes", [(0.1, 0.1), (0.02, 0.5)])
    @pytest.mark.parametrize("shape", [(7, 5), (4, 6)])
    def test_against_the_papers_equations(self, sizes: tuple[float, float], shape: tuple[int, int]) -> None:
        base = normal(1, *shape)
        changes = [size * normal(seed, *shape) for seed, size in zip((2, 3), sizes, strict=True)]
        method = Ace(heterogeneity=0.3, ridge=0.02, refined=0.5)
        differ = float(heterogeneity(torch.stack([change.square().sum() for change in changes]))) > 0.3
        assert differ == (sizes[0] != sizes[1])
        found = single(method, [base + change for change in changes], base)
        torch.testing.assert_close(found, base + naive_ace(changes, 0.3, 0.02, 0.5), rtol=1e-6, atol=1e-7)
        transposed = single(method, [(base + change).T for change in changes], base.T, transposed=True)
        torch.testing.assert_close(transposed.T, found)

    def test_members_without_a_change_stay_the_base(self) -> None:
        base = normal(1, 4, 3)
        torch.testing.assert_close(single(Ace(), [base, base.clone()], base), base)

    def test_three_members_with_coefficients(self) -> None:
        """Twice the weight is the member twice, but for what the paper takes the mean of over members."""
        base, changes = normal(1, 5, 4), [0.2 * normal(seed, 5, 4) for seed in (2, 3)]
        first, second = (base + change for change in changes)
        weighted = single(Ace(heterogeneity=100, coefficients=[2 / 3, 1 / 3]), [first, second], base)
        # Of two members with n cᵢ = 4/3 and 2/3; of three with 1 each the same sums, 3/2 as large.
        repeated = single(Ace(heterogeneity=100), [first, first, second], base)
        torch.testing.assert_close(weighted, repeated)

    @pytest.mark.parametrize(
        ("method", "problem"),
        [
            (Ace(heterogeneity=0), "heterogeneity: "),
            (Ace(ridge=-1), "ridge: "),
            (Ace(refined=1.5), "refined: "),
        ],
    )
    def test_settings_out_of_range(self, method: Ace, problem: str) -> None:
        assert [found for found in method.problems() if found.startswith(problem)]
