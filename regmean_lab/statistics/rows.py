"""Which rows of a layer's input count towards its Gram matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from torch import Tensor

Mask: TypeAlias = Tensor | Mapping[str, Tensor] | Callable[[str, Tensor], Tensor | None] | None
"""The real tokens of a batch.

- a tensor ``[batch, tokens]``, non-zero at real tokens, for every layer;
- a mapping from a pattern of layer names (``fnmatch``: ``"encoder.*"``) to such a tensor: the first pattern that
  matches a layer gives its mask, so an encoder-decoder names its cross-attention before its decoder;
- a function of a layer's name and input that returns such a tensor or None (return the same tensor object each time:
  layers share their input's product only if they share the mask too);
- None: there is no padding, and all rows of all inputs count.
"""


class RowSelection:
    """The rows that count in one batch.

    By the leading dimensions of a layer's input ``x`` of shape ``[..., in]``, given a mask ``[batch, tokens]``:

    - ``x.shape[:-1] == mask.shape``, or ``(batch · tokens,)``, as in mixtures of experts: one row a token; the real
      tokens count (with ``count_padding`` all);
    - ``x.shape[:-1] == (batch,)`` or ``(batch, 1, …)``: one row an example (a pooler, a classifier); all count;
    - anything else does not come from the examples (DeBERTa sends its relative-position embeddings, shape
      ``[1, 2k, hidden]``, through the query and key projections) and is left out, unless ``extra_rows``. Shapes alone
      decide, so such rows are mistaken for tokens where they happen to have the shape of the mask.

    Where a layer has no mask all rows of its input count.
    """

    def __init__(self, mask: Mask, *, count_padding: bool = False, extra_rows: bool = False) -> None:
        self._mask = mask
        self._count_padding = count_padding
        self._extra_rows = extra_rows
        # Indices of the real tokens by mask, found once a batch: finding them waits for the device.
        self._indices: dict[int, tuple[Tensor, Tensor]] = {}

    def mask_of(self, layer: str, inputs: Tensor) -> Tensor | None:
        """The mask ``[batch, tokens]`` of this layer and input."""
        if self._mask is None or isinstance(self._mask, Tensor):
            return self._mask
        if isinstance(self._mask, Mapping):
            return next((mask for pattern, mask in self._mask.items() if fnmatchcase(layer, pattern)), None)
        return self._mask(layer, inputs)

    def counts(self, inputs: Tensor, mask: Tensor | None) -> bool:
        """Whether rows of ``inputs`` ``[..., in]`` count at all."""
        leading = inputs.shape[:-1]
        if mask is None or self._extra_rows or leading in (mask.shape, (mask.numel(),)):
            return True
        return len(leading) > 0 and leading[0] == mask.shape[0] and all(size == 1 for size in leading[1:])

    def select(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """The rows ``[rows, in]`` that count, of an input that `counts`; a view of it where all of its rows do."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        if mask is None or self._count_padding or inputs.shape[:-1] not in (mask.shape, (mask.numel(),)):
            return rows
        indices = self.indices(mask)
        return rows if len(indices) == len(rows) else rows.index_select(0, indices.to(rows.device))

    def tokens(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Which rows of an input ``[rows, in]`` that `counts` do count, ``[rows]``, bool."""
        if mask is None or self._count_padding or len(inputs) != mask.numel():
            return torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
        return mask.reshape(-1).to(inputs.device) != 0

    def indices(self, mask: Tensor) -> Tensor:
        """Where a mask ``[batch, tokens]``, flattened, is not zero: int64 ``[real tokens]``, on the mask's device."""
        if id(mask) not in self._indices:
            # The mask is kept beside its indices: while it lives, no other tensor can have its id.
            self._indices[id(mask)] = (mask, mask.reshape(-1).nonzero().squeeze(1))
        return self._indices[id(mask)][1]
