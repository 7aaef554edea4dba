"""Weights of models that are published as pickles only: where a copy as safetensors is, or what makes one.

Pickles are never loaded here: ``python -m regmean_lab.prepare model=NAME`` converts them once, in a separate process
(:mod:`regmean_lab.models.convert_pickled`), into the folder of models. This module only looks for what is there.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from regmean_lab.models.hub import SAFETENSORS_FILES, HubModel, cached_folder, conversion_on_hub
from regmean_lab.utils.files import contents_sha256, new_folder, sha256, write_json

MODELS_FOLDER = ".models"
"""Folder of the zoo that keeps models which are no members: generated ones, and pretrained weights."""

DEFAULT_MODELS_FOLDER = Path("zoo") / MODELS_FOLDER
RECORD_FILE = "conversion.json"
"""Beside converted weights: what they were made from, with the SHA-256 of every file that was read and written."""

PICKLED_WEIGHTS = {"pytorch_model.bin": "model.safetensors", "adapter_model.bin": "adapter_model.safetensors"}
"""Files of weights that can be converted, and what they become."""

PICKLED_INDEX = "pytorch_model.bin.index.json"
"""Lists the files of weights that are divided; they become as many."""

SMALL_FILES = (
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.spm",
    "*.bpe",
    "*.codes",
    "*.tiktoken",
    "*.vocab",
    "vocab*",
    "merges*",
    "additional_chat_templates/*.jinja",
)
"""What lies beside a model's weights: configuration, and all that a tokenizer is made of, in all formats."""

_NOT_SMALL = (".safetensors", ".bin", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".ckpt", ".index.json")
_MAX_SMALL_BYTES = 500_000_000


@dataclass(frozen=True)
class FoundWeights:
    """Where weights can be read as safetensors.

    Attributes:
        commit: at this commit of the model's repository, or None.
        folder: in this folder, which has everything else of the model too, or None.
        problem: why there are none, and what makes some.
    """

    commit: str | None = None
    folder: Path | None = None
    problem: str | None = None


def prepare_command(model: str, models_folder: Path) -> str:
    """The command that has a model's weights as safetensors afterwards.

    Args:
        model: name of a configuration in group ``model``, a model of the hub, or a local folder.
        models_folder: where converted models are kept: ``.models`` of a zoo.
    """
    command = ["python", "-m", "regmean_lab.prepare", f"model={model}"]
    if models_folder != DEFAULT_MODELS_FOLDER and models_folder.name == MODELS_FOLDER:
        command.append(f"zoo_dir={models_folder.parent}")
    return shlex.join(command)


def pickled_files(files: Iterable[str]) -> tuple[str, ...]:
    """Those of a repository's or folder's files that hold its weights as pickles of the kind that transformers reads.

    Of divided weights only the index is known to tell which files belong to it; here they are told by their names.
    """
    names = set(files)
    if single := [name for name in PICKLED_WEIGHTS if name in names]:
        return tuple(single)
    return tuple(
        sorted(name for name in names if name.startswith("pytorch_model-") and name.endswith(".bin"))
        if PICKLED_INDEX in names
        else ()
    )


def matching(files: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Those of a repository's files that fit a pattern in the same folder; ``*`` stands for no ``/``."""
    listed = list(patterns)
    return [
        file
        for file in files
        if any(file.count("/") == pattern.count("/") and fnmatch.fnmatch(file, pattern) for pattern in listed)
    ]


def has_safetensors(files: Iterable[str]) -> bool:
    """Whether a repository or folder has weights as safetensors under the names that transformers reads."""
    return bool(set(files) & set(SAFETENSORS_FILES))


def hub_weights(name: str, found: HubModel, models_folder: Path, command: str) -> FoundWeights:
    """Where the weights of a model of the hub can be read as safetensors.

    At the commit itself; in the hub's own conversion; in a conversion that was made here before.

    Args:
        name: the model's name on the hub.
        found: its commit and files.
        models_folder: where converted models are kept.
        command: what converts this model.
    """
    commit, files = found.commit, found.files
    if files is None or has_safetensors(files):
        if files is not None and found.folder is not None and (lacking := _lacking_shards(found.folder)):
            return FoundWeights(
                problem=f"of {name} the Hugging Face cache lacks {lacking}, and the hub could not be asked "
                f"({found.reason}). Fetch it where there is a network: {command}"
            )
        return FoundWeights(commit)
    pickled = pickled_files(files)
    noted = _noted_conversion(models_folder, name, commit)
    if noted is None and found.folder is None and pickled and (noted := conversion_on_hub(name, commit, pickled)):
        note_conversion(models_folder, name, commit, noted)
    if noted is not None and (found.folder is None or cached_folder(name, noted) is not None):
        return FoundWeights(noted)
    folder = models_folder / converted_name(name, commit)
    if is_converted(folder):
        return FoundWeights(folder=folder)
    if pickled:
        return FoundWeights(
            problem=f"no safetensors weights of {name} are there (commit {commit[:10]}): its repository has only "
            f"{', '.join(pickled)}, which can run code when it is loaded and is not. Convert it once in a "
            f"separate process: {command}"
        )
    if found.folder is not None:
        return FoundWeights(
            problem=f"no safetensors weights of {name} are in the Hugging Face cache, and the hub could not be asked "
            f"({found.reason}). Fetch them where there is a network: {command}"
        )
    return FoundWeights(
        problem=f"no safetensors weights of {name} are there, nor a pytorch_model.bin (commit {commit})"
    )


def folder_weights(folder: Path, models_folder: Path) -> Path | None:
    """A conversion that was made here before of a local folder's pickled weights, with the files that it has now."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    if not pickled_files(names):
        return None
    converted = models_folder / converted_name_of_folder(folder)
    return converted if is_converted(converted) else None


def converted_name(name: str, commit: str) -> str:
    """Name of the folder that a model of the hub is converted into."""
    return f"converted-{sha256(f'{name}@{commit}')[:16]}"


def converted_name_of_folder(folder: Path) -> str:
    """Name of the folder that a local folder is converted into: by the content of its weights and all small files."""
    files = [*weights_paths(folder), *small_files(folder)]
    digest = contents_sha256(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))
    return f"converted-{digest[:16]}"


def weights_paths(folder: Path) -> list[Path]:
    """The files of a folder's pickled weights."""
    return [folder / name for name in pickled_files(path.name for path in sorted(folder.iterdir()))]


def small_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer of a folder: what belongs to a converted copy beside its weights."""
    found = {path for pattern in SMALL_FILES for path in folder.glob(pattern) if is_small(path.name)}
    return sorted(path for path in found if path.is_file() and path.stat().st_size <= _MAX_SMALL_BYTES)


def is_small(name: str) -> bool:
    """Whether a file that fits ``SMALL_FILES`` is none of weights."""
    return not name.endswith(_NOT_SMALL) and name != RECORD_FILE


def is_converted(folder: Path) -> bool:
    """Whether a folder holds a finished conversion."""
    return (folder / RECORD_FILE).is_file()


def note_conversion(models_folder: Path, name: str, commit: str, weights_commit: str) -> None:
    """Remember the commit of the hub's own conversion, for other processes and for those without a network."""
    path = _note(models_folder, name, commit)
    content = {"name": name, "commit": commit, "weights_commit": weights_commit}
    try:
        write_json(path, content)
    except OSError:
        return  # it is asked for again next time


def assembled(name: str, commit: str, folder: Path, weights_folder: Path, models_folder: Path) -> Path:
    """One folder of a model whose weights lie at another commit than the rest of it.

    Args:
        name: the model's name on the hub.
        commit: the model's commit.
        folder: its files at that commit.
        weights_folder: its weights as safetensors.
        models_folder: where the folder is made, if it is not there.
    """
    target = models_folder / f"assembled-{converted_name(name, commit).removeprefix('converted-')}"
    models_folder.mkdir(parents=True, exist_ok=True)
    with FileLock(str(models_folder / f".{target.name}.lock")):
        if not target.is_dir():
            with new_folder(target) as temporary:
                copy_small(folder, temporary)
                for path in [*weights_folder.glob("*.safetensors"), *weights_folder.glob("*.safetensors.index.json")]:
                    _link(path.resolve(), temporary / path.name)
    return target


def copy_small(folder: Path, target: Path) -> dict[str, Path]:
    """Copy configuration and tokenizer; returns the copies by their name, with that of their folder."""
    copies = {}
    for path in small_files(folder):
        name = path.relative_to(folder).as_posix()
        copies[name] = target / name
        copies[name].parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copies[name])
    return copies


def read_record(folder: Path) -> dict[str, Any]:
    """What is recorded of a conversion.

    Raises:
        OSError, ValueError: when there is no sound record.
    """
    content = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{folder / RECORD_FILE}: expected a JSON object")
    return content


def _noted_conversion(models_folder: Path, name: str, commit: str) -> str | None:
    try:
        content = json.loads(_note(models_folder, name, commit).read_text(encoding="utf-8"))
        noted = content["weights_commit"] if (content["name"], content["commit"]) == (name, commit) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return noted if isinstance(noted, str) else None


def _note(models_folder: Path, name: str, commit: str) -> Path:
    return models_folder / f"{converted_name(name, commit)}.json"


def _lacking_shards(folder: Path) -> str:
    """Files of weights that a cached index names and that are not there."""
    if (folder / SAFETENSORS_FILES[0]).is_file() or not (folder / SAFETENSORS_FILES[1]).is_file():
        return ""
    return ", ".join(_lacking(folder, folder / SAFETENSORS_FILES[1]))


def _lacking(folder: Path, index: Path) -> Iterator[str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError):
        return  # told when it is read
    yield from sorted({str(name) for name in names if not (folder / str(name)).is_file()})


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # on another file system
        shutil.copyfile(path, target)
