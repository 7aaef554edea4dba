"""RegMean with loss-weighted and with estimated Gram matrices against closed forms in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from merging_members import BASE, Grams, merged, random_gram, random_member
from torch import Tensor

from regmean_lab.merging import Layout, MergeError, MergeMember
from regmean_lab.merging.parameters import StackedLayers
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.regmean_plusplus import RegMeanPlusPlus
from regmean_lab.merging.regmean_sequential import RegMeanSequential

DENSE = "block.0.dense.weight"
WEIGHTED = RegMean(gram="weighted")


def weighted_member(seed: int) -> MergeMember:
    """A member with weighted Gram matrices as well, whose sizes differ between members by orders of magnitude."""
    generator = torch.Generator().manual_seed(100 + seed)
    matrices = {
        layer: random_gram(size, generator) * 10.0 ** (3 * seed) for layer, size in (("block.0.dense", 4), ("head", 5))
    }
    return replace(random_member(seed), others={"weighted_gram": Grams(matrices)})


def closed_form(weights: list[Tensor], matrices: list[Tensor], shares: list[float]) -> Tensor:
    """(Σ s M/‖M‖)⁻¹ Σ s M/‖M‖ W of weights [out, in]."""
    left = sum(share * matrix / matrix.norm() for matrix, share in zip(matrices, shares, strict=True))
    right = sum(
        share * matrix / matrix.norm() @ weight.T
        for matrix, weight, share in zip(matrices, weights, shares, strict=True)
    )
    assert isinstance(left, Tensor) and isinstance(right, Tensor)
    return torch.linalg.solve(left, right).T


def weighted_of(members: list[MergeMember], layer: str) -> list[Tensor]:
    return [member.others["weighted_gram"].matrix(layer) for member in members]


@pytest.mark.parametrize("shares", [None, [0.5, 0.3, 0.2]])
def test_the_closed_form_whatever_the_members_sizes(shares: list[float] | None) -> None:
    members = [weighted_member(seed) for seed in (1, 2, 3)]
    found = merged(replace(WEIGHTED, coefficients=shares), members)
    for name, layer in ((DENSE, "block.0.dense"), ("head.weight", "head")):
        weights = [member.weights[name] for member in members]
        expected = closed_form(weights, weighted_of(members, layer), shares or [1.0] * 3)
        torch.testing.assert_close(found[name], expected)
    torch.testing.assert_close(found["norm.weight"], merged(RegMean(coefficients=shares), members)["norm.weight"])


def test_entries_off_the_diagonal_have_a_factor_of_their_own() -> None:
    members = [weighted_member(seed) for seed in (1, 2)]
    found = merged(replace(WEIGHTED, weighted_off_diagonal=0.6), members)[DENSE]
    scaled = [matrix / matrix.norm() for matrix in weighted_of(members, "block.0.dense")]
    scaled = [0.6 * matrix + 0.4 * torch.diag(matrix.diagonal()) for matrix in scaled]
    left = scaled[0] + scaled[1]
    right = sum(matrix @ member.weights[DENSE].T for matrix, member in zip(scaled, members, strict=True))
    assert isinstance(right, Tensor)
    torch.testing.assert_close(found, torch.linalg.solve(left, right).T)


def test_with_diagonals_alone_too() -> None:
    members = [weighted_member(seed) for seed in (1, 2)]
    found = merged(replace(WEIGHTED, diagonal=True), members)[DENSE]
    diagonals = [(matrix / matrix.norm()).diagonal() for matrix in weighted_of(members, "block.0.dense")]
    total = sum(diagonal * member.weights[DENSE] for diagonal, member in zip(diagonals, members, strict=True))
    torch.testing.assert_close(found, total / (diagonals[0] + diagonals[1]))


def test_a_size_of_zero_is_no_division_by_zero() -> None:
    members = [weighted_member(1), weighted_member(2)]
    nothing = Grams({layer: torch.zeros(size, size).double() for layer, size in (("block.0.dense", 4), ("head", 5))})
    members[1] = replace(members[1], others={"weighted_gram": nothing})
    torch.testing.assert_close(merged(WEIGHTED, members)[DENSE], members[0].weights[DENSE])


def test_a_member_without_them_is_named() -> None:
    with pytest.raises(MergeError, match=r"member member 2 has no loss-weighted Gram matrices \(weighted_gram\)"):
        merged(WEIGHTED, [weighted_member(1), random_member(2)])


class TestEstimated:
    def test_where_one_member_has_none(self) -> None:
        """Measured and estimated matrices are brought to one size."""
        members = [random_member(1), replace(random_member(2), gram=None)]
        change = members[1].weights[DENSE] - BASE[DENSE]
        matrices = [members[0].gram.matrix("block.0.dense"), change.T @ change]  # type: ignore[union-attr]
        found = merged(RegMean(off_diagonal=1.0, gram_from="auto"), members)
        expected = closed_form([member.weights[DENSE] for member in members], matrices, [1, 1])
        torch.testing.assert_close(found[DENSE], expected)
        mean = (members[0].weights["head.weight"] + members[1].weights["head.weight"]) / 2
        torch.testing.assert_close(found["head.weight"], mean)

    def test_where_one_member_has_no_weighted_ones(self) -> None:
        members = [weighted_member(1), random_member(2)]
        change = members[1].weights[DENSE] - BASE[DENSE]
        matrices = [*weighted_of(members[:1], "block.0.dense"), change.T @ change]
        found = merged(replace(WEIGHTED, gram_from="auto"), members)
        expected = closed_form([member.weights[DENSE] for member in members], matrices, [1, 1])
        torch.testing.assert_close(found[DENSE], expected)

    def test_where_all_have_them_it_changes_nothing(self) -> None:
        members = [random_member(1), random_member(2)]
        plain = merged(RegMean(), members)
        for name, value in merged(RegMean(gram_from="auto"), members).items():
            assert torch.equal(value, plain[name])

    def test_the_factor_holds_for_them_too(self) -> None:
        members = [random_member(1), random_member(2)]
        changes = [member.weights[DENSE] - BASE[DENSE] for member in members]
        scaled = [0.5 * c.T @ c + 0.5 * torch.diag((c.T @ c).diagonal()) for c in changes]
        right = scaled[0] @ members[0].weights[DENSE].T + scaled[1] @ members[1].weights[DENSE].T
        found = merged(RegMean(off_diagonal=0.5, gram_from="estimated"), members)[DENSE]
        torch.testing.assert_close(found, torch.linalg.solve(scaled[0] + scaled[1], right).T)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"gram": "weigthed"}, "gram: expected one of plain, weighted"),
        ({"gram_from": "published"}, "gram_from: expected one of measured, estimated, auto"),
        ({"ridge": 1.0}, "ridge: has no effect with regularization=off_diagonal; give regularization=ridge"),
        (
            {"ridge_towards": "base", "regularization": "shrinkage"},
            "ridge_towards: has no effect with regularization=shrinkage; give regularization=ridge",
        ),
        ({"weighted_off_diagonal": 0.5}, "weighted_off_diagonal: has no effect with gram=plain; give off_diagonal"),
        ({"gram": "weighted", "weighted_off_diagonal": 2.0}, "weighted_off_diagonal: expected"),
        ({"gram": "weighted", "gram_from": "estimated"}, "gram_from: weights do not tell how much rows matter"),
    ],
)
def test_settings_that_do_not_go_together(settings: Mapping[str, Any], problem: str) -> None:
    assert any(found.startswith(problem) for found in RegMean(**settings).problems())


def test_the_published_factor_of_plain_matrices_does_not_stand_in_the_way_of_weighted_ones() -> None:
    """``suite=emotion model=roberta_base`` set it, whatever matrices are asked for."""
    assert RegMean(gram="weighted", off_diagonal=0.1).problems() == []
    assert RegMean(regularization="ridge", off_diagonal=0.1).problems() == []
    assert RegMean(diagonal=True, off_diagonal=0.1).problems() == []


def test_what_each_form_asks_for() -> None:
    assert RegMean().statistics == ("gram",) and not RegMean().needs_base
    assert WEIGHTED.statistics == ("weighted_gram",) and not WEIGHTED.needs_base and not WEIGHTED.reads_experts
    estimated = RegMean(gram_from="estimated")
    assert estimated.statistics == () and estimated.needs_base and estimated.reads_experts
    assert RegMean(gram_from="auto").statistics == ("gram",) and RegMean(gram_from="auto").stands_in
    assert RegMeanSequential(gram="weighted").statistics == ("weighted_gram",)


def test_fused_experts_have_no_weighted_matrices_and_are_averaged() -> None:
    layout = Layout({}, stacked={"experts": StackedLayers("experts", 2)})
    assert RegMean().averaged_maps(["experts"], layout) == []
    assert WEIGHTED.averaged_maps(["experts"], layout) == ["experts"]
    assert WEIGHTED.gram_layers(["experts"], layout) == []
    members = [MergeMember(str(seed), {"experts": torch.full((2, 3, 4), float(seed))}) for seed in (1, 3)]
    assert torch.equal(merged(WEIGHTED, members, layout)["experts"], torch.full((2, 3, 4), 2.0))


def test_regmean_plusplus_measures_its_own() -> None:
    assert RegMeanPlusPlus().problems() == []
    for settings in ({"gram": "weighted"}, {"gram_from": "estimated"}):
        (problem,) = RegMeanPlusPlus(**settings).problems()  # type: ignore[arg-type]
        assert "regmean_plusplus measures them on the merged model" in problem
