"""The scores that a model decides by, and directions among them.

How much an output ``y`` of a layer matters to an example is ``Σ_k ‖∂z_k/∂y‖²``, summed over the model's scores ``z``. A
softmax does not change when all its scores grow alike, so there each score counts by how far it lies from their mean:
``z̃ = z − z̄``. With the Jacobian ``J = ∂z/∂y`` and ``P = I − 11ᵀ/C``, the projection onto what is left of C scores, the
sum is ``tr(Jᵀ P J)``. For any columns ``c_j`` with ``Σ_j c_j c_jᵀ = P`` it is ``Σ_j ‖Jᵀ c_j‖²``: a vector-Jacobian
product for each column. C − 1 orthonormal contrasts are such columns exactly; with two scores that is the one column
``(z_1 − z_0) / √2``, and the sum ``‖∂(z_1 − z_0)/∂y‖² / 2``. Random signs ``s`` give columns ``P s`` with
``E[(P s)(P s)ᵀ] = P``: the mean over a few draws is an unbiased estimate (Hutchinson, Communications in Statistics 18,
1989), however many scores there are. Where scores stand for themselves (labels that are independent, real values),
``P = I``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batches import LABELS
from .errors import StatisticsError


@dataclass(frozen=True)
class Scores:
    """What a model gives for a batch, in the autograd graph.

    Attributes:
        values: ``[examples, …, C]``, or ``[examples]`` for one real value each.
        shift_invariant: whether adding a number to all C scores changes nothing, as before a softmax.
        counted: which of them count, bool, of the shape of ``values`` or of that without C (tokens that have labels);
            None for all.
    """

    values: Tensor
    shift_invariant: bool
    counted: Tensor | None = None

    def table(self) -> tuple[Tensor, Tensor]:
        """The values as float32 or wider ``[examples, places, C]``, and which of them count, of the same shape."""
        values = self.values.to(torch.promote_types(self.values.dtype, torch.float32))
        shape = (*values.shape, 1) if values.dim() == 1 else values.shape
        counted = torch.ones(shape, dtype=torch.bool, device=values.device)
        if self.counted is not None:
            own = self.counted.to(values.device) != 0
            if own.shape not in (self.values.shape, self.values.shape[:-1]):
                raise StatisticsError(
                    f"counted: shape {tuple(own.shape)} for scores of shape {tuple(self.values.shape)}; expected that "
                    "of the scores, or that without the last dimension"
                )
            counted = counted & (own.reshape(shape) if own.shape == self.values.shape else own.unsqueeze(-1))
        places = values.reshape(shape[0], -1, shape[-1])
        return places, counted.reshape(places.shape)


def directions(scores: Scores, batch: Mapping[str, Any], draws: int, seed: int) -> Iterator[Tensor]:
    """Columns whose squared vector-Jacobian products add up to how much something matters to the scores.

    They are exact where each example has one place with no more than ``draws`` columns; otherwise as many columns of
    random signs as ``draws``, of which the squares' expectation over signs is exact. The signs of an example depend on
    its tokens and the seed, and on nothing else: neither on the other examples of the batch nor on its padding.

    Args:
        scores: the scores.
        batch: the batch that they are of, whose ``input_ids`` (without, all tensors but labels) tell examples apart.
        draws: most columns, at least 1.
        seed: of random signs.

    Yields:
        Tensors of the shape of ``scores.values``, float32 or wider, without gradient; one at a time, as those of tokens
        are as large as the logits.
    """
    values, counted = scores.table()
    examples, places, width = values.shape
    count = width - 1 if scores.shift_invariant else width
    # Of independent scores single ones may be left out; a contrast is between all of them.
    whole = not scores.shift_invariant or bool((counted.all(-1) == counted.any(-1)).all())
    if places == 1 and count <= draws and whole:
        for row in contrasts(width) if scores.shift_invariant else torch.eye(width, dtype=torch.float64):
            yield (row.to(values) * counted).reshape(scores.values.shape)
        return
    drawn = [_drawn(int(counted[i].sum()), draws, _key(batch, i, examples, seed)) for i in range(examples)]
    sizes = counted.sum(-1, keepdim=True).clamp(min=1)
    for number in range(draws):
        column = torch.zeros(counted.shape, dtype=values.dtype, device=values.device)
        for own, mask, bits in zip(column, counted, drawn, strict=True):
            own[mask] = _signs(bits[number].to(values.device), int(mask.sum())).to(values.dtype)
        if scores.shift_invariant:
            column = (column - column.sum(-1, keepdim=True) / sizes) * counted
        yield column.mul_(draws**-0.5).reshape(scores.values.shape)


def contrasts(width: int) -> Tensor:
    """Orthonormal rows ``[width − 1, width]`` that are each at right angles to all ones, float64 (Helmert, 1876)."""
    rows = torch.zeros(max(width - 1, 0), width, dtype=torch.float64)
    for number in range(1, width):
        rows[number - 1, :number] = 1.0
        rows[number - 1, number] = -float(number)
        rows[number - 1] /= (number * (number + 1)) ** 0.5
    return rows


def _drawn(total: int, draws: int, key: bytes) -> Tensor:
    """Random bytes ``[draws, total / 8]``, eight signs each: drawing is what takes time where scores are of words."""
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    return torch.randint(0, 256, (draws, -(-total // 8)), generator=generator, dtype=torch.uint8)


def _signs(drawn: Tensor, total: int) -> Tensor:
    """The first ``total`` signs, −1 and 1, of random bytes."""
    places = torch.arange(8, dtype=torch.uint8, device=drawn.device)
    bits = drawn.unsqueeze(-1).bitwise_right_shift(places).bitwise_and(1)
    return bits.reshape(-1)[:total].to(torch.float32) * 2 - 1


def _key(batch: Mapping[str, Any], index: int, examples: int, seed: int) -> bytes:
    """Hash of the seed and of one example's tokens, without padding."""
    digest = hashlib.sha256(str(seed).encode())
    ids, mask = batch.get("input_ids"), batch.get("attention_mask")
    if isinstance(ids, Tensor):
        own = ids[index]
        if isinstance(mask, Tensor) and mask.shape == ids.shape:
            own = own[mask[index] != 0]
        digest.update(own.cpu().contiguous().numpy().tobytes())
        return digest.digest()
    for name in sorted(batch):
        value = batch[name]
        if name != LABELS and isinstance(value, Tensor) and value.dim() > 0 and len(value) == examples:
            digest.update(value[index].detach().to("cpu", torch.float64).contiguous().numpy().tobytes())
    return digest.digest()
