"""Forward passes in which every example has a copy of the relative positions of its own.

Relative positions come from a table, and all examples of a batch share what is looked up: T5 adds ``[1, heads, q, k]``
to the attention of each, DeBERTa compares each with the same ``[1, 2k, hidden]``. Their gradients are then sums over
the examples, and those of single examples are lost. With a copy for each example the same modules see the examples in
the first dimension, and the rules of `per_example` hold. The copies have the values that the model's own code finds,
which is compared once; where they do not, the model's own code is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

_BIASES = ("compute_bias", "compute_position_bias")
"""Methods that look up a table ``relative_attention_bias``: of T5 and what is built like it, and of MPNet."""

_DISAGREEMENT = 0.05
"""Largest relative difference, as of bfloat16, between what is computed and what should be."""


class OwnRelativePositions:
    """A context manager: inside the ``with`` block each example has relative positions of its own.

    Args:
        model: the model; those of its modules that are known get other methods for the while.
    """

    def __init__(self, model: nn.Module) -> None:
        self._known: list[_Positions] = []
        for module in model.modules():
            self._known += [_Bias(module, method) for method in _BIASES if _looks_up_biases(module, method)]
            if _is_disentangled(module):
                self._known.append(_Disentangled(module))

    def __enter__(self) -> Self:
        """Replace the methods."""
        for positions in self._known:
            positions.replace()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the modules' own methods back."""
        for positions in self._known:
            positions.restore()


class _Positions(ABC):
    """Methods that are replaced for the while, and whether what they compute was compared."""

    def __init__(self) -> None:
        self._replaced: list[tuple[nn.Module, str]] = []
        self._agrees: dict[int, bool] = {}

    @abstractmethod
    def replace(self) -> None:
        """Replace the methods."""

    def restore(self) -> None:
        """Put the modules' own methods back."""
        for module, method in self._replaced:
            delattr(module, method)
        self._replaced.clear()

    def _set(self, module: nn.Module, method: str, function: Callable[..., Any]) -> None:
        setattr(module, method, function)
        self._replaced.append((module, method))

    def _compare(self, module: nn.Module, ours: Tensor, theirs: Callable[[], Tensor]) -> bool:
        """Whether ``ours`` is what the model's own code computes; found at the module's first call."""
        if id(module) not in self._agrees:
            with torch.no_grad():
                self._agrees[id(module)] = _equal(ours, theirs())
        return self._agrees[id(module)]


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors, either of which may be shared by all examples, are equal to rounding, and not zero."""
    if ours.shape[1:] != theirs.shape[1:]:
        return False
    error = (ours.double() - theirs.double()).norm() / max(len(ours), len(theirs)) ** 0.5
    size = theirs.double().norm() / len(theirs) ** 0.5
    return bool((size > 0) & (error <= _DISAGREEMENT * size))


def _looks_up_biases(module: nn.Module, method: str) -> bool:
    table = getattr(module, "relative_attention_bias", None)
    return isinstance(table, nn.Embedding) and callable(getattr(module, method, None)) and method not in vars(module)


class _Bias(_Positions):
    """A bias of attention: ``[1, heads, q, k]`` (or repeated for each example) of one lookup ``[q, k]``."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self._module, self._method = module, method

    def replace(self) -> None:
        """See `_Positions`."""
        own_code = getattr(self._module, self._method)
        table = self._module.relative_attention_bias
        assert isinstance(table, nn.Embedding)

        def bias(*args: Any, **kwargs: Any) -> Tensor:
            lookups: list[Tensor] = []
            handle = table.register_forward_pre_hook(lambda module, inputs: lookups.append(inputs[0]))
            try:
                with torch.no_grad():  # so that no call is recorded
                    shared = own_code(*args, **kwargs)
            finally:
                handle.remove()
            if len(lookups) != 1 or lookups[0].dim() != 2:
                return own_code(*args, **kwargs)
            own = table(lookups[0].unsqueeze(0)).permute(0, 3, 1, 2)
            return own if self._compare(self._module, own, lambda: shared) else own_code(*args, **kwargs)

        self._set(self._module, self._method, bias)


def _is_disentangled(module: nn.Module) -> bool:
    """Whether ``module`` is an encoder like DeBERTa's, of version 2 or 3, with relative positions."""
    return (
        isinstance(getattr(module, "rel_embeddings", None), nn.Embedding)
        and hasattr(module, "norm_rel_ebd")
        and all(callable(getattr(module, method, None)) for method in ("get_rel_embedding", "get_rel_pos"))
        and {"get_rel_embedding", "get_rel_pos"}.isdisjoint(vars(module))
    )


class _Disentangled(_Positions):
    """DeBERTa's attention between contents and relative positions (He et al., ICLR 2021, section 3).

    Of the table of ``2k`` positions only those are used that are as near as the farthest two tokens: nothing else has a
    gradient.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self._encoder = encoder
        self._attentions = [
            module
            for module in encoder.modules()
            if callable(getattr(module, "disentangled_attention_bias", None))
            and "disentangled_attention_bias" not in vars(module)
        ]

    def replace(self) -> None:
        """See `_Positions`."""
        encoder = self._encoder
        own_positions, own_embedding = encoder.get_rel_pos, encoder.get_rel_embedding
        largest = encoder.rel_embeddings.num_embeddings // 2
        examples, span = 1, largest

        def positions(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            nonlocal examples, span
            found: Tensor = own_positions(hidden, *args, **kwargs)
            examples, span = len(hidden), min(int(found.abs().amax()) + 1, largest)
            return found

        def embedding() -> Tensor:
            table = encoder.rel_embeddings
            rows = torch.arange(largest - span, largest + span, device=table.weight.device)
            own: Tensor = table(rows.expand(examples, -1))
            return encoder.LayerNorm(own) if "layer_norm" in encoder.norm_rel_ebd else own

        self._set(encoder, "get_rel_pos", positions)
        self._set(encoder, "get_rel_embedding", embedding)
        for attention in self._attentions:
            self._set(attention, "disentangled_attention_bias", self._scores(attention, own_embedding))

    def _scores(self, attention: Any, whole_table: Callable[[], Tensor]) -> Callable[..., Tensor]:
        """What replaces ``disentangled_attention_bias`` of one layer."""
        own_code = attention.disentangled_attention_bias

        def scores(query: Tensor, key: Tensor, relative: Tensor, positions: Tensor, factor: int) -> Tensor:
            if attention.pos_att_type:
                own = _disentangled_scores(attention, query, key, relative, positions, factor)
                if self._compare(attention, own, lambda: own_code(query, key, relative, whole_table(), factor)):
                    return own
            shared: Tensor = own_code(query, key, relative, whole_table(), factor)
            return shared

        return scores


def _disentangled_scores(
    attention: Any, query: Tensor, key: Tensor, relative: Tensor, positions: Tensor, factor: int
) -> Tensor:
    """Attention scores between contents and relative positions.

    Args:
        attention: the module.
        query: ``[batch · heads, tokens, width]``.
        key: the same.
        relative: ``[1, tokens, tokens]``, the place of each pair of tokens in the table, 0 in its middle.
        positions: ``[batch, 2 · span, hidden]``, the part of the table that is used, for each example.
        factor: how many scores are added up, those between contents included.

    Returns:
        ``[batch · heads, tokens, tokens]``.
    """
    span = positions.shape[1] // 2
    scale = float(torch.tensor(query.shape[-1] * factor, dtype=torch.float32).sqrt())  # float32 as in the model's code
    relative = relative.reshape(relative.shape[-2:])
    names = ("query_proj", "key_proj") if attention.share_att_key else ("pos_query_proj", "pos_key_proj")
    scores = torch.zeros((), dtype=query.dtype, device=query.device)

    def between(contents: Tensor, projection: str, places: Tensor) -> Tensor:
        """The score of each row of ``contents`` and the position at its ``places`` ``[tokens, tokens]``."""
        projected = getattr(attention, projection)(positions)
        projected = attention.transpose_for_scores(projected, attention.num_attention_heads)
        every = contents @ projected.transpose(-1, -2)
        return every.gather(-1, places.clamp(0, 2 * span - 1).expand(len(contents), -1, -1)) / scale

    if "c2p" in attention.pos_att_type:
        scores = scores + between(query, names[1], relative + span)
    if "p2c" in attention.pos_att_type:
        scores = scores + between(key, names[0], span - relative).transpose(-1, -2)
    return scores
