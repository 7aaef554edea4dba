"""Systems that merge methods solve, and inner products; singular values have a separate file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT64_LIMIT = 4096
"""Widest system that an accelerator factorises in float64 where its double precision is up to 64 times slower."""

FAST_FLOAT64 = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))
"""Compute capabilities of NVIDIA's GPUs for data centres whose float64 is half as fast as float32: P100, V100, A100,
H100 and H200, B200."""

_FIRST_JITTER = {torch.float64: 1e-10, torch.float32: 1e-5}
"""By the precision of a matrix's entries: well above what rounding them adds to its eigenvalues, and still little."""

_RANGE = 1e-11
"""Share of the trace below which eigenvalues count as zero: of products of float32 differences, rounding errors."""

_LAST_JITTER = 1.0
_WELL_POSED = 1e-3
"""Least eigenvalue (scaled to a unit diagonal) of a matrix whose float32 factorisation is refined to a solution."""

_REFINEMENTS = 10
_RESIDUAL = 1e-14
"""Residual ``b − A x``, as a share of ``‖A‖ ‖x‖ + ‖b‖``, at which ``x`` is as good as one found in float64."""

_SOLVED_ROWS = 1024
"""Right-hand sides that are solved for at a time: what a solution takes beside its system must not double it."""

_SUMMED_ELEMENTS, _SUMMED_ON_DEVICE = 1 << 15, 1 << 24
"""Elements of each tensor whose products are added up at a time, on a processor and on an accelerator."""

_ITERATIONS = 10
_STEADY = 1.02
"""Growth between iterations below which an eigenvalue is taken for found."""


@dataclass(frozen=True)
class Solution:
    """Solution of a symmetric positive semi-definite system.

    Attributes:
        value: the solution, shape [n, m].
        jitter: by which share of itself every diagonal entry was raised (0: not at all).
        condition: a lower bound of the condition number of the matrix that was solved, scaled to a unit diagonal.
        unseen: number of rows of the matrix that were zero.
    """

    value: Tensor
    jitter: float
    condition: float
    unseen: int


def solve_dtype(device: torch.device, size: int) -> torch.dtype:
    """Float64 where it is cheap: always on devices with fast float64, on others up to ``FLOAT64_LIMIT`` unknowns."""
    if device.type == "mps":  # has no float64
        return torch.float32
    return torch.float64 if size <= FLOAT64_LIMIT or has_fast_float64(device) else torch.float32


def solve_device(device: torch.device) -> torch.device:
    """Where systems are set up and solved in float64: on the device itself, or on the CPU where it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def has_fast_float64(device: torch.device) -> bool:
    """Whether a device is made for float64: the CPU, and GPUs for data centres."""
    if device.type != "cuda":
        return device.type == "cpu"
    capability = torch.cuda.get_device_capability(device)
    # ROCm tells an Instinct's architecture gfx9xx as (9, x), and consumers' GPUs as (10, x) and above.
    return capability[0] == 9 if torch.version.hip else capability in FAST_FLOAT64


def waits_for_numbers(device: torch.device) -> bool:
    """Whether to read a number of a device means to wait for all that it was told to do before."""
    return device.type != "cpu"


def fetched(numbers: Sequence[Tensor]) -> list[float]:
    """Numbers of one device as Python's, with one wait for it; each as precise as it is."""
    dtype = torch.float32 if numbers[0].device.type == "mps" else torch.float64
    together: list[float] = torch.stack([number.detach().reshape(()).to(dtype) for number in numbers]).cpu().tolist()
    return together


def scale_off_diagonal(matrix: Tensor, factor: float) -> Tensor:
    """A copy of a square matrix with off-diagonal entries multiplied by ``factor`` (Jin et al., 2023, section 4)."""
    scaled = matrix * factor
    scaled.diagonal().copy_(matrix.diagonal())
    return scaled


def scale_off_diagonal_(matrix: Tensor, factor: float) -> Tensor:
    """As `scale_off_diagonal`, in place."""
    diagonal = matrix.diagonal().clone()
    matrix.mul_(factor).diagonal().copy_(diagonal)
    return matrix


def off_diagonal_share(matrix: Tensor) -> float:
    """Share of the squared Frobenius norm of a square matrix that lies off its diagonal; 0 for a zero matrix."""
    return share_of_parts(*fetched(off_diagonal_parts(matrix)))


def off_diagonal_parts(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """What `share_of_parts` takes, on the matrix's device: its norm, and the sum of its diagonal's squares."""
    return torch.linalg.vector_norm(matrix), matrix.diagonal().square().sum()


def share_of_parts(norm: float, diagonal: float) -> float:
    """`off_diagonal_share` by the parts of `off_diagonal_parts`."""
    return max(0.0, 1.0 - diagonal / norm**2) if norm**2 > 0 else 0.0


def condition_bound(matrix: Tensor) -> float | None:
    """A lower bound of a symmetric positive semi-definite matrix's condition number, scaled to a unit diagonal.

    It is the mean square of the eigenvalues: these add up to their number, so that the largest is no less than it, and
    the smallest no more than 1. Takes one pass over the matrix.

    Args:
        matrix: shape [n, n]; rows whose diagonal entry is zero are left out.

    Returns:
        At least 1, of a diagonal matrix; None where all rows are left out.
    """
    return bound_of_parts(*fetched(condition_parts(matrix)))


def condition_parts(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """What `bound_of_parts` takes, on the matrix's device: the sum of squares, and the number of rows that count."""
    scale = matrix.diagonal().rsqrt()
    scale.masked_fill_(torch.isinf(scale), 0)
    squares = [
        torch.linalg.vector_norm(rows * scale * own[:, None]).square()
        for rows, own in zip(matrix.split(_SOLVED_ROWS), scale.split(_SOLVED_ROWS), strict=True)
    ]
    return torch.stack(squares).sum(), torch.count_nonzero(scale)


def bound_of_parts(squares: float, count: float) -> float | None:
    """`condition_bound` by the parts of `condition_parts`."""
    return squares / count if count else None


def solve_positive(
    matrix: Tensor, right: Tensor, entries: torch.dtype | None = None, *, refine: bool | None = None
) -> Solution:
    """Solve ``matrix @ x = right`` by Cholesky for a symmetric positive semi-definite matrix.

    The matrix is scaled to a unit diagonal first, so that features of any scale count alike. Rows of the matrix that
    are zero are given the solution 0. Where the matrix is otherwise singular, as far as the precision of its entries
    can tell, its diagonal is raised by the share 10⁻¹⁰ (entries of float32: 10⁻⁵), or the smallest of ten times that, …
    that is enough. In the directions that the matrix leaves open this makes the solution (nearly) 0, as a
    pseudo-inverse would; without it, rounding errors would decide there.

    Args:
        matrix: shape [n, n], float32 or float64; overwritten.
        right: shape [n, m], same dtype and device; overwritten.
        entries: the dtype in which the matrix's entries were computed, if it is not that of ``matrix``.
        refine: factorise a float64 matrix in float32 and refine the solution until its residual is that of float64
            (Wilkinson's iterative refinement: Higham, Accuracy and Stability of Numerical Algorithms, 2002, chapter
            12); where it does not get there, or the matrix is ill-conditioned, factorise in float64 after all. None
            does so where float64 is slow and the matrix is wide.

    Raises:
        ValueError: when the matrix is not positive semi-definite even with its diagonal doubled.
    """
    system = PositiveSystem(matrix, entries, refine=refine)
    value = system.solve(right)
    return Solution(value, system.jitter, system.condition, system.unseen)


class PositiveSystem:
    """A symmetric positive semi-definite matrix that is factorised once, for any number of right-hand sides.

    As `solve_positive` does it, with its arguments and errors. A device is waited for once, and once more for each time
    that the diagonal has to be raised; while solutions are refined, once a refinement.

    Args:
        matrix: shape [n, n]; overwritten.
        entries: the dtype in which its entries were computed.
        refine: whether a float64 matrix is factorised in float32.
        told: numbers on its device that are fetched together with those that decide.

    Attributes:
        jitter, condition, unseen: as those of `Solution`.
        told: the numbers that were to be fetched.
    """

    def __init__(
        self,
        matrix: Tensor,
        entries: torch.dtype | None = None,
        *,
        refine: bool | None = None,
        told: Sequence[Tensor] = (),
    ) -> None:
        self._scale = matrix.diagonal().rsqrt()
        unseen = torch.isinf(self._scale)
        self._scale.masked_fill_(unseen, 0)
        matrix.mul_(self._scale).mul_(self._scale[:, None])
        matrix.diagonal().fill_(1)
        if refine is None:
            refine = solve_dtype(matrix.device, len(matrix)) != torch.float64
        self._entries = entries or matrix.dtype
        self._matrix: Tensor | None = None
        numbers = [unseen.sum(), *told]
        self.jitter = 0.0
        if refine and matrix.dtype == torch.float64:
            factor, failed = torch.linalg.cholesky_ex(matrix.float())
            smallest, largest, *found = fetched([_decisive(factor, failed), _largest_eigenvalue(matrix), *numbers])
            if smallest >= _WELL_POSED:
                self._factor, self._matrix, self.condition = factor, matrix, largest / smallest
            else:
                self._factorise(matrix, ())
        else:
            found = self._factorise(matrix, numbers)
        self.unseen, self.told = int(found[0]), found[1:]

    @property
    def is_refined(self) -> bool:
        """Whether solutions are those of a float32 factor, refined."""
        return self._matrix is not None

    def solve(self, right: Tensor) -> Tensor:
        """The solution for right-hand sides ``[n, m]``, which are overwritten."""
        right.mul_(self._scale[:, None])
        if self._matrix is not None:
            if (value := _refined(self._matrix, self._factor, right)) is not None:
                return value.mul_(self._scale[:, None])
            matrix, self._matrix = self._matrix, None
            self._factorise(matrix, ())
        for rows in right.T.split(_SOLVED_ROWS):
            rows.copy_(_solve_factored(self._factor, rows)).mul_(self._scale)
        return right

    def _factorise(self, matrix: Tensor, told: Sequence[Tensor]) -> list[float]:
        """Factorise a matrix with a unit diagonal, in its own precision; returns the numbers that were to be told."""
        first = max(_FIRST_JITTER[matrix.dtype], _FIRST_JITTER[self._entries])
        found: list[float] | None = None
        self.jitter = 0.0
        while True:
            self._factor, failed = torch.linalg.cholesky_ex(matrix)
            smallest, largest, *others = fetched(
                [_decisive(self._factor, failed), _largest_eigenvalue(matrix), *(told if found is None else ())]
            )
            found = others if found is None else found
            if smallest > first / 2:
                break
            self.jitter = self.jitter * 10 if self.jitter else first
            if self.jitter > _LAST_JITTER * 1.001:
                raise ValueError("the matrix is not positive semi-definite")
            matrix.diagonal().fill_(1 + self.jitter)
        self.condition = largest / smallest
        return found


def solve_in_range(matrix: Tensor, right: Tensor) -> Solution:
    """Solve ``matrix @ x = right`` with the pseudo-inverse of a symmetric positive semi-definite matrix.

    For a right-hand side in the matrix's range. Unlike `solve_positive`, which scales the matrix first, it gives
    nothing in directions that the matrix sends to zero, whatever their scale: the diagonal is raised by 10⁻¹¹ of the
    trace, which keeps the range (Tikhonov's regularisation, whose limit the pseudo-inverse is).

    Args:
        matrix: shape [n, n], float64; overwritten.
        right: shape [n, m], same dtype and device.

    Raises:
        ValueError: when the matrix is not positive semi-definite.
    """
    trace, zeros = matrix.diagonal().sum(), (matrix.diagonal() == 0).sum()
    matrix.diagonal().add_(_RANGE * trace)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    decisive, most = _decisive(factor, failed), _largest_eigenvalue(matrix)
    smallest, largest, size, unseen = fetched([decisive, most, trace, zeros])
    if size == 0:
        return Solution(torch.zeros_like(right), 0.0, 1.0, int(unseen))
    if not smallest:
        raise ValueError("the matrix is not positive semi-definite")
    return Solution(_solve_factored(factor, right.T).T, 0.0, largest / smallest, int(unseen))


def _solve_factored(factor: Tensor, rows: Tensor) -> Tensor:
    """The solutions ``x`` of ``x L Lᵀ = b`` for the rows ``b`` of a matrix: faster in this form than for columns."""
    half = torch.linalg.solve_triangular(factor.mT, rows.contiguous(), upper=True, left=False)
    return torch.linalg.solve_triangular(factor, half, upper=False, left=False)


def _refined(matrix: Tensor, factor: Tensor, right: Tensor) -> Tensor | None:
    """A solution by a float32 factor, with residuals in float64; None if that fails.

    Args:
        matrix: ``[n, n]``, float64, with a unit diagonal.
        factor: its Cholesky factor, float32.
        right: ``[n, m]``, float64.
    """
    value, norm = torch.zeros_like(right), matrix.norm()
    for columns, wanted in zip(value.T.split(_SOLVED_ROWS), right.T.split(_SOLVED_ROWS), strict=True):
        size = wanted.norm()
        before = math.inf
        for _ in range(_REFINEMENTS):
            residual = wanted - columns @ matrix
            left, enough = fetched([residual.norm(), _RESIDUAL * (norm * columns.norm() + size)])
            if left <= enough:
                break
            if not left < before / 2:
                return None
            before = left
            # Scaled, as a small residual of small weights would be nothing in float32.
            step = _solve_factored(factor, (residual / left).float())
            columns.add_(step.to(residual.dtype), alpha=left)
        else:
            return None
    return value


def _decisive(factor: Tensor, failed: Tensor) -> Tensor:
    """The smallest eigenvalue of a Cholesky factor's matrix, 0 where there is no factor; on its device."""
    if not waits_for_numbers(factor.device) and int(failed):
        return torch.zeros((), dtype=torch.float64)
    smallest = _smallest_eigenvalue(factor)
    return torch.where(failed == 0, smallest, torch.zeros_like(smallest))


def _smallest_eigenvalue(factor: Tensor) -> Tensor:
    """Upper bound, nearly always close, of the smallest eigenvalue of a Cholesky factor's matrix: inverse iteration."""

    def step(vector: Tensor) -> Tensor:
        # Several times faster than torch.cholesky_solve, which copies the factor.
        half = torch.linalg.solve_triangular(factor, vector, upper=False)
        return torch.linalg.solve_triangular(factor.mT, half, upper=True)

    return 1 / _growth(_start(factor), step)


def _largest_eigenvalue(matrix: Tensor) -> Tensor:
    """Lower bound, nearly always close, of the largest eigenvalue of a symmetric matrix: power iteration."""
    return _growth(_start(matrix), lambda vector: matrix @ vector)


def _growth(vector: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
    """How much a linear map lengthens a vector that it has been applied to again and again, until that hardly grows.

    Args:
        vector: shape [n, 1].
        step: the map.

    Returns:
        A number on the vector's device, float64. Where numbers have to be waited for, all iterations are done, and
        those after the last that counts are without effect.
    """
    waits, norm = waits_for_numbers(vector.device), torch.zeros((), dtype=torch.float64, device=vector.device)
    steady = torch.zeros((), dtype=torch.bool, device=vector.device)
    for _ in range(_ITERATIONS):
        vector = step(vector / vector.norm())
        found = vector.norm().double()
        grown, norm = found > norm * _STEADY, torch.where(steady, norm, found)
        steady = steady | ~grown
        if not waits and bool(steady):
            break
    return norm


def _start(matrix: Tensor) -> Tensor:
    """The same random vector every time, shape [n, 1]: hardly at right angles to the eigenvector sought."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(matrix), 1, generator=generator, dtype=torch.float64).to(matrix)


def agreement(matrices: Callable[[], Iterable[Tensor]], weights: Sequence[float]) -> float:
    """How far the off-diagonal entries of symmetric positive semi-definite matrices agree: from 0 to 1.

    One minus the estimate Σ Var(rₖₗ) / Σ rₖₗ² (sums over k ≠ l) of the best intensity with which to shrink a matrix
    towards its diagonal (Schäfer and Strimmer, Statistical Applications in Genetics and Molecular Biology 4, 2005,
    article 32). r is the weighted mean of the matrices, scaled to a unit diagonal; the variance of its entries is
    estimated from how the matrices differ, as if each were one independent observation.

    Args:
        matrices: gives the matrices ``[n, n]`` one after the other; called twice.
        weights: one for each matrix, at least 0; they add up to 1.

    Returns:
        1 where they are equal (or all weight lies on one of them), 0 where they have nothing in common.
    """
    squares = sum(weight**2 for weight in weights)
    if squares >= 1:
        return 1.0
    diagonal = sum(matrix.diagonal() * weight for matrix, weight in zip(matrices(), weights, strict=True))
    assert isinstance(diagonal, Tensor)
    scale = diagonal.rsqrt()
    scale.masked_fill_(torch.isinf(scale), 0)
    total = torch.zeros_like(scale.outer(scale))
    mean_of_squares = torch.zeros((), dtype=torch.float64, device=scale.device)
    for matrix, weight in zip(matrices(), weights, strict=True):
        scaled = matrix * scale * scale[:, None]
        scaled.diagonal().zero_()
        total.add_(scaled, alpha=weight)
        mean_of_squares = mean_of_squares + weight * scaled.square().sum().double()
    size, mean_square = fetched([total.square().sum(), mean_of_squares])
    if size == 0:
        return 1.0 if mean_square == 0 else 0.0
    variance = max(0.0, mean_square - size) * squares / (1 - squares)
    return max(0.0, 1 - variance / size)


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor], right: Tensor, start: Tensor, iterations: int, tolerance: float
) -> Tensor:
    """Solve ``apply(x) = right`` for a symmetric positive semi-definite linear map by conjugate gradients.

    Directions that the map sends to zero stay what they are in ``start`` (Hestenes and Stiefel, Journal of Research of
    the National Bureau of Standards 49, 1952, section 3).

    Args:
        apply: the map, from and to tensors of the shape of ``right``.
        right: the right-hand side, in the image of the map.
        start: where to start, of the same shape.
        iterations: the largest number of iterations.
        tolerance: stop when the norm of the residual is at most so much of the norm of ``right``.
    """
    solution = start.clone()
    residual = right - apply(solution)
    direction = residual.clone()
    square = _inner(residual, residual)
    enough = tolerance**2 * _inner(right, right)
    for _ in range(iterations):
        if square <= enough:
            break
        image = apply(direction)
        curvature = _inner(direction, image)
        if curvature <= 0:  # nothing but rounding errors is left
            break
        step = square / curvature
        solution.add_(direction, alpha=step)
        residual.add_(image, alpha=-step)
        before, square = square, _inner(residual, residual)
        direction.mul_(square / before).add_(residual)
    return solution


def inner_products(tensors: Sequence[Tensor]) -> Tensor:
    """Inner products of tensors of one shape, shape [tensors, tensors], float64 on the CPU."""
    count, device = len(tensors), tensors[0].device
    # Sums of float32 products in float64, where the device has it.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    sums = torch.zeros(count * (count + 1) // 2, dtype=torch.float64)  # of the lower triangle, row after row
    flat = [tensor.flatten() for tensor in tensors]
    # On a processor, some elements at a time: their float64 values then stay in its cache.
    size = _SUMMED_ELEMENTS if device.type == "cpu" else _SUMMED_ON_DEVICE
    for start in range(0, len(flat[0]), size):
        wide = [vector[start : start + size].to(dtype) for vector in flat]
        pairs = [torch.dot(one, other) for row, one in enumerate(wide) for other in wide[: row + 1]]
        sums += torch.stack(pairs).to("cpu", torch.float64)  # one transfer for all of them
    rows, columns = torch.tril_indices(count, count)
    products = torch.zeros(count, count, dtype=torch.float64)
    products[rows, columns] = sums
    return products + products.tril(-1).T


def _inner(one: Tensor, other: Tensor) -> float:
    return float(torch.dot(one.flatten(), other.flatten()))
