"""Combines a merged encoder with one of the heads that were kept separate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from regmean_lab.checkpoints.alignment import AlignedWeights
from regmean_lab.checkpoints.architecture_reading import read_architecture
from regmean_lab.checkpoints.empty_models import Like
from regmean_lab.checkpoints.members import Member, read_stored
from regmean_lab.checkpoints.sources import Source
from regmean_lab.checkpoints.tokenizer_folders import read_tokens
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.models.folders import CONFIG_FILE, stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import quiet_transformers
from regmean_lab.utils.names import abbreviated

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEADS_FOLDER = "heads"


def _head_folder(folder: Path, name: str) -> Path:
    own = folder / HEADS_FOLDER / name
    if not own.is_dir():
        there = sorted(path.name for path in own.parent.glob("*")) if own.parent.is_dir() else []
        raise CheckpointError([f"{own}: no such head; there are {', '.join(there) or 'none'}"])
    return own


def read_with_head(folder: Path, name: str, called: str) -> Member:
    """The same model as a checkpoint, whose headers and configuration were read, but not its weights.

    Args:
        folder: what was written with ``heads=keep``.
        name: of the checkpoint whose head is wanted.
        called: what messages call the model.

    Raises:
        CheckpointError: when there is no such head, or it does not belong to the folder.
    """
    own = _head_folder(folder, name)
    tensors = {**stored_tensors(folder), **stored_tensors(own)}
    architecture = read_architecture(own, len(tensors), Like(), stored=tensors)
    stored = read_stored(tensors, architecture)
    if found := stored.problems(called, architecture):
        raise CheckpointError(found)
    tokens, tokenizer_folder = read_tokens([folder])
    return Member(
        Source(called, str(own), own),
        architecture,
        AlignedWeights(stored.weights, stored.origins),
        {part: stored.weights.dtype(origin) for part, origin in stored.origins.items()},
        tokens,
        tokenizer_folder,
        [*dict.fromkeys(tensor.path for tensor in tensors.values()), own / CONFIG_FILE],
        stored.duplicates,
    )


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
    own = _head_folder(Path(folder), name)
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
