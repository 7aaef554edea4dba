"""Forms of stored Gram matrices, against the matrices themselves and float64 eigendecompositions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from regmean_lab.merging import Layout, LinearLayer, MergeMember, merge_members, method_types
from regmean_lab.statistics import (
    FisherFile,
    FisherStatistics,
    Form,
    GradientGramFile,
    GradientGramStatistics,
    GramFile,
    GramStatistics,
    StatisticsError,
    check_finite,
    save_fisher,
    save_gradient_gram,
    save_gram,
)
from regmean_lab.statistics.forms import from_low_rank, low_rank_factors, pack_upper, packed_width, unpack_upper

WIDTH = 24


def gram_of(seed: int, width: int = WIDTH, rows: int = 200) -> Tensor:
    """A Gram matrix of correlated rows whose features have very different scales; float32."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    scales = torch.logspace(-2, 2, width, dtype=torch.float64)
    rows_of = torch.randn(rows, width, generator=generator, dtype=torch.float64) @ mixing * scales + 0.5 * scales
    return (rows_of.T @ rows_of / rows).float()


def statistics_of(*matrices: Tensor) -> GramStatistics:
    named = {f"layer{number}": matrix for number, matrix in enumerate(matrices)}
    return GramStatistics(named, {name: name for name in named} | {"twin": "layer0"}, dict.fromkeys(named, 200), 9, 3)


def saved(path: Path, matrix: Tensor, form: Form, rank: int | None = None) -> Tensor:
    save_gram(path, statistics_of(matrix), {}, form=form, rank=rank)
    with GramFile(path) as file:
        assert file.form == form
        assert file.width("twin") == len(matrix)
        assert torch.equal(file.matrix("twin"), file.matrix("layer0"))
        return file.matrix("layer0")


@pytest.mark.parametrize("width", [1, 2, 3, 24, 300])
def test_the_packed_form_loses_nothing(tmp_path: Path, width: int) -> None:
    matrix = gram_of(0, width)
    matrix = (matrix + matrix.T) / 2
    assert torch.equal(saved(tmp_path / "gram.safetensors", matrix, "packed"), matrix)
    assert len(pack_upper(matrix)) == width * (width + 1) // 2


def test_the_packed_triangle_is_in_the_order_of_rows() -> None:
    matrix = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])
    assert pack_upper(matrix).tolist() == [1, 2, 3, 4, 5, 6]
    assert torch.equal(unpack_upper(pack_upper(matrix)), matrix)


def test_widths_of_triangles_are_told_from_their_lengths() -> None:
    triangles = {width * (width + 1) // 2: width for width in range(200)}
    assert all(packed_width(length) == triangles.get(length) for length in range(19_900))
    with pytest.raises(StatisticsError, match="5 numbers do not make a triangle"):
        unpack_upper(torch.ones(5))


def test_the_diagonal_form_keeps_the_diagonal_and_nothing_else(tmp_path: Path) -> None:
    matrix = gram_of(1)
    assert torch.equal(saved(tmp_path / "gram.safetensors", matrix, "diagonal"), torch.diag(matrix.diagonal()))


@pytest.mark.parametrize("rank", [1, 3, 10, WIDTH, WIDTH + 5])
def test_low_rank_factors_are_optimal(tmp_path: Path, rank: int) -> None:
    """The error of the scaled matrix is what Eckart and Young say it must be: the eigenvalues that are left out."""
    matrix = gram_of(2)
    scale = matrix.double().diagonal().rsqrt()
    correlations = matrix.double() * scale * scale[:, None]
    eigenvalues = torch.linalg.eigvalsh(correlations)
    factors = low_rank_factors(matrix, rank)
    assert factors.shape == (WIDTH, min(rank, WIDTH))
    scaled = factors.double() * scale[:, None]
    error = torch.linalg.norm(correlations - scaled @ scaled.T)
    assert float(error) == pytest.approx(float(eigenvalues[: max(0, WIDTH - rank)].norm()), rel=1e-4, abs=1e-5)
    read = saved(tmp_path / "gram.safetensors", matrix, "low_rank", rank)
    exact, lengths = factors.double() @ factors.double().T, factors.double().norm(dim=1)
    rounding = factors.shape[1] * torch.finfo(torch.float32).eps * lengths.outer(lengths)
    assert bool(((read - exact).abs() <= rounding).fill_diagonal_(True).all())


def test_the_low_rank_form_is_symmetric_whatever_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # which round the two halves of a product differently
    try:
        for seed in range(20):
            matrix = gram_of(seed)
            read = from_low_rank(matrix.diagonal(), low_rank_factors(matrix, 7))
            assert torch.equal(read, read.T)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rank", [1, 2, 7, WIDTH])
def test_the_low_rank_form_has_the_exact_diagonal_and_no_negative_eigenvalue(tmp_path: Path, rank: int) -> None:
    matrix = gram_of(3)
    read = saved(tmp_path / "gram.safetensors", matrix, "low_rank", rank)
    assert torch.equal(read.diagonal(), matrix.diagonal())
    assert torch.equal(read, read.T)
    scale = matrix.double().diagonal().rsqrt()
    assert float(torch.linalg.eigvalsh(read.double() * scale * scale[:, None]).min()) > -1e-5


def test_a_feature_that_is_always_zero_stays_so(tmp_path: Path) -> None:
    matrix = gram_of(4)
    matrix[5] = matrix[:, 5] = 0
    read = saved(tmp_path / "gram.safetensors", matrix, "low_rank", 4)
    assert not read[5].any() and not read[:, 5].any()
    assert torch.isfinite(read).all()


def test_more_rank_is_closer(tmp_path: Path) -> None:
    """In the scale in which the factors are chosen."""
    matrix = gram_of(5)
    scale = matrix.double().diagonal().rsqrt()
    errors = [
        float(
            (
                (saved(tmp_path / "gram.safetensors", matrix, "low_rank", rank) - matrix).double()
                * scale
                * scale[:, None]
            ).norm()
        )
        for rank in (1, 4, 12, 20, WIDTH)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5 < errors[-2]


def test_files_are_as_small_as_their_form(tmp_path: Path) -> None:
    """Numbers of four bytes, and a header that is small against them."""
    width, rank = 300, 10
    numbers = {"full": width**2, "packed": width * (width + 1) // 2, "diagonal": width, "low_rank": width * (rank + 1)}
    for form, count in numbers.items():
        path = tmp_path / f"{form}.safetensors"
        save_gram(path, statistics_of(gram_of(6, width)), {}, form=form, rank=rank if form == "low_rank" else None)
        assert sum(tensor.numel() for tensor in load_file(path).values()) == count
        assert 4 * count <= os.path.getsize(path) < 4 * count + 1000


def test_what_other_programs_see_of_the_form(tmp_path: Path) -> None:
    path = tmp_path / "gram.safetensors"
    save_gram(path, statistics_of(gram_of(0)), {}, form="low_rank", rank=3)
    with safe_open(str(path), framework="pt") as raw:
        metadata = raw.metadata()
        assert sorted(raw.keys()) == ["layer0", "layer0:factors"]
    assert (metadata["form"], metadata["rank"], metadata["version"]) == ("low_rank", "3", "1")


def test_gradient_gram_matrices_have_all_forms_and_fisher_has_one(tmp_path: Path) -> None:
    matrix, path = gram_of(7), tmp_path / "statistics.safetensors"
    statistics = GradientGramStatistics({"q": matrix}, {"q": 200}, 9, 3, "pseudo", "categorical")
    save_gradient_gram(path, statistics, {}, form="packed")
    assert torch.equal(GradientGramFile(path).matrix("q"), (matrix.triu() + matrix.triu(1).T))
    fisher = FisherStatistics({"w": torch.ones(3)}, {"w": "w"}, 1, 1, "true", "categorical")
    save_fisher(path, fisher, {})
    assert FisherFile(path).form == "full"
    with safe_open(str(path), framework="pt") as raw:
        metadata = raw.metadata()
    save_file(load_file(path), path, metadata={**metadata, "form": "packed"})
    with pytest.raises(StatisticsError, match="have the form 'packed'"):
        FisherFile(path)


def test_infinity_in_factors_is_found(tmp_path: Path) -> None:
    path = tmp_path / "gram.safetensors"
    save_gram(path, statistics_of(gram_of(0)), {}, form="low_rank", rank=3)
    with safe_open(str(path), framework="pt") as raw:
        metadata = raw.metadata()
    tensors = load_file(path)
    tensors["layer0:factors"][3, 1] = float("inf")
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(StatisticsError, match="NaN or infinity in 'layer0'"):
        check_finite(path)


@pytest.mark.parametrize(
    ("form", "rank", "message"),
    [
        ("zip", None, "form='zip': expected one of full, packed, diagonal, low_rank"),
        ("low_rank", None, "rank=None: expected a positive number"),
        ("low_rank", 0, "rank=0: expected a positive number"),
        ("packed", 3, "rank=3: .*None for others"),
    ],
)
def test_forms_that_there_are_not(tmp_path: Path, form: Any, rank: int | None, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        save_gram(tmp_path / "gram.safetensors", statistics_of(gram_of(0)), {}, form=form, rank=rank)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("packed", {"layer0": torch.ones(5)}, r"'layer0' has shape \[5\], expected the triangle"),
        ("packed", {"layer0": torch.ones(2, 2)}, r"'layer0' has shape \[2, 2\], expected the triangle"),
        ("diagonal", {"layer0": torch.ones(2, 2)}, "expected a diagonal"),
        ("low_rank", {"layer0:factors": torch.ones(3, 2)}, r"the factors of 'layer0' have shape \[3, 2\]"),
        ("low_rank", {"layer0:factors": None}, "tensor 'layer0:factors' missing"),
        ("low_rank", {"layer0:factors": torch.ones(24, 3).double()}, "'layer0:factors' is F64"),
        ("packed", {"layer0:factors": torch.ones(24, 3)}, "'layer0:factors' not in metadata"),
    ],
)
def test_damage_to_a_form_is_told(tmp_path: Path, form: Form, change: dict[str, Tensor | None], message: str) -> None:
    path = tmp_path / "gram.safetensors"
    save_gram(path, statistics_of(gram_of(0)), {}, form=form, rank=3 if form == "low_rank" else None)
    with safe_open(str(path), framework="pt") as raw:
        metadata = raw.metadata()
    tensors = {**load_file(path), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, metadata=metadata)
    with pytest.raises(StatisticsError, match=message):
        GramFile(path)


@pytest.mark.parametrize(("form", "rank"), [("packed", None), ("diagonal", None), ("low_rank", 5), ("low_rank", WIDTH)])
def test_regmean_merges_with_every_form(tmp_path: Path, form: Form, rank: int | None) -> None:
    """The result is the closed form with the matrices that the form stands for."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(4, WIDTH, generator=generator) for _ in range(2)]
    grams, members, exact = [gram_of(seed) for seed in (8, 9)], [], []
    for number, (weight, gram) in enumerate(zip(weights, grams, strict=True)):
        path = tmp_path / f"{number}.safetensors"
        exact.append(saved(path, gram, form, rank).double())
        members.append(MergeMember(str(number), {"layer0.weight": weight}, gram=GramFile(path)))
    layout = Layout(linear={"layer0.weight": LinearLayer("layer0")})
    (merged,) = merge_members(method_types()["regmean"](), members, layout)
    scaled = [0.9 * gram + 0.1 * torch.diag(gram.diagonal()) for gram in exact]
    right = sum(gram @ weight.double().T for gram, weight in zip(scaled, weights, strict=True))
    expected = torch.linalg.solve(sum(scaled), right).T
    torch.testing.assert_close(merged.value.double(), expected, rtol=1e-3, atol=1e-4)
