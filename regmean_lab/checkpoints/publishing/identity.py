"""What tells others whether they have the weights that statistics were measured on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.hub import digests, find_on_hub
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.models.sentence_folders import SentenceFolder
from regmean_lab.utils.files import WEIGHTS_FILE, file_sha256


def identity_of(checkpoint: Checkpoint, sentence: SentenceFolder | None, pushed: bool) -> dict[str, Any]:
    """What tells others whether they have the same weights: hashes of a folder's files, or a commit of the hub.

    What is pushed makes a new commit, so that there the files of the hub have to be told by their hashes as well.
    """
    if checkpoint.revision is not None:
        sums = _sums_on_hub(checkpoint) if pushed else {}
        return {"hub": checkpoint.fingerprint, **({"weights_sha256": sums} if sums else {})}
    files = sorted({tensor.path for tensor in stored_tensors(Path(checkpoint.location)).values()})
    sums = {path.name: file_sha256(path) for path in files}
    if sentence is not None:
        sums |= {name: file_sha256(path) for name, path in sentence.weight_files.items()}
    return {"weights_sha256": sums}


def _sums_on_hub(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of the files of a hub model's weights, or of the copy into which its pickles were converted."""
    if checkpoint.folder is not None:
        files = {tensor.path for tensor in stored_tensors(Path(checkpoint.folder)).values()}
        return {path.name: file_sha256(path) for path in sorted(files)}
    commit = checkpoint.weights_revision or checkpoint.revision
    assert commit is not None
    listed = find_on_hub(checkpoint.source, commit).files or ()
    weights = [name for name in listed if name == WEIGHTS_FILE]
    weights = weights or [name for name in listed if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    try:
        return digests(checkpoint.source, commit, weights)
    except Exception as error:  # the hub's library raises those of whatever HTTP library it uses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigurationError(
            [f"push: the hub does not tell the weights of {checkpoint.source} ({reason})"]
        ) from None
