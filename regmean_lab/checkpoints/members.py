"""Members of a merge: checkpoints whose headers and configurations were read, but not their weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from regmean_lab.checkpoints.adapter_tensors import Adapter
from regmean_lab.checkpoints.adapters import (
    AdaptedWeights,
    adapted_like,
    fit_adapter,
    read_adapter_files,
    read_adapter_labels,
)
from regmean_lab.checkpoints.alignment import AlignedWeights
from regmean_lab.checkpoints.architecture import Architecture, lacking
from regmean_lab.checkpoints.architecture_reading import read_architecture
from regmean_lab.checkpoints.converted_weights import ConvertedWeights
from regmean_lab.checkpoints.empty_models import Like
from regmean_lab.checkpoints.names import StoredNames, ties
from regmean_lab.checkpoints.sources import Source
from regmean_lab.checkpoints.tokenizer_folders import read_tokens, tokenizer_files
from regmean_lab.checkpoints.weights import FileWeights, dtype_problems
from regmean_lab.merging.weights import StoredWeights
from regmean_lab.models.folders import (
    ADAPTER_CONFIG_FILE,
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    stored_tensors,
)
from regmean_lab.models.headers import CheckpointError, StoredTensor
from regmean_lab.models.sentence_folders import SentenceFolder, read_sentence_folder
from regmean_lab.utils.names import abbreviated

COMPARED_ROWS = 4096
"""Rows of tied weights that are compared at a time."""


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
        strangers: tensors of its files that its model does not have, and that are left out.
        own_names: by the merged model's names, its own, where they differ.
        sentence: the modules around it, if it is the transformer of a folder of sentence-transformers.
        adapter: what an adapter changes in its base, if it is one.
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
    strangers: list[str] = field(default_factory=list)
    own_names: dict[str, str] = field(default_factory=dict)
    sentence: SentenceFolder | None = None
    adapter: Adapter | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.source.name

    def tokenizer_files(self) -> list[Path]:
        """Files of its tokenizer, and how it generates."""
        found = [] if self.tokenizer_folder is None else tokenizer_files(self.tokenizer_folder)
        if not any(path.name == GENERATION_CONFIG_FILE for path in found):  # an adapter leaves it to its base
            beside = [path.parent / GENERATION_CONFIG_FILE for path in self.files if path.name == CONFIG_FILE]
            found += [path for path in beside if path.is_file()][:1]
        return found

    @property
    def vocabulary(self) -> list[str]:
        """Its tensors with a row for each token, by the merged model's names."""
        return [name for name in self.weights if self.own_names.get(name, name) in self.architecture.vocabulary]

    @property
    def head(self) -> list[str]:
        """Its tensors on top of the encoder, by the merged model's names."""
        return [name for name in self.weights if self.own_names.get(name, name) in self.architecture.head]

    @property
    def rows(self) -> int:
        """Rows of its table of tokens."""
        return self.weights.shape(min(self.vocabulary))[0]

    def untied(self, groups: Iterable[tuple[str, ...]]) -> None:
        """Keep tensors apart that another member does not tie.

        Args:
            groups: names of tensors that share their values in all members.
        """
        leaders = self.architecture.leaders
        before = {name: leaders[name] for names in groups for name in names if name in leaders}
        values = {name: names[0] for names in groups for name in names}
        self.architecture.untie(values)
        names = {name: before.get(name, name) for name in dict.fromkeys(self.architecture.leaders.values())}
        names = {name: own for name, own in names.items() if own in self.weights}
        self.weights = AlignedWeights(self.weights, names)
        self.dtypes = {name: self.dtypes[own] for name, own in names.items()}

    def rename(self, lead: Architecture) -> None:
        """Give the tensors of the encoder the names that they have in another architecture on the same encoder."""
        prefix = self.architecture.encoder_prefix
        if prefix == lead.encoder_prefix:
            return
        encoder = set(self.weights) - self.architecture.head
        renamed = {
            lead.encoder_prefix + name.removeprefix(prefix) if name in encoder else name: name for name in self.weights
        }
        self.weights = AlignedWeights(self.weights, renamed)
        self.dtypes = {name: self.dtypes[own] for name, own in renamed.items()}
        self.own_names = {name: own for name, own in renamed.items() if name != own}


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
    sentence = _read_sentence(source)
    tensors = stored_tensors(source.folder)
    like = Like() if sentence is None else Like(auto_class=sentence.auto_class)
    architecture = read_architecture(source.folder, len(tensors), like, stored=tensors)
    stored = read_stored(tensors, architecture)
    if found := stored.problems(source.name, architecture):
        raise CheckpointError(found)
    notes, strangers = architecture.notes, stored.names.strangers
    if sentence is not None and sentence.is_embedding and strangers:  # sentence-transformers does not read them either
        notes = [
            *notes,
            f"{source.name}: its files have {abbreviated(strangers)}, which embeddings do without: left out",
        ]
        strangers = []
    tokens, folder = read_tokens([source.folder])
    return Member(
        source,
        architecture,
        AlignedWeights(stored.weights, stored.origins),
        {name: stored.weights.dtype(origin) for name, origin in stored.origins.items()},
        tokens,
        folder,
        _paths(tensors.values(), source.folder / CONFIG_FILE),
        stored.duplicates,
        notes,
        strangers,
        sentence=sentence,
    )


def _read_sentence(source: Source) -> SentenceFolder | None:
    if source.sentence_folder is None:
        return None
    folder = read_sentence_folder(source.sentence_folder)
    if folder is not None and (found := dtype_problems(folder.tensors)):
        raise CheckpointError(found)
    return folder


@dataclass
class Stored:
    """A folder's tensors as an architecture's.

    Attributes:
        names: what the stored tensors are for the model.
        weights: the tensors by the model's names.
        origins: by the architecture's leading names, in its order, the name that the values are stored for.
        duplicates: names in the files of two tensors that must be equal.
    """

    names: StoredNames
    weights: ConvertedWeights
    origins: dict[str, str]
    duplicates: list[tuple[FileWeights, str, str]]

    def problems(self, member: str, architecture: Architecture, adapted: Collection[str] = ()) -> list[str]:
        """Where a checkpoint's tensors are not those that its configuration describes.

        Args:
            member: what messages call it.
            architecture: the model that its configuration describes.
            adapted: tensors that an adapter brings.
        """
        found = [f"{member}: {problem}" for problem in self.names.problems]
        if missing := lacking(architecture, {*self.origins, *adapted}):
            there = ""
            if self.names.strangers:
                there = f"; they have {abbreviated(self.names.strangers)}, which it does not know"
            found.append(f"{member}: its files lack {abbreviated(missing)} of {architecture.name}{there}")
        shapes = {name: self.weights.shape(origin) for name, origin in self.origins.items() if name not in adapted}
        return found + shape_problems(member, architecture, shapes)


def read_stored(tensors: Mapping[str, StoredTensor], architecture: Architecture) -> Stored:
    """Find out what a folder's tensors are for an architecture, which is untied where its files say so.

    Weights are read only to compare tied ones that are both stored.
    """
    files = FileWeights(tensors)
    names = architecture.stored_names(tensors)
    weights = ConvertedWeights(files, names, architecture)
    values, _ = ties(architecture.tied, names.found, lambda one, other: equal_tensors(weights, one, other))
    architecture.untie(values)
    origins = {name: values[name] for name in dict.fromkeys(architecture.leaders.values()) if name in values}
    return Stored(names, weights, origins, [(files, first, other) for first, other in names.doubles])


def equal_tensors(weights: StoredWeights, one: str, other: str, elsewhere: StoredWeights | None = None) -> bool:
    """Whether two tensors are equal; some rows of each are in memory at a time.

    Args:
        weights: has the first of them.
        one: its name.
        other: the name of the other one.
        elsewhere: has the other one; None: ``weights`` has it too.
    """
    second = weights if elsewhere is None else elsewhere
    shape = weights.shape(one)
    if shape != second.shape(other):
        return False
    if not shape:
        return torch.equal(weights[one], second[other])
    return all(
        torch.equal(
            weights.rows(one, start, min(start + COMPARED_ROWS, shape[0])),
            second.rows(other, start, min(start + COMPARED_ROWS, shape[0])),
        )
        for start in range(0, shape[0], COMPARED_ROWS)
    )


def shape_problems(member: str, architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Where tensors are not of the size that a configuration describes, in one line."""
    wrong = [
        f"{name}: shape {shape}, but its configuration says {expected}"
        for name, shape in shapes.items()
        if (expected := architecture.shapes.get(name)) is not None and expected != shape
    ]
    if not wrong:
        return []
    return [f"{member}: {wrong[0]}" + (f"; and {len(wrong) - 1} more tensors" if len(wrong) > 1 else "")]


def _read_adapted(source: Source, base: Source) -> Member:
    settings, changes = read_adapter_files(source.folder)
    tensors = stored_tensors(base.folder)
    tied = read_architecture(base.folder, len(tensors), adapted_like(settings, changes))
    stored = read_stored(tensors, tied)
    adapter, architecture = fit_adapter(source.folder, settings, changes, tied)
    origins = {
        own: stored.origins[name] for own, name in _names_of_ties(tied, architecture).items() if name in stored.origins
    }
    weights = AdaptedWeights(AlignedWeights(stored.weights, origins), adapter)
    found = stored.problems(source.name, tied, adapter.replaced)
    if found := found + shape_problems(source.name, architecture, {name: weights.shape(name) for name in weights}):
        raise CheckpointError(found)
    own = FileWeights(adapter.tensors)
    dtypes = {name: stored.weights.dtype(origin) for name, origin in origins.items()}
    dtypes |= {name: own.dtype(part) for name, part in adapter.replaced.items() if name not in dtypes}
    tokens, folder = read_tokens([source.folder, base.folder])
    labelled = read_adapter_labels(source.folder, architecture)
    paths = _paths([*tensors.values(), *adapter.tensors.values()], base.folder / CONFIG_FILE)
    notes = list(architecture.notes)
    if adapter.untied:
        notes.append(f"{source.name}: its adapter changes tied weights apart; in the merged model they are not tied")
    return Member(
        source,
        architecture,
        weights,
        dtypes,
        tokens,
        folder,
        [*paths, source.folder / ADAPTER_CONFIG_FILE, *([source.folder / CONFIG_FILE] if labelled else [])],
        stored.duplicates + [(own, *pair) for pair in adapter.equal],
        notes,
        sentence=_read_sentence(source),
        adapter=adapter,
    )


def _names_of_ties(tied: Architecture, untied: Architecture) -> dict[str, str]:
    """The name of each weight of a model that may be less tied, and of the weight that it is in the tied one."""
    return {name: tied.leaders[name] for name in dict.fromkeys(untied.leaders.values())}


def _paths(tensors: Iterable[StoredTensor], config: Path) -> list[Path]:
    return [*dict.fromkeys(tensor.path for tensor in tensors), config]
