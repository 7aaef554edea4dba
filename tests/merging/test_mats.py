"""MaTS against its system of equations, written out with Kronecker products and solved by NumPy in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from merging_members import GradientGrams, Grams, merged, normal, random_gram, random_member
from torch import Tensor

from regmean_lab.merging import Layout, LinearLayer, MergeError, MergeMember
from regmean_lab.merging.linear_algebra import conjugate_gradient
from regmean_lab.merging.mats import Mats
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple

LINEAR = Layout({"layer.weight": LinearLayer("layer")})
TRANSPOSED = Layout({"layer.weight": LinearLayer("layer", transposed=True)})
EXACT = {"iterations": 2000, "tolerance": 1e-14}


def members_of(count: int = 3, outputs: int = 3, inputs: int = 4, scale: float = 1.0) -> list[MergeMember]:
    generator = torch.Generator().manual_seed(0)
    return [
        MergeMember(
            f"member {seed}",
            {"layer.weight": normal(seed, outputs, inputs)},
            gram=Grams({"layer": random_gram(inputs, generator)}),
            gradient_gram=GradientGrams({"layer": scale * (seed + 1) * random_gram(outputs, generator)}),
        )
        for seed in range(count)
    ]


def parts(member: MergeMember) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert isinstance(member.gram, Grams)
    assert isinstance(member.gradient_gram, Grams)
    return (
        member.weights["layer.weight"].numpy(),
        member.gram.matrix("layer").numpy(),
        member.gradient_gram.matrix("layer").numpy(),
    )


def solved(members: Sequence[MergeMember], coefficients: Sequence[float]) -> np.ndarray:
    """The weight [out, in] that solves Σ cᵢ (Hᵢ ⊗ Gᵢ) vec W = Σ cᵢ (Hᵢ ⊗ Gᵢ) vec Wᵢ."""
    system, right = 0.0, 0.0
    for member, coefficient in zip(members, coefficients, strict=True):
        weight, gram, gradient = parts(member)
        block = coefficient * np.kron(gradient, gram)
        system, right = system + block, right + block @ weight.ravel()
    return np.linalg.solve(system, right).reshape(parts(members[0])[0].shape)


@pytest.mark.parametrize("coefficients", [None, [0.6, 0.3, 0.1]])
@pytest.mark.parametrize("start", ["mean", "base"])
@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_solves_the_published_system(coefficients: list[float] | None, start: str, scale: float) -> None:
    members = members_of(scale=scale)
    method = Mats(coefficients=coefficients, start=start, **EXACT)  # type: ignore[arg-type]
    value = merged(method, members, LINEAR, {"layer.weight": normal(9, 3, 4)})["layer.weight"]
    np.testing.assert_allclose(value, solved(members, coefficients or [1 / 3] * 3), rtol=1e-8, atol=1e-10)


def test_a_transposed_weight_gives_the_same() -> None:
    members = members_of()
    turned = [replace(m, weights={"layer.weight": m.weights["layer.weight"].T.contiguous()}) for m in members]
    for method in (Mats(iterations=4), Mats(iterations=3, start="base", off_diagonal=0.5)):
        value = merged(method, turned, TRANSPOSED, {"layer.weight": normal(9, 3, 4).T})["layer.weight"]
        expected = merged(method, members, LINEAR, {"layer.weight": normal(9, 3, 4)})["layer.weight"]
        torch.testing.assert_close(value.T, expected, rtol=1e-10, atol=1e-12)


def test_with_equal_gradients_it_is_regmean() -> None:
    members = members_of()
    same = [replace(member, gradient_gram=members[0].gradient_gram) for member in members]
    value = merged(Mats(**EXACT), same, LINEAR)["layer.weight"]  # type: ignore[arg-type]
    expected = merged(RegMean(off_diagonal=1), same, LINEAR)["layer.weight"]
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-10)


def test_off_diagonal_entries_of_both_are_scaled() -> None:
    members = members_of()

    def scaled(source: Grams) -> Tensor:
        matrix = source.matrix("layer")
        return 0.3 * matrix + 0.7 * matrix.diagonal().diag()

    changed = [
        replace(
            m, gram=Grams({"layer": scaled(m.gram)}), gradient_gram=GradientGrams({"layer": scaled(m.gradient_gram)})
        )  # type: ignore[arg-type]
        for m in members
    ]
    value = merged(Mats(off_diagonal=0.3, **EXACT), members, LINEAR)["layer.weight"]  # type: ignore[arg-type]
    np.testing.assert_allclose(value, solved(changed, [1 / 3] * 3), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("start", ["mean", "base"])
def test_what_no_data_tells_stays_as_it_was_at_the_start(start: str) -> None:
    members, base = members_of(), normal(9, 3, 4)
    blind = []
    for member in members:
        _, gram, gradient = (torch.from_numpy(part).clone() for part in parts(member))
        gram[1], gram[:, 1], gradient[2], gradient[:, 2] = 0, 0, 0, 0
        blind.append(replace(member, gram=Grams({"layer": gram}), gradient_gram=GradientGrams({"layer": gradient})))
    value = merged(Mats(start=start, **EXACT), blind, LINEAR, {"layer.weight": base})["layer.weight"]  # type: ignore[arg-type]
    expected = base if start == "base" else merged(Simple(), blind, LINEAR)["layer.weight"]
    torch.testing.assert_close(value[:, 1], expected[:, 1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value[2], expected[2], rtol=1e-12, atol=1e-12)
    assert float((value - expected)[:2, [0, 2, 3]].abs().min()) > 1e-3


def test_a_layer_without_any_gradient_is_averaged() -> None:
    members = [replace(m, gradient_gram=GradientGrams({"layer": torch.zeros(3, 3)})) for m in members_of()]
    expected = merged(Simple(), members, LINEAR)["layer.weight"]
    assert torch.equal(merged(Mats(start="base"), members, LINEAR, {})["layer.weight"], expected)


def test_iterations_and_tolerance_say_how_far_it_goes() -> None:
    members = members_of(inputs=12, outputs=10)
    exact = solved(members, [1 / 3] * 3)

    def error(**settings: float) -> float:
        value = merged(Mats(**settings), members, LINEAR)["layer.weight"]  # type: ignore[arg-type]
        return float(np.abs(value.numpy() - exact).max())

    errors = [error(iterations=steps, tolerance=1e-15) for steps in (1, 5, 20, 80, 300)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.05
    assert errors[-1] < 1e-6
    assert error(iterations=300, tolerance=0.5) > error(iterations=300, tolerance=1e-2) > 1e-6


def test_all_but_linear_layers_is_averaged() -> None:
    members = [random_member(seed) for seed in range(3)]
    value, mean = merged(Mats(), members), merged(Simple(), members)
    assert {name for name in mean if not torch.equal(value[name], mean[name])} == {
        "block.0.dense.weight",
        "head.weight",
    }


def test_layers_that_are_too_wide_for_statistics_are_averaged() -> None:
    members = []
    for seed in range(2):
        member = random_member(seed)
        assert isinstance(member.gradient_gram, GradientGrams)
        few = {"head": member.gradient_gram.matrices["head"]}
        members.append(replace(member, gradient_gram=GradientGrams(few)))
    value, mean = merged(Mats(), members), merged(Simple(), members)
    assert torch.equal(value["block.0.dense.weight"], mean["block.0.dense.weight"])
    assert not torch.equal(value["head.weight"], mean["head.weight"])
    with pytest.raises(MergeError, match=r"layer block\.0\.dense: member member 0 has no Gram matrix of gradients"):
        merged(Mats(), [members[0], random_member(5)])


def test_rows_of_labels_are_solved_over_the_members_that_annotate_them() -> None:
    annotated = [(True, True, False, False, True, False), (True, False, True, False, True, False), (True,) * 6]
    members = [random_member(seed, annotated=labels) for seed, labels in enumerate(annotated)]
    value = merged(Mats(**EXACT), members)["head.weight"]  # type: ignore[arg-type]
    for chosen, rows in (((0, 1, 2), [0, 4]), ((0, 2), [1]), ((1, 2), [2]), ((2,), [3, 5])):
        part = [
            MergeMember(
                members[i].name,
                {"layer.weight": members[i].weights["head.weight"][rows]},
                gram=Grams({"layer": members[i].gram.matrix("head")}),  # type: ignore[union-attr]
                gradient_gram=GradientGrams({"layer": members[i].gradient_gram.matrix("head")[rows][:, rows]}),  # type: ignore[union-attr]
            )
            for i in chosen
        ]
        expected = solved(part, [1 / len(chosen)] * len(chosen))
        np.testing.assert_allclose(value[rows], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gram": None}, "member second has no Gram matrices, which mats needs"),
        ({"gradient_gram": None}, "member second has no Gram matrices of gradients"),
        ({"gram": Grams({"layer": torch.eye(3)})}, r"gram of second for layer layer: expected shape \(4, 4\)"),
        ({"gradient_gram": GradientGrams({"layer": torch.eye(2)})}, r"gradient_gram of second .* shape \(3, 3\)"),
        ({"gradient_gram": GradientGrams({"layer": torch.full((3, 3), math.nan)})}, "gradient_gram of second .* NaN"),
    ],
)
def test_statistics_that_do_not_fit_are_told(changes: dict[str, Grams | None], message: str) -> None:
    first, second, _ = members_of()
    with pytest.raises(MergeError, match=message):
        merged(Mats(), [first, replace(second, name="second", **changes)], LINEAR)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (Mats(iterations=0), "iterations"),
        (Mats(tolerance=0), "tolerance"),
        (Mats(start="zero"), "start"),
        (Mats(off_diagonal=1.5), "off_diagonal"),
    ],
)
def test_wrong_settings_are_told(method: Mats, setting: str) -> None:
    (problem,) = method.problems()
    assert problem.startswith(f"{setting}: ")
    assert Mats().problems() == []
    assert Mats().statistics == ("gram", "gradient_gram")


def test_conjugate_gradients_find_the_least_change_from_the_start() -> None:
    """Of a singular system: the solution that differs from the start by a pseudo-inverse's solution."""
    half = normal(0, 8, 5)
    matrix, start = half @ half.T, normal(1, 8, 1)
    right = matrix @ normal(2, 8, 1)
    found = conjugate_gradient(lambda x: matrix @ x, right, start, 100, 1e-13)
    expected = start + torch.linalg.pinv(matrix, rtol=1e-10) @ (right - matrix @ start)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    assert torch.equal(conjugate_gradient(lambda x: matrix @ x, matrix @ start, start, 100, 1e-13), start)
    assert not conjugate_gradient(lambda x: 0 * x, right, 0 * start, 100, 1e-13).any()
