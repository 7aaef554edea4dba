from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_members import Grams, merged, random_member
from torch import Tensor

from regmean_lab.merging import Layout, LinearLayer, MergeError, MergeMember, merge_members
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple

LINEAR = Layout({"layer.weight": LinearLayer("layer")})
TRANSPOSED = Layout({"layer.weight": LinearLayer("layer", transposed=True)})


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def member(name: str, weight: Tensor, inputs: Tensor) -> MergeMember:
    """A member that is one linear layer, with the Gram matrix of its inputs [rows, in]."""
    return MergeMember(name, {"layer.weight": weight}, Grams({"layer": inputs.T @ inputs / len(inputs)}))


def published(members: list[MergeMember], off_diagonal: float, coefficients: list[float]) -> Tensor:
    """W = (Σ cᵢ Gᵢ)⁻¹ Σ cᵢ Gᵢ Wᵢ with an explicit inverse, as [out, in]."""
    total = right = 0.0
    for one, coefficient in zip(members, coefficients, strict=True):
        assert one.gram is not None
        full = one.gram.matrix("layer").numpy()
        scaled = coefficient * (off_diagonal * full + (1 - off_diagonal) * np.diag(np.diag(full)))
        total = total + scaled
        right = right + scaled @ one.weights["layer.weight"].numpy().T
    return torch.from_numpy(np.linalg.inv(total) @ right).T


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 8),
    outputs=st.integers(1, 5),
    rows=st.lists(st.integers(30, 80), min_size=2, max_size=4),
)
def test_merging_least_squares_solutions_gives_that_of_the_pooled_data(
    seed: int, size: int, outputs: int, rows: list[int]
) -> None:
    """Each member solves min ‖X W − Y‖ on its own data; RegMean knows the data through Gᵢ only."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [normal(count, size, generator=generator) for count in rows]
    targets = [normal(count, outputs, generator=generator) for count in rows]
    members = [
        member(f"member {number}", torch.linalg.lstsq(x, y).solution.T.contiguous(), x)
        for number, (x, y) in enumerate(zip(inputs, targets, strict=True))
    ]
    # A Gram matrix is a mean over rows: members count by their numbers of rows.
    method = RegMean(off_diagonal=1, coefficients=[count / sum(rows) for count in rows])
    value = merged(method, members, LINEAR)["layer.weight"]
    pooled = np.linalg.lstsq(torch.cat(inputs).numpy(), torch.cat(targets).numpy(), rcond=None)[0].T
    assert value.dtype == torch.float64
    assert np.linalg.norm(value.numpy() - pooled) <= 1e-9 * np.linalg.norm(pooled)


def test_members_with_equally_many_rows_count_alike() -> None:
    generator = torch.Generator().manual_seed(5)
    inputs = [normal(40, 6, generator=generator) for _ in range(3)]
    targets = [normal(40, 2, generator=generator) for _ in range(3)]
    members = [
        member(str(number), torch.linalg.lstsq(x, y).solution.T, x)
        for number, (x, y) in enumerate(zip(inputs, targets, strict=True))
    ]
    value = merged(RegMean(off_diagonal=1), members, LINEAR)["layer.weight"]
    pooled = np.linalg.lstsq(torch.cat(inputs).numpy(), torch.cat(targets).numpy(), rcond=None)[0].T
    np.testing.assert_allclose(value.numpy(), pooled, rtol=1e-9)


@pytest.mark.parametrize("off_diagonal", [0.0, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("coefficients", [None, [0.5, 0.2, 0.3]])
def test_is_the_published_formula(off_diagonal: float, coefficients: list[float] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    members = [
        member(name, normal(3, 5, generator=generator), normal(30, 5, generator=generator) + 0.3) for name in "abc"
    ]
    value = merged(RegMean(off_diagonal=off_diagonal, coefficients=coefficients), members, LINEAR)["layer.weight"]
    expected = published(members, off_diagonal, coefficients or [1 / 3] * 3)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


def test_diagonal_is_the_off_diagonal_factor_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    members = [member(name, normal(3, 5, generator=generator), normal(9, 5, generator=generator)) for name in "ab"]
    value = merged(RegMean(off_diagonal=0.7, diagonal=True), members, LINEAR)["layer.weight"]
    torch.testing.assert_close(value, published(members, 0.0, [0.5, 0.5]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", [RegMean(off_diagonal=1), RegMean(off_diagonal=0.4), RegMean(diagonal=True)])
def test_a_transposed_weight_gives_the_same(method: RegMean) -> None:
    generator = torch.Generator().manual_seed(3)
    members = [member(name, normal(3, 5, generator=generator), normal(20, 5, generator=generator)) for name in "ab"]
    flipped = [MergeMember(m.name, {"layer.weight": m.weights["layer.weight"].T.contiguous()}, m.gram) for m in members]
    value = merged(method, flipped, TRANSPOSED)["layer.weight"]
    torch.testing.assert_close(value, merged(method, members, LINEAR)["layer.weight"].T, rtol=1e-12, atol=1e-12)


def test_all_but_linear_layers_is_averaged() -> None:
    members = [random_member(seed) for seed in range(2)]
    regression, mean = merged(RegMean(), members), merged(Simple(), members)
    assert {name for name in mean if not torch.equal(regression[name], mean[name])} == {
        "block.0.dense.weight",
        "head.weight",
    }


def test_statistics_change_the_result() -> None:
    """The same weights with other Gram matrices: the result differs from the mean, and between the two."""
    generator = torch.Generator().manual_seed(0)
    weights = [normal(3, 5, generator=generator) for _ in "ab"]
    results = []
    for _ in range(2):
        members = [member(n, w, normal(20, 5, generator=generator)) for n, w in zip("ab", weights, strict=True)]
        results.append(merged(RegMean(), members, LINEAR)["layer.weight"])
        assert float((results[-1] - (weights[0] + weights[1]) / 2).abs().max()) > 0.05
    assert float((results[0] - results[1]).abs().max()) > 0.05


def test_excluded_layers_are_averaged() -> None:
    members = [random_member(seed) for seed in range(2)]
    mean, everything = merged(Simple(), members), merged(RegMean(), members)
    value = merged(RegMean(exclude_layers=["block.*"]), members)
    assert torch.equal(value["block.0.dense.weight"], mean["block.0.dense.weight"])
    assert torch.equal(value["head.weight"], everything["head.weight"])
    assert not torch.equal(value["head.weight"], mean["head.weight"])


@pytest.mark.parametrize("method", [RegMean(off_diagonal=1), RegMean(off_diagonal=0.9), RegMean(diagonal=True)])
def test_a_feature_that_no_member_saw_keeps_the_mean(method: RegMean) -> None:
    generator = torch.Generator().manual_seed(1)
    members = []
    for name in "abc":
        inputs = normal(30, 5, generator=generator)
        inputs[:, [0, 3]] = 0
        members.append(member(name, normal(2, 5, generator=generator), inputs))
    value = merged(method, members, LINEAR)["layer.weight"]
    mean = merged(Simple(), members, LINEAR)["layer.weight"]
    torch.testing.assert_close(value[:, [0, 3]], mean[:, [0, 3]], rtol=1e-14, atol=1e-14)
    seen = [1, 2, 4]
    only_seen = []
    for one in members:
        assert one.gram is not None
        gram = one.gram.matrix("layer")[seen][:, seen]
        only_seen.append(
            MergeMember(one.name, {"layer.weight": one.weights["layer.weight"][:, seen]}, Grams({"layer": gram}))
        )
    torch.testing.assert_close(value[:, seen], merged(method, only_seen, LINEAR)["layer.weight"], rtol=1e-9, atol=1e-12)


def test_a_feature_that_one_member_saw_is_that_members() -> None:
    generator = torch.Generator().manual_seed(1)
    blind = normal(30, 3, generator=generator)
    blind[:, 1] = 0
    members = [
        member("a", normal(2, 3, generator=generator), normal(30, 3, generator=generator) * torch.eye(3)[1]),
        member("b", normal(2, 3, generator=generator), blind),
    ]
    value = merged(RegMean(), members, LINEAR)["layer.weight"]
    torch.testing.assert_close(value[:, 1], members[0].weights["layer.weight"][:, 1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(value[:, [0, 2]], members[1].weights["layer.weight"][:, [0, 2]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_members_of_one_token_each(dtype: torch.dtype, tolerance: float) -> None:
    """Matrices of rank one: on both tokens the merge does what their members do, and else what the mean does.

    The change from the mean is that of a pseudo-inverse of the sum scaled to a unit diagonal, which is of rank two.
    """
    generator = torch.Generator().manual_seed(4)
    tokens = normal(2, 6, generator=generator)
    exact = [np.outer(token, token) for token in tokens.numpy()]
    members = [
        MergeMember(
            name,
            {"layer.weight": normal(3, 6, generator=generator)},
            Grams({"layer": torch.from_numpy(gram).to(dtype)}),
        )
        for name, gram in zip("ab", exact, strict=True)
    ]
    value = merged(RegMean(off_diagonal=1), members, LINEAR)["layer.weight"]
    weights = [one.weights["layer.weight"] for one in members]
    for token, weight in zip(tokens, weights, strict=True):
        torch.testing.assert_close(value @ token, weight @ token, rtol=tolerance, atol=tolerance)
    mean = (weights[0] + weights[1]).numpy() / 2
    total = exact[0] + exact[1]
    scale = 1 / np.sqrt(np.diag(total))[:, None]
    right = sum(gram @ (weight.numpy() - mean).T for gram, weight in zip(exact, weights, strict=True))
    expected = scale * (np.linalg.pinv(scale * total * scale.T, rcond=1e-9, hermitian=True) @ (scale * right))
    difference = (value.numpy() - mean).T
    assert np.linalg.norm(difference - expected) < 10 * tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize(("dtype", "jitter", "tolerance"), [(torch.float64, 1e-10, 1e-4), (torch.float32, 1e-5, 0.05)])
def test_directions_that_no_member_saw_keep_the_mean(dtype: torch.dtype, jitter: float, tolerance: float) -> None:
    """Rank-deficient Gram matrices: the difference from the mean is that of a pseudo-inverse.

    Statistics are float32 in files. What rounding adds to them is about 1e-7 of a diagonal entry, and the jitter a
    hundred times that: hence a tolerance of a few per cent there, and of 1e-4 in float64.
    """
    generator = torch.Generator().manual_seed(2)
    basis = normal(10, 24, generator=generator)
    members, exact = [], []
    for name in "abc":
        inputs = normal(60, 10, generator=generator) @ basis
        gram = inputs.T @ inputs / len(inputs)
        exact.append(gram.numpy())
        weights = {"layer.weight": normal(4, 24, generator=generator)}
        members.append(MergeMember(name, weights, Grams({"layer": gram.to(dtype)})))
    (result,) = merge_members(RegMean(off_diagonal=1), members, LINEAR)
    mean = merged(Simple(), members, LINEAR)["layer.weight"].numpy()
    total = sum(exact)
    right = sum(g @ (m.weights["layer.weight"].numpy() - mean).T for g, m in zip(exact, members, strict=True))
    scale = 1 / np.sqrt(np.diag(total))[:, None]
    expected = scale * (np.linalg.pinv(scale * total * scale.T, rcond=1e-9, hermitian=True) @ (scale * right))
    difference = (result.value.numpy() - mean).T
    assert np.linalg.norm(difference - expected) < tolerance * np.linalg.norm(expected)
    assert result.diagnostics is not None
    assert result.diagnostics.jitter == jitter
    # On data that the members saw, it is the regression mean, which has the least error there of all weights.
    seen = np.linalg.pinv(total, rcond=1e-9, hermitian=True) @ total
    np.testing.assert_allclose(seen @ difference, seen @ expected, atol=tolerance * float(np.abs(expected).max()))


def test_diagnostics_tell_how_well_a_layer_was_posed() -> None:
    gram = torch.diag(torch.tensor([4.0, 9.0, 0.0], dtype=torch.float64))
    gram[0, 1] = gram[1, 0] = 0.5 * 6  # correlation 0.5
    members = [MergeMember(name, {"layer.weight": torch.rand(2, 3)}, Grams({"layer": gram})) for name in "ab"]
    (result,) = merge_members(RegMean(off_diagonal=1), members, LINEAR)
    diagnostics = result.diagnostics
    assert diagnostics is not None
    assert (diagnostics.layer, diagnostics.jitter, diagnostics.unseen_features) == ("layer", 0, 1)
    assert diagnostics.condition == pytest.approx(3, rel=0.2)  # eigenvalues 1.5, 0.5 and the unseen feature's 1
    assert diagnostics.off_diagonal_share == pytest.approx(18 / (18 + 16 + 81))


@pytest.mark.parametrize("coefficients", [None, [0.2, 0.5, 0.3]])
@pytest.mark.parametrize("transposed", [False, True])
def test_diagnostics_tell_how_far_the_merge_moved(coefficients: list[float] | None, transposed: bool) -> None:
    generator = torch.Generator().manual_seed(8)
    members = [member(name, normal(3, 5, generator=generator), normal(9, 5, generator=generator)) for name in "abc"]
    if transposed:
        members = [MergeMember(m.name, {"layer.weight": m.weights["layer.weight"].T}, m.gram) for m in members]
    layout = TRANSPOSED if transposed else LINEAR
    (result,) = merge_members(RegMean(coefficients=coefficients), members, layout)
    weights = {m.name: m.weights["layer.weight"].numpy() for m in members}
    shares = coefficients or [1 / 3] * 3
    mean = sum(share * own for share, own in zip(shares, weights.values(), strict=True))
    value = result.value.numpy()
    rms = np.sqrt(sum(c * np.sum((own - mean) ** 2) for c, own in zip(shares, weights.values(), strict=True)))
    assert result.diagnostics is not None
    assert result.diagnostics.moved == pytest.approx(np.linalg.norm(value - mean) / rms)
    expected = {name: np.linalg.norm(value - own) / np.linalg.norm(mean - own) for name, own in weights.items()}
    assert result.diagnostics.distances == pytest.approx(expected)
    for one in members:
        assert one.gram is not None
        matrix = one.gram.matrix("layer").numpy()
        scale = 1 / np.sqrt(np.diag(matrix))
        eigenvalues = np.linalg.eigvalsh(scale[:, None] * matrix * scale)
        assert result.diagnostics.conditions[one.name] == pytest.approx(np.mean(eigenvalues**2))


def test_equal_members_have_nothing_that_a_merge_could_move_from() -> None:
    generator = torch.Generator().manual_seed(8)
    weight = normal(3, 5, generator=generator)
    members = [member(name, weight.clone(), normal(9, 5, generator=generator)) for name in "ab"]
    (result,) = merge_members(RegMean(), members, LINEAR)
    assert result.diagnostics is not None
    assert (result.diagnostics.moved, result.diagnostics.distances) == (None, {})


def test_float32_members_are_merged_as_exactly_as_float32_tells() -> None:
    generator = torch.Generator().manual_seed(4)
    members = [member(name, normal(3, 8, generator=generator), normal(50, 8, generator=generator)) for name in "ab"]
    single = []
    for one in members:
        assert one.gram is not None
        grams = Grams({"layer": one.gram.matrix("layer").float()})
        single.append(MergeMember(one.name, {"layer.weight": one.weights["layer.weight"].float()}, grams))
    value = merged(RegMean(), single, LINEAR)["layer.weight"]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), published(members, 0.9, [0.5, 0.5]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("off_diagonal", [0.9, 0.95])
def test_float32_statistics_of_features_that_are_alike_lose_nothing(off_diagonal: float) -> None:
    """A large common part makes condition numbers of thousands, with any factor: float32 would be wrong by 1e-4."""
    generator = torch.Generator().manual_seed(4)
    members = []
    for name in "abc":
        inputs = normal(900, 200, generator=generator) * torch.logspace(0, -2, 200) + 3
        gram = (inputs.T @ inputs / 900).float()
        weight = normal(20, 200, generator=generator).float()
        members.append(MergeMember(name, {"layer.weight": weight}, Grams({"layer": gram})))
    wide = []
    for one in members:
        assert one.gram is not None
        grams = Grams({"layer": one.gram.matrix("layer").double()})
        wide.append(MergeMember(one.name, {"layer.weight": one.weights["layer.weight"].double()}, grams))
    value = merged(RegMean(off_diagonal=off_diagonal), members, LINEAR)["layer.weight"]
    expected = published(wide, off_diagonal, [1 / 3] * 3)
    assert value.dtype == torch.float32
    assert float((value.double() - expected).norm() / expected.norm()) < 1e-7


def test_a_member_without_matrices_is_an_error() -> None:
    members = [random_member(0), MergeMember("bare", random_member(1).weights)]
    for method in (RegMean(), RegMean(diagonal=True)):
        with pytest.raises(MergeError, match="bare has no Gram matrices"):
            merged(method, members)


def test_a_matrix_of_another_shape_is_an_error() -> None:
    members = [MergeMember(name, {"layer.weight": torch.ones(2, 3)}, Grams({"layer": torch.eye(2)})) for name in "ab"]
    with pytest.raises(MergeError, match=r"of a for layer layer: expected shape \(3, 3\), found \(2, 2\)"):
        merged(RegMean(), members, LINEAR)


@pytest.mark.parametrize("method", [RegMean(), RegMean(diagonal=True)])
def test_a_matrix_with_nan_is_an_error_that_names_layer_and_member(method: RegMean) -> None:
    good, bad = random_member(0), random_member(1, name="broken")
    assert isinstance(bad.gram, Grams)
    bad.gram.matrices["head"][1, 2] = math.nan
    with pytest.raises(MergeError, match=r"broken.*head"):
        merged(method, [good, bad])


def test_a_matrix_that_is_no_gram_matrix_is_an_error_that_names_the_layer() -> None:
    indefinite = Grams({"layer": torch.tensor([[1.0, 3.0], [3.0, 1.0]])})
    members = [MergeMember(name, {"layer.weight": torch.rand(2, 2)}, indefinite) for name in "ab"]
    with pytest.raises(MergeError, match=r"layer layer: .* not positive semi-definite"):
        merged(RegMean(off_diagonal=1), members, LINEAR)


def test_wrong_settings_are_told() -> None:
    for value in (-0.1, 1.1, math.nan):
        (problem,) = RegMean(off_diagonal=value).problems()
        assert problem.startswith("off_diagonal: expected a number from 0 to 1")
    assert RegMean().problems() == []
    assert RegMean().statistics == ("gram",)
