"""Whether a checkpoint's statistics are collected block by block: as configured, or by what has room in memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch

from regmean_lab.config.groups import TrainerConfig
from regmean_lab.models.headers import StoredTensor
from regmean_lab.tracking.environment import available_memory_bytes
from regmean_lab.training.processes import first_device
from regmean_lab.utils.quantities import byte_size

KIND = "gram"
"""The only kind of statistics that can be collected so. The others need gradients, which come from a model's end: a
backward pass would have to go through all blocks again, last to first, with what each was given held for all of them.
"""

CHOICES = {"auto": None, "true": True, "false": False}
"""Values of the setting ``blocks``, as YAML has them in small letters, and what they decide."""

FLOAT_BYTES = 4
SHARE = 0.9
"""How much of the free memory a whole model and its sums may take."""

log = logging.getLogger(__name__)


def choice_problem(value: Any) -> str | None:
    """Why a value of ``blocks`` is none."""
    if str(value).lower() in CHOICES:
        return None
    return f"blocks: expected one of {', '.join(CHOICES)}, got {value!r}"


def whole_model_bytes(tensors: Mapping[str, StoredTensor]) -> tuple[int, int]:
    """Bytes of a model's weights in float32, and of all its Gram matrices at most, from the headers of its files.

    Matrices are counted for every tensor of two dimensions or more, as if no two layers shared their inputs: what is
    told is up to twice as much as it comes to.
    """
    weights = sum(math.prod(tensor.shape) for tensor in tensors.values())
    wide = [tensor.shape for tensor in tensors.values() if len(tensor.shape) >= 2]
    return FLOAT_BYTES * weights, FLOAT_BYTES * sum(math.prod(shape[:-2]) * shape[-1] ** 2 for shape in wide)


def is_by_blocks(value: Any, tensors: Mapping[str, StoredTensor], trainer: TrainerConfig) -> bool:
    """Whether a model is collected block by block: as configured, or if there is no room for all of it.

    Args:
        value: of the setting ``blocks``.
        tensors: of its files.
        trainer: says on which device.
    """
    chosen = CHOICES[str(value).lower()]
    if chosen is not None:
        return chosen
    weights, sums = whole_model_bytes(tensors)
    device = first_device(trainer.accelerator)
    # What is on a GPU is in main memory before (weights) and after (sums).
    places = [(torch.device("cpu"), max(weights, sums))] if device.type == "cuda" else []
    for place, needed in [(device, weights + sums), *places]:
        free = available_memory_bytes(place)
        if free is not None and needed > SHARE * free:
            log.info(
                "the whole model would take %s (weights) and up to %s (sums), and %s are free (%s): collected block by "
                "block; blocks=false collects from the whole model",
                byte_size(weights),
                byte_size(sums),
                byte_size(free),
                place.type,
            )
            return True
    return False
