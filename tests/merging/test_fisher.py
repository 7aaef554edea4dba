from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from merging_members import Fishers, merged, random_member
from torch import Tensor

from regmean_lab.merging import MergeError, MergeMember
from regmean_lab.merging.fisher import Fisher


def naive(
    members: list[MergeMember],
    name: str,
    coefficients: list[float],
    normalization: Literal["none", "parameter", "model"] = "none",
    epsilon: float = 1e-10,
    before: bool = False,
) -> Tensor:
    """Σ cᵢ wᵢ θᵢ / Σ cᵢ wᵢ, element by element in Python's floats.

    With wᵢ = Fᵢ / ‖Fᵢ‖ + ε, or (Fᵢ + ε) / (‖Fᵢ‖ + ε) where ε is added before.
    """
    norms = []
    for member in members:
        assert member.fisher is not None
        names = list(member.weights) if normalization == "model" else [name]
        squares = sum(float(value) ** 2 for key in names for value in member.fisher.diagonal(key).flatten())
        norms.append(1.0 if normalization == "none" else math.sqrt(squares) + (epsilon if before else 0.0))
    shape = members[0].weights[name].shape
    result = []
    for position in range(shape.numel()):
        above = below = 0.0
        for member, coefficient, norm in zip(members, coefficients, norms, strict=True):
            assert member.fisher is not None
            information = float(member.fisher.diagonal(name).flatten()[position])
            weight = coefficient * ((information + epsilon) / norm if before else information / norm + epsilon)
            above += weight * float(member.weights[name].flatten()[position])
            below += weight
        result.append(above / below)
    return torch.tensor(result, dtype=torch.float64).reshape(shape)


@pytest.mark.parametrize("normalization", ["none", "parameter", "model"])
@pytest.mark.parametrize("coefficients", [None, [0.1, 0.6, 0.3]])
def test_weights_every_element_by_its_information(
    normalization: Literal["none", "parameter", "model"], coefficients: list[float] | None
) -> None:
    members = [random_member(seed) for seed in range(3)]
    result = merged(Fisher(normalization=normalization, coefficients=coefficients), members)
    for name, value in result.items():
        expected = naive(members, name, coefficients or [1 / 3] * 3, normalization)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalization", ["none", "parameter", "model"])
@pytest.mark.parametrize("epsilon", [1e-10, 1e-3])
@pytest.mark.parametrize("coefficients", [None, [0.1, 0.6, 0.3]])
def test_epsilon_can_be_added_before_the_division(
    normalization: Literal["none", "parameter", "model"], epsilon: float, coefficients: list[float] | None
) -> None:
    members = [tiny(random_member(seed), scale) for seed, scale in enumerate((1e-9, 1e-6, 1e-11))]
    method = Fisher(normalization=normalization, epsilon=epsilon, epsilon_added="before", coefficients=coefficients)
    after = merged(replace(method, epsilon_added="after"), members)
    for name, value in merged(method, members).items():
        expected = naive(members, name, coefficients or [1 / 3] * 3, normalization, epsilon, before=True)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        # Information of a size as in real models: where it is divided by a norm, the place decides.
        different = float((value - after[name]).norm() / value.norm()) > 1e-3
        assert different == (normalization != "none"), name


def tiny(member: MergeMember, scale: float) -> MergeMember:
    """The member with its information times ``scale``."""
    assert isinstance(member.fisher, Fishers)
    return replace(member, fisher=Fishers({name: scale * value for name, value in member.fisher.diagonals.items()}))


def test_a_member_without_any_information_weighs_1_where_epsilon_is_added_before() -> None:
    """(0 + ε) / (0 + ε), the published formula taken at its word."""
    members = [
        MergeMember("a", {"w": torch.tensor([1.0, 1.0])}, fisher=Fishers({"w": torch.zeros(2)})),
        MergeMember("b", {"w": torch.tensor([3.0, 3.0])}, fisher=Fishers({"w": torch.tensor([3.0, 4.0])})),
    ]
    result = merged(Fisher(normalization="parameter", epsilon_added="before"), members)["w"]
    torch.testing.assert_close(result, torch.tensor([(1 + 0.6 * 3) / 1.6, (1 + 0.8 * 3) / 1.8]))


def test_normalization_is_of_the_whole_parameter_where_labels_are_merged_apart() -> None:
    """Rows of a head that only some members annotate are merged in groups; the norm is still that of the parameter."""
    annotated = [(True, True, True, False, False, True), (True, True, False, True, False, True)]
    members = [random_member(seed, annotated=labels) for seed, labels in enumerate(annotated)]
    value = merged(Fisher(normalization="parameter"), members)["head.weight"]
    both = naive(members, "head.weight", [0.5, 0.5], "parameter")
    for row in (0, 1, 4, 5):  # label 4 is annotated by none, which counts as by all
        torch.testing.assert_close(value[row], both[row], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value[2], members[0].weights["head.weight"][2])
    torch.testing.assert_close(value[3], members[1].weights["head.weight"][3])


def test_an_element_that_no_data_moves_becomes_the_mean() -> None:
    zeros = Fishers({"w": torch.zeros(2)})
    members = [
        MergeMember("a", {"w": torch.tensor([1.0, 2.0])}, fisher=zeros),
        MergeMember("b", {"w": torch.tensor([3.0, 6.0])}, fisher=zeros),
    ]
    for normalization in ("none", "parameter", "model"):
        torch.testing.assert_close(merged(Fisher(normalization=normalization), members)["w"], torch.tensor([2.0, 4.0]))


def test_an_element_that_one_member_alone_knows_is_that_members() -> None:
    members = [
        MergeMember("a", {"w": torch.tensor([1.0])}, fisher=Fishers({"w": torch.tensor([1e-2])})),
        MergeMember("b", {"w": torch.tensor([3.0])}, fisher=Fishers({"w": torch.tensor([0.0])})),
    ]
    assert float(merged(Fisher(), members)["w"]) == pytest.approx(1.0, abs=1e-6)
    assert float(merged(Fisher(epsilon=1e-2), members)["w"]) == pytest.approx((2 * 1 + 1 * 3) / 3, abs=1e-6)


def test_a_member_without_information_is_an_error() -> None:
    members = [random_member(0), MergeMember("bare", random_member(1).weights)]
    with pytest.raises(MergeError, match="bare has no Fisher"):
        merged(Fisher(), members)


def test_information_of_another_shape_is_an_error() -> None:
    wrong = Fishers({"w": torch.ones(3)})
    members = [MergeMember(name, {"w": torch.ones(2)}, fisher=wrong) for name in "ab"]
    with pytest.raises(MergeError, match=r"of a for w: expected shape \(2,\), found \(3,\)"):
        merged(Fisher(), members)


@pytest.mark.parametrize("normalization", ["none", "parameter", "model"])
def test_information_with_nan_is_an_error_that_names_parameter_and_member(normalization: str) -> None:
    good, bad = random_member(0), random_member(1, name="broken")
    assert isinstance(bad.fisher, Fishers)
    bad.fisher.diagonals["norm.weight"][2] = math.nan  # type: ignore[index]
    with pytest.raises(MergeError, match=r"(?s)broken.*norm\.weight"):
        merged(Fisher(normalization=normalization), [good, bad])


def test_wrong_settings_are_told() -> None:
    problems = Fisher(normalization="layer", epsilon=0.0, epsilon_added="never", keep_top=-1).problems()
    settings = [problem.partition(":")[0] for problem in problems]
    assert settings == ["keep_top", "normalization", "epsilon", "epsilon_added"]
    assert "none, parameter, model" in problems[1]
    assert "after, before" in problems[3]
    assert Fisher(epsilon=math.nan).problems()
    assert Fisher().problems() == []
    assert Fisher().statistics == ("fisher",)
