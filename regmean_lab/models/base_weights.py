"""Weights of the pretrained model that members were trained from, under the names that members' weights have."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from filelock import FileLock
from transformers import PreTrainedModel

from regmean_lab.merging.weights import SafetensorsWeights
from regmean_lab.models.pretrained import Checkpoint, quiet_transformers
from regmean_lab.utils.files import new_folder, sha256


def base_weights(checkpoint: Checkpoint, model_class: type[PreTrainedModel], cache_dir: Path) -> SafetensorsWeights:
    """The weights of a pretrained model, read tensor by tensor; what it lacks of ``model_class`` is not there.

    A checkpoint's file may name its tensors otherwise than a fine-tuned model does (without the head's prefix, or as
    old versions did), so the first call for a checkpoint and class loads it once as training does, and keeps what came
    from the checkpoint below ``cache_dir``.

    Args:
        checkpoint: the pretrained model.
        model_class: the class of the fine-tuned models.
        cache_dir: where the weights are kept.

    Raises:
        ModelError: when the weights cannot be had as safetensors, or lack what is no head.
    """
    key = "\0".join([checkpoint.fingerprint, model_class.__name__, transformers.__version__])
    if checkpoint.new_head:
        key += "\0new_head"
    folder = cache_dir / f"base-{sha256(key)[:16]}"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(str(cache_dir / f".{folder.name}.lock")):
        if not folder.is_dir():
            _write(checkpoint, model_class, folder)
    return SafetensorsWeights(folder)


def _write(checkpoint: Checkpoint, model_class: type[PreTrainedModel], folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):  # what the checkpoint lacks is drawn at random, and left out
        model, missing = checkpoint.load_with_missing(model_class)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in missing}
    with new_folder(folder) as temporary, quiet_transformers():
        model.save_pretrained(temporary, state_dict=state, save_original_format=False)
