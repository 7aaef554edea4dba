"""Combines a merged encoder with one of the heads that were kept separate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import quiet_transformers
from regmean_lab.utils.names import abbreviated

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEADS_FOLDER = "heads"


def load_with_head(folder: Path | str, name: str) -> PreTrainedModel:
    """The merged model in a folder with the head, and whatever else was kept apart, of one of the checkpoints.

    Args:
        folder: what was written with ``heads=keep``.
        name: of the checkpoint, as a folder of ``heads`` is called.

    Returns:
        The model in evaluation mode, float32.

    Raises:
        CheckpointError: when there is no such head.
    """
    own = Path(folder) / HEADS_FOLDER / name
    if not own.is_dir():
        there = sorted(path.name for path in own.parent.glob("*")) if own.parent.is_dir() else []
        raise CheckpointError([f"{own}: no such head; there are {', '.join(there) or 'none'}"])
    weights = [FileWeights(stored_tensors(part)) for part in (Path(folder), own)]
    state = {tensor: part[tensor] for part in weights for tensor in part}
    with quiet_transformers() as transformers:
        config = transformers.AutoConfig.from_pretrained(own, trust_remote_code=False)
        model: PreTrainedModel
        model, info = getattr(transformers, config.architectures[0]).from_pretrained(
            None, config=config, state_dict=state, dtype="float32", output_loading_info=True
        )
    if strange := sorted({*info["missing_keys"], *info["unexpected_keys"]}):
        raise CheckpointError([f"{own}: does not belong to {folder} ({abbreviated(strange, 5)})"])
    return model.eval()
