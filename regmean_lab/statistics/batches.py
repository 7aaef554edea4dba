"""Batches as the collecting functions take them: mappings from argument name to tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .errors import StatisticsError
from .rows import Mask

Batch: TypeAlias = Mapping[str, Any]
"""A batch. Tensors whose first dimension is the number of examples hold one entry for each; the rest is shared."""

Forward: TypeAlias = Callable[[nn.Module, Batch], Tensor]
"""Runs the model on a batch and returns its logits, the examples first."""

LABELS = "labels"


def call_model(model: nn.Module, batch: Batch) -> Any:
    """Call ``model`` with everything in ``batch`` but the labels, by name."""
    return model(**{name: value for name, value in batch.items() if name != LABELS})


def default_forward(model: nn.Module, batch: Batch) -> Tensor:
    """`call_model`, and the ``logits`` of what it returns, or that itself if it is a tensor."""
    output = call_model(model, batch)
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise StatisticsError(
            f"the output of {type(model).__name__} is neither a tensor nor has `logits`; pass a `forward` function"
        )
    return logits


def count_examples(batch: Batch) -> int:
    """The number of examples: the first dimension of the batch's first tensor.

    Raises:
        StatisticsError: if the batch holds no tensor.
    """
    for value in batch.values():
        if isinstance(value, Tensor) and value.dim() > 0:
            return value.shape[0]
    raise StatisticsError("a batch must be a mapping that holds a tensor with the examples first")


def select_example(batch: Batch, index: int, examples: int) -> dict[str, Any]:
    """The batch of example ``index`` alone, of a batch of ``examples``."""
    return {
        name: value[index : index + 1]
        if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == examples
        else value
        for name, value in batch.items()
    }


def move_batch(batch: Batch, device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on ``device``, and none of them an inference tensor, which autograd could not use."""
    moved = {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
    return {
        name: value.clone() if isinstance(value, Tensor) and value.is_inference() else value
        for name, value in moved.items()
    }


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def attention_mask(batch: Batch) -> Mask:
    """The batch's ``attention_mask`` ``[batch, tokens]``, or None if it has none."""
    mask: Mask = batch.get("attention_mask")
    return mask


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode inside the ``with`` block; every module gets its own flag back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
