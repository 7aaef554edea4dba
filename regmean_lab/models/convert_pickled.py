"""``python -m regmean_lab.models.convert_pickled SOURCE TARGET``: write pickled weights again as safetensors.

``SOURCE`` is a folder with pickled weights, and ``TARGET`` a folder; or ``SOURCE`` is one pickled file of tensors by
name, and ``TARGET`` a file, or a folder that is there and gets a file for each tensor.

The only place where a pickle is loaded, with ``weights_only=True``, which builds tensors and plain containers and
nothing else, and in a process that does nothing else: ``python -m regmean_lab.prepare model=NAME`` starts it. What is
no file of ``torch.save`` is not loaded at all, but read as data (:mod:`regmean_lab.models.plain_pickles`).
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from regmean_lab.models.converted_weights import PICKLED_INDEX, PICKLED_WEIGHTS
from regmean_lab.models.folders import escape_problem, read_json_file
from regmean_lab.models.headers import CheckpointError, read_header
from regmean_lab.models.plain_pickles import TORCH_FILES, PickleError, PlainPickle
from regmean_lab.utils.files import INDEX_FILE

SHOWN = 5
"""At most this many names are listed in a message."""

NO_TENSORS = ("meta_info",)
"""What may lie beside tensors of statistics: the released code of RegMean keeps settings there."""


class ConversionError(Exception):
    """Weights that cannot be converted; the message says which file and why."""


def convert(source: Path, target: Path) -> list[str]:
    """Convert a folder's weights file by file; one file at a time is in memory.

    Tensors that share memory (tied weights) are written each under its own name, so that nothing has to be known of the
    model; whoever loads them ties them again.

    Args:
        source: the folder with pickled weights.
        target: a folder for the converted ones.

    Returns:
        Names of the files that were written.

    Raises:
        ConversionError: for a file that is not what it should be.
        CheckpointError: for an index that makes no sense.
    """
    found = [name for name in PICKLED_WEIGHTS if (source / name).is_file()]
    for name in found:
        _write(load(source, name), target / PICKLED_WEIGHTS[name])
    if found:
        return [PICKLED_WEIGHTS[name] for name in found]
    names = _indexed(source)
    files = sorted(set(names.values()))
    written: dict[str, str] = {}
    size = 0
    for number, file in enumerate(files, start=1):
        tensors = load(source, file)
        own = {name for name, place in names.items() if place == file}
        if different := sorted(own ^ set(tensors)):
            raise ConversionError(
                f"{source / file}: {PICKLED_INDEX} lists other tensors for it ({_shown(different)} in only one of them)"
            )
        new = f"model-{number:05}-of-{len(files):05}.safetensors"
        size += _write(tensors, target / new)
        written |= dict.fromkeys(tensors, new)
        del tensors
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(written.items()))}
    (target / INDEX_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return [INDEX_FILE, *sorted(set(written.values()))]


def convert_file(source: Path, target: Path) -> None:
    """Convert one file of tensors by name, whatever it is called; what is beside them in it is left out.

    Args:
        source: the file, such as one of statistics.
        target: the file to write.

    Raises:
        ConversionError: when it holds no tensors.
    """
    content = _loaded(source.parent, source.name)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors or not all(map(_is_plain, tensors.values())):
        raise ConversionError(f"{source}: expected plain tensors by name")
    _write(tensors, target)


def convert_each(source: Path, folder: Path) -> None:
    """Convert one file of tensors by name, by ``torch.save`` or ``pickle.dump``, each into a file of its own.

    One tensor at a time is in memory, so that files larger than it can be converted.

    Args:
        source: the file, such as one of statistics.
        folder: an empty folder for files ``000000.safetensors`` and so on, each of one tensor under its name.

    Raises:
        ConversionError: when it cannot be read, or naming all that is no plain tensor.
    """
    content = _loaded(source.parent, source.name) if _is_of_torch(source) else _read_as_data(source)
    strange: list[str] = []
    for number, name in enumerate(content):
        if name in NO_TENSORS:
            continue
        try:
            value = content[name]
        except PickleError as error:
            raise ConversionError(f"{source}: {error}") from None
        if not isinstance(name, str) or not _is_plain(value):
            strange.append(f"{str(name)[:100]} ({type(value).__name__})")
        elif not strange:
            _write({name: value}, folder / f"{number:06d}.safetensors")
    if strange:
        raise ConversionError(f"{source}: expected plain tensors by name, but {_shown(strange)} is something else")


def _is_of_torch(path: Path) -> bool:
    """Whether a file is one that ``torch.save`` has written."""
    with path.open("rb") as file:
        return file.read(max(map(len, TORCH_FILES))).startswith(TORCH_FILES)


def _read_as_data(path: Path) -> Mapping[Any, Any]:
    try:
        content = PlainPickle(path)
    except PickleError as error:
        raise ConversionError(f"{path}: {error}") from None
    if not content:
        raise ConversionError(f"{path}: expected tensors by name, got an empty dict")
    return content


def load(folder: Path, file: str) -> dict[str, Tensor]:
    """The tensors of one pickled file.

    Raises:
        ConversionError: when it is none, is cut off, or holds something else than tensors by name.
    """
    path, content = folder / file, _loaded(folder, file)
    strange = [str(name) for name, value in content.items() if not isinstance(name, str) or not _is_plain(value)]
    if strange:
        raise ConversionError(
            f"{path}: expected plain tensors by name, but {_shown(strange)} is something else; save the model's "
            "state_dict() alone"
        )
    return dict(content)


def _loaded(folder: Path, file: str) -> Mapping[Any, Any]:
    """What one pickled file holds: tensors and plain containers.

    Raises:
        ConversionError: when it is none, or is cut off.
    """
    path = folder / file
    if not path.is_file():
        raise ConversionError(f"{path}: not there")
    if escape := escape_problem(folder, path):
        raise ConversionError(escape)
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError):  # old files are no archives that can be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's own message continues with how to load it nevertheless, which must not be done.
        named = re.search(r"(?:unsupported|Unsupported) (?:GLOBAL|global|class|operand) [\w.]{1,80}", str(error))
        reason = f" ({named[0]})" if named else ""
        raise ConversionError(f"{path}: is not a file of plain tensors{reason}, and is not loaded") from None
    except Exception as error:  # whatever torch raises for a file that is cut off or no pickle
        raise ConversionError(f"{path}: cannot be read ({_reason(error)})") from None
    if not isinstance(content, Mapping) or not content:
        raise ConversionError(f"{path}: expected tensors by name, got {type(content).__name__}")
    return content


def _write(tensors: Mapping[str, Tensor], path: Path) -> int:
    """Write one file; returns the bytes of its tensors."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in sorted(tensors.items()):
        value, storage = tensor.detach().contiguous(), tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != value.numel() * value.element_size():
            value = value.clone()
        else:
            seen.add(storage.data_ptr())
        separate[name] = value
    try:
        save_file(separate, path, metadata={"format": "pt"})
    except (ValueError, KeyError, RuntimeError) as error:
        raise ConversionError(f"{path.name}: cannot be written ({_reason(error)})") from None
    header = read_header(path)
    if {name: entry.shape for name, entry in header.items()} != {
        name: tuple(value.shape) for name, value in separate.items()
    }:
        raise ConversionError(f"{path.name}: was not written as it should be; is the disk full?")
    return sum(value.numel() * value.element_size() for value in separate.values())


def _indexed(folder: Path) -> dict[str, str]:
    """The file of each tensor, as the index says."""
    names = read_json_file(folder / PICKLED_INDEX).get("weight_map")
    if not isinstance(names, Mapping) or not names:
        raise ConversionError(f"{folder / PICKLED_INDEX}: expected 'weight_map', which gives each tensor's file")
    strange = [str(file) for file in names.values() if not re.fullmatch(r"[\w][\w.-]*\.bin", str(file))]
    if strange:
        raise ConversionError(f"{folder / PICKLED_INDEX}: {_shown(strange)} is not the plain name of a file")
    return {str(name): str(file) for name, file in names.items()}


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
    )


def _shown(names: list[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def main(arguments: list[str]) -> int:
    """Convert; what stands against it goes to standard error, with exit code 2."""
    if len(arguments) != 2:
        print("usage: python -m regmean_lab.models.convert_pickled SOURCE TARGET", file=sys.stderr)
        return 2
    try:
        source, target = map(Path, arguments)
        if source.is_file() and target.is_dir():
            convert_each(source, target)
        elif source.is_file():
            convert_file(source, target)
        else:
            convert(source, target)
    except (ConversionError, CheckpointError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
