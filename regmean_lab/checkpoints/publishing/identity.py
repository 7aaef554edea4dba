"""What tells others whether they have the weights that statistics were measured on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from regmean_lab.checkpoints.tokenizer_folders import tokenizer_files
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models.folders import CONFIG_FILE, read_json_file, stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.hub import digests, find_on_hub
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.models.sentence_folders import SentenceFolder
from regmean_lab.utils.files import WEIGHTS_FILE, file_sha256, json_sha256

READING = "reading_sha256"
"""Key of the hash of how a folder's model reads a text: its configuration and its tokenizer's files."""

WITHOUT_EFFECT = ("id2label", "label2id", "transformers_version", "_name_or_path", "torch_dtype", "dtype")
"""Entries of a configuration that change no output."""


def identity_of(checkpoint: Checkpoint, sentence: SentenceFolder | None, pushed: bool) -> dict[str, Any]:
    """What tells others whether they have the same weights: hashes of a folder's files, or a commit of the hub.

    Of a folder a hash says besides how it reads a text: its tokenizer's files, and its configuration but for names of
    labels. Statistics are measured anew where that has changed.

    What is pushed makes a new commit, so that there the files of the hub have to be told by their hashes as well.
    """
    if checkpoint.revision is not None:
        sums = _sums_on_hub(checkpoint) if pushed else {}
        return {"hub": checkpoint.fingerprint, **({"weights_sha256": sums} if sums else {})}
    files = sorted({tensor.path for tensor in stored_tensors(Path(checkpoint.location)).values()})
    sums = {path.name: file_sha256(path) for path in files}
    if sentence is not None:
        sums |= {name: file_sha256(path) for name, path in sentence.weight_files.items()}
    return {"weights_sha256": sums, READING: _sha256_of_reading(Path(checkpoint.location), sentence)}


def _sha256_of_reading(folder: Path, sentence: SentenceFolder | None) -> str:
    """Hash of the configuration and the tokenizer's files, and of what says how modules follow a transformer."""
    try:
        config = read_json_file(folder / CONFIG_FILE)
    except CheckpointError:  # told where the model is loaded
        config = {}
    told = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
    tokenizer = {path.name: file_sha256(path) for path in tokenizer_files(folder)}
    listed = {} if sentence is None else {name: path for name, path in sentence.files.items() if path.suffix == ".json"}
    modules = {name: file_sha256(path) for name, path in listed.items()}
    return json_sha256({"configuration": told, "tokenizer": tokenizer, **({"modules": modules} if modules else {})})


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
