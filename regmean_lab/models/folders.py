"""Files of a checkpoint's folder: which there are, and which are refused."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from regmean_lab.models.converted_weights import DEFAULT_MODELS_FOLDER, PICKLED_INDEX, prepare_command
from regmean_lab.models.headers import CheckpointError, StoredTensor, parse_json, read_header
from regmean_lab.utils.files import INDEX_FILE, WEIGHTS_FILE

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
MAX_JSON_BYTES = 50_000_000
MAX_TOKENIZER_BYTES = 500_000_000

PICKLED_FILES = ("pytorch_model.bin", PICKLED_INDEX)
"""A whole model's weights in transformers' older format."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".npz")
"""Endings of files that hold weights in formats which are not read: most of them can run code when they are."""


def read_json_file(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a reasonable size.

    Raises:
        CheckpointError: when it cannot be read, is too large, or is something else.
    """
    if not path.is_file():
        raise CheckpointError([f"{path}: not a file"])
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise CheckpointError([f"{path}: {size} bytes of JSON; at most {MAX_JSON_BYTES} are read"])
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise CheckpointError([f"{path}: cannot be read ({error.strerror})"]) from None


def check_tokenizer_files(folder: Path, paths: Iterable[Path]) -> None:
    """Check that a tokenizer's files are plain files of its folder, and of a reasonable size.

    Raises:
        CheckpointError: with all that are not.
    """
    found = []
    for path in paths:
        if (problem := escape_problem(folder, path)) is not None:
            found.append(problem)
        elif not path.is_file():
            found.append(f"{path}: not a file")
        elif (size := path.stat().st_size) > MAX_TOKENIZER_BYTES:
            found.append(f"{path}: {size} bytes; of a tokenizer's file at most {MAX_TOKENIZER_BYTES} are read")
    if found:
        raise CheckpointError(found)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint by name, from the headers of its files: one, or several that an index lists.

    Raises:
        CheckpointError: with everything that is wrong with the index and the files; for weights in formats that are
            not read, how to convert them.
    """
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if not single.is_file() and not index.is_file():
        raise CheckpointError([_without_weights(folder)])
    if single.is_file():
        if escape := escape_problem(folder, single):
            raise CheckpointError([escape])
        return read_header(single)
    return _indexed(folder, index)


def two_readings(folder: Path) -> str | None:
    """Why it is not clear what a folder holds, if it has a whole model's weights and an adapter's configuration.

    Such folders are left by training that goes on after an adapter was merged. transformers adds the adapter to the
    whole model when it loads them; what the weights were when they were saved, nothing tells.
    """
    if not (folder / ADAPTER_CONFIG_FILE).is_file():
        return None
    whole = [file for file in (WEIGHTS_FILE, INDEX_FILE, *PICKLED_FILES) if (folder / file).is_file()]
    if not whole:
        return None
    return (
        f"{folder} holds a whole model ({', '.join(whole)}) and an adapter ({ADAPTER_CONFIG_FILE}): the model may be "
        "the adapter's base, or have the adapter in it already."
    )


def check_weights(folder: Path) -> None:
    """Check the headers of all safetensors files that lie in a folder; cheap, reads no weights.

    Raises:
        CheckpointError: with everything that is wrong.
    """
    found: list[str] = []
    if (folder / INDEX_FILE).is_file() and not (folder / WEIGHTS_FILE).is_file():
        try:
            _indexed(folder, folder / INDEX_FILE)
        except CheckpointError as error:
            raise CheckpointError(error.problems) from None
    for path in sorted(folder.glob("*.safetensors")):
        try:
            read_header(path)
        except CheckpointError as error:
            found += error.problems
    if found:
        raise CheckpointError(found)


def _indexed(folder: Path, index: Path) -> dict[str, StoredTensor]:
    # Not by huggingface_hub, which checks an index only while it loads weights into a model; here are headers alone.
    names = read_json_file(index).get("weight_map")
    if not isinstance(names, Mapping) or not names:
        raise CheckpointError([f"{index}: expected 'weight_map', which gives each tensor's file"])
    found = [
        f"{index}: tensor {name[:80]!a}: {str(file)[:200]!a} is not the plain name of a safetensors file"
        for name, file in names.items()
        if not _is_plain(file)
    ]
    files = sorted({file for file in names.values() if _is_plain(file)})
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        path = folder / file
        if not path.is_file():
            found.append(f"{index}: names {file}, which is not there")
        elif escape := escape_problem(folder, path):
            found.append(escape)
        else:
            try:
                header = read_header(path)
            except CheckpointError as error:
                found += error.problems
                continue
            strays = [name for name in header if names.get(name) != file]
            found += [f"{index}: puts {name!a} into {names.get(name)}, but {file} has it" for name in strays]
            tensors.update(header)
    if not found:
        found = [f"{index}: tensor {name!a} is not in {file}" for name, file in names.items() if name not in tensors]
    if found:
        raise CheckpointError(found)
    return tensors


def _is_plain(file: object) -> bool:
    """Whether this is the name of a safetensors file and nothing else."""
    return (
        isinstance(file, str)
        and file.endswith(".safetensors")
        and file.isprintable()
        and not file.startswith(".")
        and not any(mark in file for mark in ("/", "\\", ":"))
    )


def escape_problem(folder: Path, path: Path) -> str | None:
    """Why a file is not one of the folder, if it is a link that leads out of it.

    The cache of the hub keeps its files beside the folders, and links to them: there, links may lead to its ``blobs``.
    """
    if not path.is_symlink():
        return None
    target, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    blobs = root.parent.parent / "blobs"
    if target.is_relative_to(root) or (root.parent.name == "snapshots" and target.is_relative_to(blobs)):
        return None
    return f"{path}: a link that leads out of its folder, to {target}"


def _without_weights(folder: Path) -> str:
    """Why a folder has no weights that can be read, and what to do."""
    if not folder.is_dir():
        return f"{folder}: no such folder"
    pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLED]
    if weights := [name for name in pickled if name != "training_args.bin"]:
        return (
            f"{folder}: weights in {', '.join(weights)}, which is not read: such a file can run code. Where you trust "
            f"its origin, convert it once in a separate process: {conversion_command(folder)}"
        )
    return f"{folder}: no {WEIGHTS_FILE}, {INDEX_FILE} or {ADAPTER_WEIGHTS_FILE} there; expected a model folder"


def conversion_command(folder: Path) -> str:
    """A command that writes a folder's weights again, as safetensors, where they are found from then on."""
    return prepare_command(str(folder), DEFAULT_MODELS_FOLDER)
