"""Statistics that lie beside checkpoints, in their folders ``statistics``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regmean_lab.callbacks.requests import published_path
from regmean_lab.checkpoints.alignment import AlignedFisher, AlignedGradientGram, AlignedGram, RowOrder
from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.stand_ins import stand_in
from regmean_lab.checkpoints.tokenizer_folders import tokenizer_in
from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.parameters import Layout
from regmean_lab.models.headers import CheckpointError, read_header
from regmean_lab.statistics import KINDS, Kind, LayerFile, StatisticsError, StatisticsFile, TokensFile
from regmean_lab.statistics.token_counts import mapped
from regmean_lab.suites.pseudo_text import vocabulary_of
from regmean_lab.utils.files import STATISTICS_FOLDER, contents_sha256, file_sha256


@dataclass
class MemberStatistics:
    """A member's statistics, as ``MergeMember`` takes them.

    Attributes:
        sources: by kind, what gives the tensors.
        files: the files that they come from.
        notes: what a user should know of those that stand in for others, a line each.
    """

    sources: dict[str, Any]
    files: list[Path]
    notes: list[str] = field(default_factory=list)


def open_statistics(
    members: Sequence[Member],
    method: MergeMethod,
    names: Sequence[str],
    layout: Layout,
    orders: Sequence[Mapping[str, RowOrder]],
) -> list[MemberStatistics]:
    """Open what a method needs of all members, and check that it belongs to their weights.

    Args:
        members: the members.
        method: the method.
        names: the parameters that are merged.
        layout: the merged model's layers.
        orders: of each member, by parameter, the order of its rows.

    Raises:
        CheckpointError: with everything that is missing or does not belong together, and how to get it.
    """
    found: list[str] = []
    opened = []
    for member, order in zip(members, orders, strict=True):
        statistics = MemberStatistics({}, [])
        lacking = []
        for kind in method.statistics:
            paths = _files(member.source.statistics_from or member.source.folder, kind)
            if len(paths) > 1:
                found.append(
                    f"{paths[0].parent}: {len(paths)} files of {kind} statistics; keep one, as {kind}.safetensors"
                )
            if not paths and (other := stand_in(member, kind, method)) is not None:
                statistics.notes.append(other.note)
                statistics.files += other.files
                if other.source is not None:
                    statistics.sources[kind] = other.source
            elif not paths:
                lacking.append(kind)
            if len(paths) != 1:
                continue
            path = paths[0]
            try:
                read_header(path)
                file = KINDS[kind].file(path)
            except CheckpointError as error:
                found += error.problems
                continue
            except StatisticsError as error:
                found.append(str(error))
                continue
            layers = method.gram_layers(names, layout)
            excludable = hasattr(method, "exclude_layers")
            problems = _problems(file, KINDS[kind], member, layers, names, layout, excludable=excludable)
            found += [f"{path}: {problem}" for problem in problems]
            if not problems:
                statistics.sources[kind] = _aligned(file, KINDS[kind], member, order, layout)
                statistics.files.append(path)
        if lacking and member.source.is_adapter:
            found.append(
                f"{member.name} is an adapter without {' and '.join(lacking)} statistics, which {method.name} needs: "
                "merge it into its base with PEFT's merge_and_unload(), save that, and collect them there"
                f"{_without(method, lacking)}"
            )
        elif lacking:
            found.append(
                f"{member.name} has no {' and no '.join(lacking)} statistics, which {method.name} needs. Whoever has "
                f"its data makes them: python -m regmean_lab experiment=collect_statistics "
                f"checkpoint={member.source.reference} kinds=[{','.join(lacking)}] data=FILE{_without(method, lacking)}"
            )
        opened.append(statistics)
    if found:
        raise CheckpointError(found)
    return opened


@dataclass(frozen=True)
class Published:
    """Statistics beside a checkpoint, looked at before anything of them is used.

    Attributes:
        whole: by kind, the file that has all that any method reads of this model.
        unused: why others do not serve, a line each.
        problems: what is wrong with files that cannot be what they say.
    """

    whole: dict[str, Path] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def hashes(self) -> dict[str, str]:
        """By kind, a hash of what serves."""
        states = {kind: (path, path.stat()) for kind, path in self.whole.items()}
        return {
            kind: contents_sha256(((str(path), state.st_size, state.st_mtime_ns),))
            for kind, (path, state) in states.items()
        }


def published_beside(member: Member) -> Published:
    """The statistics that were published beside a checkpoint, checked to be of its weights and complete.

    Args:
        member: the checkpoint.
    """
    folder = member.source.statistics_from or member.source.folder
    found = Published()
    layout, names = member.architecture.layout, list(member.weights)
    linear = [layer.name for layer in layout.linear.values()]
    experts = [layer.name for stack in layout.stacked.values() for layer in stack.layers]
    for kind, about in KINDS.items():
        path = published_path(folder, kind)
        if not path.is_file():
            continue
        layers = [*linear, *experts] if about.of_experts else linear
        try:
            read_header(path)
            with about.file(path) as file:
                lacking = _problems(file, about, member, layers, names, layout)
                if isinstance(file, TokensFile) and member.tokenizer_folder is not None:
                    _ = mapped(file.counts, vocabulary_of(tokenizer_in(member.tokenizer_folder)))
        except CheckpointError as error:
            found.problems.extend(error.problems)
            continue
        except StatisticsError as error:
            found.problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        if lacking:
            found.unused.extend(f"{path}: {problem}: not used" for problem in lacking)
        else:
            found.whole[kind] = path
    if found.whole:
        sums = {path.name: file_sha256(path) for path in member.files}
        statistics = MemberStatistics({}, list(found.whole.values()))
        found.problems.extend(other_weights(member, statistics, sums))
    return found


def _without(method: MergeMethod, lacking: Sequence[str]) -> str:
    """How to do without statistics, where a method can."""
    ways = [
        *(method.without_gram if {"gram", "weighted_gram"} & set(lacking) else ()),
        *(method.without_tokens if "tokens" in lacking else ()),
    ]
    return f"; without them: {', or '.join(ways)}" if ways else ""


def _files(folder: Path, kind: str) -> list[Path]:
    """The file of one kind of statistics; of a member of a zoo, whose files have names of their own, all of a kind."""
    path = published_path(folder, kind)
    return [path] if path.is_file() else sorted((folder / STATISTICS_FOLDER).glob(f"{kind}-*.safetensors"))


def _problems(
    file: StatisticsFile,
    kind: Kind,
    member: Member,
    layers: Collection[str],
    names: Sequence[str],
    layout: Layout,
    *,
    excludable: bool = False,
) -> list[str]:
    """Why statistics are not those of a member's weights; ``excludable``: the method can average layers without any."""
    if kind.of == "texts":
        return []
    needed: dict[str, tuple[int, ...]] = {}
    own_layers = _own_layers(member, layout)
    inputs_of = kind.of == "inputs"
    if not kind.by_layer:
        own = _names_in(file, member)
        floating = [name for name in names if member.dtypes[name].is_floating_point]
        needed = {own[name]: member.weights.shape(name) for name in floating}
    else:
        for parameter, layer in layout.linear.items():
            if layer.name in layers and (inputs_of or own_layers[layer.name] in file.shared):  # large outputs have none
                shape = member.weights.shape(parameter)
                outputs, inputs = reversed(shape) if layer.transposed else shape
                needed[own_layers[layer.name]] = (inputs if inputs_of else outputs,)
        for parameter, stack in layout.stacked.items():
            if inputs_of:
                width = member.weights.shape(parameter)[1 if stack.transposed else 2]
                needed.update({layer.name: (width,) for layer in stack.layers if layer.name in layers})
    there_are = set(file.layers if isinstance(file, LayerFile) else file.shared)
    lacking = [name for name in needed if name not in there_are]
    found = []
    if lacking:
        shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        told = f"nothing for {shown}; it is of another model, or these were left out when it was collected"
        if excludable and kind.by_layer and len(lacking) < len(needed):
            told += f": method.exclude_layers=[{','.join(lacking)}] averages them"
        found.append(told)
    for name, shape in needed.items():
        if name not in lacking:
            there = file.shape(name)[:1] if kind.by_layer else file.shape(name)
            if there != shape:
                found.append(f"{name}: of size {_times(there)}, but the weights need {_times(shape)}")
    return found


def other_weights(member: Member, statistics: MemberStatistics, sums: Mapping[str, str]) -> list[str]:
    """Which statistics were collected from other weights than the member's, where they say from which.

    Args:
        member: the member.
        statistics: its statistics.
        sums: SHA-256 of its files by name.
    """
    found = []
    weights = {path.name for path in member.files if path.suffix == ".safetensors"}
    modules: set[str] = set() if member.sentence is None else set(member.sentence.weight_files)
    weights |= modules & set(sums)
    for path in statistics.files:
        with StatisticsFile(path) as file:
            if KINDS[file.metadata["kind"]].of == "texts" and not file.metadata["settings"].get("by_label"):
                continue  # of texts alone, whatever the weights
            collected = file.metadata.get("collected")
        model = collected.get("model") if isinstance(collected, dict) else None
        if not isinstance(model, dict):
            continue
        hashes, hub = model.get("weights_sha256"), model.get("hub")
        same = True
        if isinstance(hashes, dict):
            # Modules that are not merged are not compared.
            of_merged = {digest for name, digest in hashes.items() if name not in modules - weights}
            same = of_merged == {digest for name, digest in sums.items() if name in weights}
        elif isinstance(hub, str) and member.source.revision is not None:
            same = hub.rpartition("@")[2] == member.source.revision  # a model may have had another name
        if not same:
            found.append(f"{path}: collected from other weights than those of {member.name}; collect it again")
    return found


def _aligned(file: Any, kind: Kind, member: Member, orders: Mapping[str, RowOrder], layout: Layout) -> Any:
    """A file, named and ordered as the merged model is."""
    if kind.of == "texts":
        return file
    if not kind.by_layer:
        return AlignedFisher(file, _names_in(file, member), orders)
    own = _own_layers(member, layout)
    if kind.of == "outputs":
        outputs = {layer.name: orders[name] for name, layer in layout.linear.items() if name in orders}
        return AlignedGradientGram(file, outputs, own)
    return AlignedGram(file, own)


def _own_layers(member: Member, layout: Layout) -> dict[str, str]:
    """By the merged model's name of a layer, the member's own."""
    return {
        layer.name: member.own_names.get(name, name).removesuffix(".weight") for name, layer in layout.linear.items()
    }


def _names_in(file: StatisticsFile, member: Member) -> dict[str, str]:
    """The name that a file has for each of a member's tensors: a tied one may be kept under any of its names."""
    found = {name: member.own_names.get(name, name) for name in member.weights}
    for alias, leader in member.architecture.leaders.items():
        if leader in found and found[leader] not in file.shared and alias in file.shared:
            found[leader] = alias
    return found


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
