"""Files of predictions: a tensor of logits and one of labels for each data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from regmean_lab.modules import Predictions
from regmean_lab.utils.files import new_file, share

ALONE = ""
"""The name of the only data set of a file, whose tensors have no name before theirs."""


def write_predictions(path: Path, predicted: Mapping[str, Predictions]) -> None:
    """Write predictions by name: tensors ``NAME/logits`` and ``NAME/labels``."""
    tensors: dict[str, Tensor] = {}
    for name, part in predicted.items():
        tensors |= {_key(name, "logits"): part.logits.contiguous(), _key(name, "labels"): part.labels.contiguous()}
    with new_file(path, "predictions") as temporary:
        save_file(tensors, temporary, {"kind": "predictions"})
        share(temporary)


def read_predictions(path: Path, names: Sequence[str]) -> dict[str, Predictions] | None:
    """Predictions by name; None where a file is not there, damaged, or lacks one of them."""
    try:
        with safe_open(path, framework="pt") as file:
            return {
                name: Predictions(file.get_tensor(_key(name, "logits")), file.get_tensor(_key(name, "labels")))
                for name in names
            }
    except (OSError, SafetensorError):
        return None


def _key(name: str, what: str) -> str:
    return what if name == ALONE else f"{name}/{what}"
