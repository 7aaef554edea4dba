"""Members of a merge: checkpoints whose headers and configurations were read, and nothing of their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from transformers import AutoTokenizer

from regmean_lab.checkpoints.adapters import AdaptedWeights, adapted_like, fit_adapter, read_adapter_files
from regmean_lab.checkpoints.alignment import AlignedWeights
from regmean_lab.checkpoints.architecture import Architecture, read_architecture
from regmean_lab.checkpoints.folders import ADAPTER_CONFIG_FILE, CONFIG_FILE, check_tokenizer_files, stored_tensors
from regmean_lab.checkpoints.headers import CheckpointError, StoredTensor
from regmean_lab.checkpoints.sources import Source
from regmean_lab.checkpoints.weights import DTYPES, FileWeights
from regmean_lab.merging.weights import StoredWeights
from regmean_lab.models import TOKENIZER_FILES, quiet_transformers

MORE_TOKENIZER_FILES = ("special_tokens_map.json", "added_tokens.json", "chat_template*", "generation_config.json")


@dataclass
class Member:
    """A checkpoint that is to be merged.

    Attributes:
        source: where it lies.
        architecture: its model.
        weights: its weights by the names of its architecture; of tied ones there is only the first name.
        dtypes: the dtype of each as stored.
        tokens: row of each token of its vocabulary, or None where it has no tokenizer.
        tokenizer_folder: where its tokenizer lies.
        files: all files that its weights come from.
        duplicates: tied weights that its files hold twice: the names of two tensors that must be equal.
        notes: what a user should know of how it was read.
    """

    source: Source
    architecture: Architecture
    weights: StoredWeights
    dtypes: dict[str, torch.dtype]
    tokens: dict[str, int] | None
    tokenizer_folder: Path | None
    files: list[Path]
    duplicates: list[tuple[FileWeights, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.source.name

    def tokenizer_files(self) -> list[Path]:
        """Files of its tokenizer."""
        return [] if self.tokenizer_folder is None else tokenizer_files(self.tokenizer_folder)

    @property
    def rows(self) -> int:
        """Rows of its table of tokens."""
        embedding = next(iter(sorted(self.architecture.vocabulary & set(self.weights))))
        return self.weights.shape(embedding)[0]


def read_member(source: Source, base: Source | None) -> Member:
    """Read headers and configuration of a checkpoint.

    Args:
        source: the checkpoint.
        base: for an adapter, the model that it was made for.

    Raises:
        CheckpointError: with everything that is wrong with it.
    """
    if source.is_adapter:
        assert base is not None
        return _read_adapted(source, base)
    tensors = stored_tensors(source.folder)
    architecture = read_architecture(source.folder, len(tensors))
    files = FileWeights(tensors)
    names, duplicates = named(tensors, architecture)
    if found := shape_problems(source, architecture, {name: tensors[stored].shape for name, stored in names.items()}):
        raise CheckpointError(found)
    tokens, folder = read_tokens([source.folder])
    return Member(
        source,
        architecture,
        AlignedWeights(files, names),
        {name: files.dtype(stored) for name, stored in names.items()},
        tokens,
        folder,
        _paths(tensors.values(), source.folder / CONFIG_FILE),
        [(files, first, other) for first, other in duplicates],
        architecture.notes,
    )


def named(
    tensors: Mapping[str, StoredTensor], architecture: Architecture
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The name in the files of each of an architecture's tensors.

    Tensors of whole numbers that the model does not have (old files hold positions) are left out.

    Returns:
        The names, in the architecture's order, and pairs of stored names that stand for one tied weight.
    """
    found: dict[str, str] = {}
    duplicates = []
    for stored, tensor in tensors.items():
        name = architecture.canonical(stored)
        if name not in architecture.shapes and not DTYPES[tensor.dtype].is_floating_point:
            continue
        if name in found:
            duplicates.append((found[name], stored))
        else:
            found[name] = stored
    order = {name: place for place, name in enumerate(architecture.shapes)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order)))), duplicates


def shape_problems(source: Source, architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Where a checkpoint's tensors are not those that its configuration describes."""
    lacking = sorted(set(architecture.leaders.values()) - set(shapes))
    found = [f"{source.name}: its files lack {name}, which {architecture.name} has" for name in lacking]
    for name, shape in shapes.items():
        expected = architecture.shapes.get(name)
        if expected is not None and expected != shape:
            found.append(f"{source.name}: {name}: shape {shape}, but its configuration says {expected}")
    return found


def _read_adapted(source: Source, base: Source) -> Member:
    settings, changes = read_adapter_files(source.folder)
    tensors = stored_tensors(base.folder)
    architecture = read_architecture(base.folder, len(tensors), adapted_like(settings, changes))
    adapter = fit_adapter(source.folder, settings, changes, architecture)
    files = FileWeights(tensors)
    names, duplicates = named(tensors, architecture)
    names = {name: stored for name, stored in names.items() if name in architecture.shapes}
    weights = AdaptedWeights(AlignedWeights(files, names), adapter)
    if found := shape_problems(source, architecture, {name: weights.shape(name) for name in weights}):
        raise CheckpointError(found)
    own = FileWeights(adapter.tensors)
    dtypes = {name: files.dtype(stored) for name, stored in names.items()}
    dtypes |= {name: own.dtype(stored) for name, stored in adapter.replaced.items() if name not in dtypes}
    tokens, folder = read_tokens([source.folder, base.folder])
    paths = _paths([*tensors.values(), *adapter.tensors.values()], base.folder / CONFIG_FILE)
    return Member(
        source,
        architecture,
        weights,
        dtypes,
        tokens,
        folder,
        [*paths, source.folder / ADAPTER_CONFIG_FILE],
        [(files, first, other) for first, other in duplicates],
        architecture.notes,
    )


def tokenizer_files(folder: Path) -> list[Path]:
    """Files of the tokenizer in a folder."""
    return sorted({path for pattern in (*TOKENIZER_FILES, *MORE_TOKENIZER_FILES) for path in folder.glob(pattern)})


def _paths(tensors: Iterable[StoredTensor], config: Path) -> list[Path]:
    return [*dict.fromkeys(tensor.path for tensor in tensors), config]


def read_tokens(folders: list[Path]) -> tuple[dict[str, int] | None, Path | None]:
    """The vocabulary of the first folder that has a tokenizer."""
    for folder in folders:
        core = [path for pattern in TOKENIZER_FILES for path in sorted(folder.glob(pattern))]
        if core:
            check_tokenizer_files(folder, tokenizer_files(folder))
            digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sorted(set(core))))
            return _vocabulary(folder, digest.hexdigest()), folder
    return None, None


def _vocabulary(folder: Path, digest: str) -> dict[str, int]:
    try:
        return _read_vocabulary(str(folder), digest)
    except Exception as error:  # whatever a tokenizer's class raises for files that make no sense
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError([f"{folder}: its tokenizer cannot be loaded ({reason[:300]})"]) from None


@lru_cache(maxsize=64)
def _read_vocabulary(folder: str, digest: str) -> dict[str, int]:
    """The vocabulary of a folder's tokenizer; the files' hash is there so that changed files are read again."""
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return dict(tokenizer.get_vocab())
