"""What follows the transformer in models of sentence-transformers: compared, merged and written."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.published_statistics import MemberStatistics
from regmean_lab.checkpoints.sources import Source
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.checkpoints.writing import PlannedTensor, Shard, write_shards
from regmean_lab.merging.base import MergeMethod, matches
from regmean_lab.merging.merge import MergedParameter, merge_members
from regmean_lab.merging.parameters import LayerDiagnostics, Layout, LinearLayer, MergeMember, TensorSettings
from regmean_lab.merging.simple import Simple
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.sentence_folders import (
    MODULES_FILE,
    SentenceFolder,
    SentenceModule,
    differences,
    read_sentence_folder,
)
from regmean_lab.statistics import KINDS
from regmean_lab.utils.files import WEIGHTS_FILE
from regmean_lab.utils.names import abbreviated

EXCLUDED = "exclude_layers"
"""The setting of methods that names linear layers which are averaged."""


def agree_on_modules(
    members: Sequence[Member], heads: str, method: MergeMethod
) -> tuple[MergedModules | None, list[str]]:
    """The modules that all members have, or None where the transformers alone are merged; and what is wrong.

    Args:
        members: the members.
        heads: what becomes of what lies on top of encoders; with ``drop`` modules are left out.
        method: how weights are merged.
    """
    folders = {member.name: member.sentence for member in members if member.sentence is not None}
    if not folders or heads == "drop":
        return None, []
    (name, first), *others = folders.items()
    remedy = "make them the same, or set heads=drop to merge the transformers alone"
    if len(folders) < len(members):
        if heads == "keep":
            return None, []
        plain = [member.name for member in members if member.sentence is None]
        modules = ", ".join(map(str, first.on_top))
        return None, [
            f"{name} is a model of sentence-transformers with {modules or 'no modules'}, {abbreviated(plain)} is none "
            f"(no {MODULES_FILE}): {remedy}"
        ]
    found = [
        f"{other} and {name} have other modules ({problem}): {remedy}"
        for other, folder in others
        for problem in differences(first, folder)
    ]
    return (None if found else MergedModules(list(folders), list(folders.values()), method)), found


@dataclass
class MergedModules:
    """The modules of the merged model.

    Attributes:
        members: names of the members.
        folders: the members' folders.
        method: how weights are merged.
        sources: of each member, by kind, what gives statistics.
        solved: names of the linear layers that all members have statistics of.
        base: weights of the base's modules, by the same names; empty where it has none such.
    """

    members: list[str]
    folders: list[SentenceFolder]
    method: MergeMethod
    sources: list[dict[str, Any]] = field(default_factory=list)
    solved: list[str] = field(default_factory=list)
    base: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def first(self) -> SentenceFolder:
        """The folder whose settings the merged model has, which are those of all."""
        return self.folders[0]

    @property
    def names(self) -> list[str]:
        """Names of the weights: each begins with its module's folder."""
        return list(self.first.tensors)

    @property
    def layers(self) -> dict[str, str]:
        """By the name of its weight, the name of each linear layer."""
        return {
            f"{module.path}.{name}": f"{module.path}.{name.removesuffix('.weight')}"
            for module in self.first.on_top
            if module.kind == "Dense"
            for name, tensor in module.tensors.items()
            if name.endswith(".weight") and len(tensor.shape) == 2
        }

    def find_statistics(self, statistics: Sequence[MemberStatistics]) -> None:
        """Take what statistics there are of linear layers: a file without them is one of the transformer alone."""
        kinds = self.method.statistics
        if not statistics or not all(KINDS[kind].by_layer for kind in kinds):
            return
        self.sources = [dict(member.sources) for member in statistics]
        self.solved = [
            layer
            for layer in self.layers.values()
            if kinds and all(kind in own and layer in _layers(own[kind]) for own in self.sources for kind in kinds)
        ]

    def find_base(self, source: Source) -> None:
        """Take the weights of the base's modules, where they are the same modules."""
        try:
            folder = None if source.sentence_folder is None else read_sentence_folder(source.sentence_folder)
        except CheckpointError:
            return
        if folder is not None and not differences(self.first, folder):
            self.base = FileWeights(folder.tensors)

    def notes(self) -> list[str]:
        """What a user should know."""
        if not self.method.statistics or not (averaged := sorted(set(self.layers.values()) - set(self.solved))):
            return []
        return [f"{abbreviated(averaged)}: no statistics of these modules for all checkpoints; averaged"]

    def of_transformer(self, method: MergeMethod, layout: Layout) -> MergeMethod:
        """A method for the transformer, without patterns that name layers of modules alone."""
        own = [layer.name for layer in layout.linear.values()]
        own += [layer.name for stack in layout.stacked.values() for layer in stack.layers]
        patterns = getattr(method, EXCLUDED, [])
        used = [text for text in patterns if _names(text, own) or not _names(text, self.layers.values())]
        return _excluding(method, used)

    def weights(self, member: str) -> FileWeights:
        """The weights of a member's modules, by :attr:`names`."""
        return FileWeights(self.folders[self.members.index(member)].tensors)

    def files(self, member: str) -> dict[str, Path]:
        """The files that a member's modules come from, by their path in its folder."""
        return self.folders[self.members.index(member)].files

    def write(
        self,
        folder: Path,
        dtype: torch.dtype | None,
        settings: Callable[[str], TensorSettings] | None,
        device: torch.device | str,
        diagnostics: list[LayerDiagnostics],
    ) -> None:
        """Merge the weights, and write each module as the members have it; the transformer lies in the folder itself.

        Args:
            folder: where the merged transformer lies.
            dtype: of the merged weights; None takes the first member's.
            settings: by a weight's name, how it is merged.
            device: where to compute.
            diagnostics: those of each layer that is solved are added.
        """
        for module in self.first.on_top:
            (folder / module.path).mkdir()
        for name, path in self.first.files.items():
            if path.name != WEIGHTS_FILE and name != MODULES_FILE:
                shutil.copyfile(path, folder / name)
        listed = [
            {**entry, "path": "" if number == 0 else entry["path"]} for number, entry in enumerate(self.first.listed)
        ]
        (folder / MODULES_FILE).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
        if not self.names:
            return
        merged = self._merged(settings, device)
        for module in self.first.on_top:
            if module.tensors:
                _write_module(folder / module.path, module, merged, dtype, diagnostics)

    def _merged(
        self, settings: Callable[[str], TensorSettings] | None, device: torch.device | str
    ) -> Iterator[MergedParameter]:
        method, layout = self.method, Layout({})
        if not all(KINDS[kind].by_layer for kind in method.statistics):
            # Of these there are statistics of the transformer's parameters alone.
            method = Simple(coefficients=method.coefficients, followed_by=method.followed_by)
        else:
            method = replace(method, keep_layers=[], merge_layers=None, keep_top=0)
            layout = Layout({name: LinearLayer(layer) for name, layer in self.layers.items() if layer in self.solved})
            layers = [layer.name for layer in layout.linear.values()]
            # The other patterns name layers of the transformer.
            method = _excluding(method, [text for text in getattr(method, EXCLUDED, []) if _names(text, layers)])
        sources: list[dict[str, Any]] = self.sources or [{} for _ in self.folders]
        members = [
            MergeMember.of(name, FileWeights(folder.tensors), own)
            for name, folder, own in zip(self.members, self.folders, sources, strict=True)
        ]
        yield from merge_members(method, members, layout, device=device, base=self.base, settings=settings)


def _names(pattern: str, layers: Iterable[str]) -> bool:
    """Whether a pattern names one of some layers."""
    return any(matches(layer, [pattern]) for layer in layers)


def _excluding(method: MergeMethod, patterns: list[str]) -> MergeMethod:
    """A method that averages the layers of these patterns and no others."""
    if getattr(method, EXCLUDED, patterns) == patterns:
        return method
    changed = copy.copy(method)
    setattr(changed, EXCLUDED, patterns)
    return changed


def _write_module(
    folder: Path,
    module: SentenceModule,
    merged: Iterator[MergedParameter],
    dtype: torch.dtype | None,
    diagnostics: list[LayerDiagnostics],
) -> None:
    weights = FileWeights(module.tensors)
    names = sorted(module.tensors)
    planned = [
        PlannedTensor(name, dtype if dtype is not None and own.is_floating_point else own, weights.shape(name))
        for name, own in ((name, weights.dtype(name)) for name in names)
    ]

    def own_tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for tensor in planned:
            parameter = next(merged)
            if parameter.diagnostics is not None:
                diagnostics.append(parameter.diagnostics)
            yield tensor.name, parameter.value

    write_shards(folder, [Shard(WEIGHTS_FILE, tuple(planned))], own_tensors())


def _layers(source: Any) -> Sequence[str]:
    """The layers that a file of statistics has, which may be renamed as the merged model's."""
    file = getattr(source, "source", source)
    layers: Sequence[str] = file.layers
    return layers
