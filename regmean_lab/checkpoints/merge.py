"""Merges checkpoints: first validates and compares everything, then reads, merges and writes the weights."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from regmean_lab.checkpoints.alignment import AlignedWeights
from regmean_lab.checkpoints.bases import find_bases
from regmean_lab.checkpoints.choices import choice_problems, with_what_is_published
from regmean_lab.checkpoints.compatibility import Agreement, agree
from regmean_lab.checkpoints.equal_weights import equal_warnings, repeated_problems
from regmean_lab.checkpoints.lora.placement import Placement
from regmean_lab.checkpoints.lora.request import AdapterRequest, adapter_problems, core_problems, residual_problems
from regmean_lab.checkpoints.members import Member, equal_tensors, read_member
from regmean_lab.checkpoints.merge_base import aligned_base, read_base
from regmean_lab.checkpoints.merge_work import MergeWork
from regmean_lab.checkpoints.published_statistics import MemberStatistics, open_statistics, other_weights
from regmean_lab.checkpoints.recipe.reading import UNION, Recipe
from regmean_lab.checkpoints.sentence_modules import MergedModules, agree_on_modules
from regmean_lab.checkpoints.sources import Source, find_sources
from regmean_lab.checkpoints.text_plan import TextPlan, plan_text, request_problems
from regmean_lab.checkpoints.unchanged import ReadFiles
from regmean_lab.checkpoints.union_tokenizer import union_lead
from regmean_lab.checkpoints.writing import PlannedTensor, Shard, as_planned, plan_shards, write_shards
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.merging.auto import Auto
from regmean_lab.merging.base import MergeMethod, unmatched_linear
from regmean_lab.merging.choice import Choice
from regmean_lab.merging.distill import Distill
from regmean_lab.merging.layout import averaged_line
from regmean_lab.merging.member_text import ReadsText
from regmean_lab.merging.merge import MergedParameter, part_settings
from regmean_lab.merging.parameters import LayerDiagnostics, MergeError, MergeMember, TensorSettings
from regmean_lab.merging.partial import unmatched_layers
from regmean_lab.merging.parts import name_problems
from regmean_lab.merging.refining import RefiningMethod
from regmean_lab.merging.residual import residual_of
from regmean_lab.models.converted_weights import DEFAULT_MODELS_FOLDER
from regmean_lab.models.headers import CheckpointError, StoredTensor
from regmean_lab.utils.files import STATISTICS_FOLDER
from regmean_lab.utils.names import abbreviated

log = logging.getLogger(__name__)


class SettingsByName(Protocol):
    """How tensors are merged, by their names."""

    def of(self, names: Sequence[str]) -> Callable[[str], TensorSettings]:
        """The settings of each tensor of a model with these tensors.

        Raises:
            CheckpointError: when they do not suit the model.
        """


@dataclass(frozen=True)
class MergeRequest:
    """What is merged, and how.

    Attributes:
        checkpoints: folders or names of models on the hub, two or more.
        method: how they are merged.
        base: the model that they were trained from, or None.
        heads: ``merge``, ``keep`` or ``drop``.
        dtype: of the merged weights; None takes the first checkpoint's.
        max_shard_size: most bytes in a file.
        models_folder: where converted models are kept.
        adapter_bases: for each checkpoint the base of an adapter, where it is not ``base`` or the one that it names;
            empty where there is none such.
        settings: what a recipe says of each tensor; None where all are merged alike.
        tokenizer: the model whose configuration and tokenizer the merged one has: a checkpoint or the base, as they are
            called here; or ``union``: one with the tokens of all, which is made where there is none. None takes a
            checkpoint with all tokens.
        chat_template: of the merged model's tokenizer: a template, its name or ``auto``; None is the tokenizer's own.
        recipe: what the merge was asked for by, if by a recipe.
        adapter: the LoRA adapter that the merged model is written as; None writes the whole model.
        trainer: device, precision and progress bars of a merge that trains.
    """

    checkpoints: list[str]
    method: MergeMethod
    base: str | None = None
    heads: str = "merge"
    dtype: torch.dtype | None = None
    max_shard_size: int = 5 * 10**9
    models_folder: Path = DEFAULT_MODELS_FOLDER
    adapter_bases: Sequence[str | None] = ()
    settings: SettingsByName | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    recipe: Recipe | None = None
    adapter: AdapterRequest | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    @property
    def needs_base(self) -> bool:
        """Whether the model that the checkpoints were trained from is read."""
        return self.method.reads_base or self.adapter is not None


OF_THE_BASE, OF_THE_TEXT = "(base)", "(text)"
"""Names of what a merge reads beside its members; no member's name has parentheses."""


@dataclass
class PreparedMerge:
    """A merge that can begin: all headers, configurations and statistics belong together.

    Attributes:
        request: what was asked for.
        members: the checkpoints, in order.
        agreement: how they go together.
        statistics: of each member, where the method needs some.
        base: the model that they were trained from, under the merged model's names, where the method or an adapter
            needs it.
        shards: the files that will be written.
        diagnostics: of each layer's system of equations, for methods that solve one; filled by the merge.
        settings: by a tensor's name, how it is merged; None where all are merged alike.
        modules: what follows the transformer, where all members are models of sentence-transformers.
        text: how text is read, where the method reads some.
        choice: what was chosen, by a method that chooses; filled by the merge.
        snapshots: where a merge that trains keeps its state; None: nowhere.
        read: what the files were when they were first looked at.
        warnings: what makes the merge another one than was meant, presumably; a line each.
    """

    request: MergeRequest
    members: list[Member]
    agreement: Agreement
    statistics: list[MemberStatistics]
    base: Member | None
    shards: list[Shard]
    diagnostics: list[LayerDiagnostics] = field(default_factory=list)
    settings: Callable[[str], TensorSettings] | None = None
    modules: MergedModules | None = None
    text: TextPlan | None = None
    choice: Choice | None = None
    snapshots: Path | None = None
    read: ReadFiles = field(default_factory=ReadFiles)
    warnings: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """All that a user should know, a line each."""
        return [*self.warnings, *self.agreement.notes]

    @property
    def lead(self) -> Member:
        """The member whose configuration and tokenizer the merged model has."""
        return self.agreement.lead

    @property
    def placement(self) -> Placement:
        """Where the merged model's parameters lie in an adapter."""
        return Placement(self.lead.architecture, self.request.heads == "drop")

    def source_files(self) -> dict[str, list[Path]]:
        """All files that the merge reads, by member; those of the base and the text under names that no member has."""
        files: dict[str, list[Path]] = {
            member.name: [*member.files, *member.tokenizer_files(), *statistics.files]
            for member, statistics in zip(self.members, self.statistics, strict=True)
        }
        if self.base is not None:
            files[OF_THE_BASE] = [*self.base.files, *self.base.tokenizer_files()]
        elif all(self.lead is not member for member in self.members):
            files[OF_THE_BASE] = [*self.lead.files, *self.lead.tokenizer_files()]
        if self.text is not None and self.text.method.text_file is not None:
            files[OF_THE_TEXT] = [self.text.method.text_file]
        return files


def prepare_merge(request: MergeRequest) -> PreparedMerge:
    """Read headers and configurations of all checkpoints and compare them.

    Of weights some rows are read, by which equal checkpoints are told from others; only those are read whole.

    Raises:
        CheckpointError: with everything that stands against the merge.
    """
    sources = find_sources(request.checkpoints, request.models_folder)
    base_source, bases, found = _find_bases(request, sources)
    found += repeated_problems(sources, bases)
    located = [*sources, *bases.values(), *([base_source] if base_source is not None else [])]
    read = ReadFiles()
    for source in located:  # before anything of them is read
        read.add(path for pattern in ("*", f"{STATISTICS_FOLDER}/*") for path in source.folder.glob(pattern))
    found += request_problems(
        request.method, by_tensor=request.settings is not None, adapter=request.adapter is not None
    )
    if request.adapter is not None and request.adapter.space == "core":
        found += core_problems(request.method, sources, bases, base_source)
    members: list[Member] = []
    for source in sources:
        if source.is_adapter and source.name not in bases:
            continue  # what its base lacks was told
        try:
            members.append(read_member(source, bases.get(source.name)))
        except CheckpointError as error:
            found += error.problems
    if found:
        raise CheckpointError(found)
    lead = None
    try:
        lead = _chosen_lead(request, members)
    except CheckpointError as error:
        raise CheckpointError([f"tokenizer_source: {problem}" for problem in error.problems]) from None
    untried: list[str] = []
    unchosen: list[str] = []
    if isinstance(request.method, Auto):
        auto, untried = with_what_is_published(request.method, members)
        unchosen = choice_problems(auto, members, adapter=request.adapter is not None)
        request = replace(request, method=auto)
    agreement, found = agree(members, request.heads, lambda names: request.method.kept(set(names)), lead)
    modules, module_problems = agree_on_modules(members, request.heads, request.method)
    found += module_problems + unchosen
    found += unmatched_layers(request.method.partial_layers, {name for member in members for name in member.weights})
    if agreement is None or found:
        raise CheckpointError(found)
    agreement.notes += untried
    found += _unreadable(agreement)
    try:
        every = [*agreement.names, *(modules.names if modules is not None else ())]
        by_name = _by_name(request, every, found)
    except CheckpointError as error:
        by_name = None
        found += error.problems
    layout = agreement.lead.architecture.layout
    excluded = [] if modules is not None else getattr(request.method, "exclude_layers", [])
    if lost := unmatched_linear(excluded, layout):
        found.append(f"method.exclude_layers: no linear layer matches {', '.join(lost)}")
    statistics = []
    try:
        statistics = open_statistics(members, request.method, agreement.names, layout, agreement.orders)
    except CheckpointError as error:
        found += error.problems
    agreement.notes += request.method.notes
    agreement.notes += [note for member in statistics for note in member.notes]
    if line := averaged_line(request.method.averaged_maps(agreement.names, layout), request.method.name):
        agreement.notes.append(line)
    text = None
    if isinstance(request.method, ReadsText) and request.method.needs_text and statistics:
        own = [one.sources for one in statistics]
        text, problems, notes = plan_text(request.method, members, agreement.lead, own)
        found += problems
        agreement.notes += notes
    base = None
    if request.needs_base and base_source is not None:
        try:
            base = read_base(base_source, agreement, exact=request.adapter is not None)
        except CheckpointError as error:
            found += error.problems
    if request.adapter is not None:
        found += adapter_problems(request.adapter, request.method, request.heads, agreement, modules, by_name)
    if (residual := residual_of(request.method.followed_by)) is not None:
        lead = agreement.lead
        placement = Placement(lead.architecture, request.heads == "drop")
        problems, notes = residual_problems(residual, placement, adapter=request.adapter is not None)
        found += problems
        layers = residual.layers(agreement.names, layout, lead.architecture.head)
        agreement.notes += [*notes, residual.note([lead.weights.shape(name) for name in layers])]
    if (
        base is not None
        and request.method.needs_base
        and (new := [n for n in agreement.names if n not in base.weights])
    ):
        agreement.notes.append(f"not in the base, and averaged: {abbreviated(new)}")
    if found:
        raise CheckpointError(found)
    if modules is None and (left := [member.name for member in members if member.sentence is not None]):
        agreement.notes.append(
            f"the modules of {', '.join(left)} are left out: what is written is the transformer alone"
        )
    elif modules is not None:
        modules.find_statistics(statistics)
        agreement.notes += modules.notes()
    planned = [
        PlannedTensor(name, _output_dtype(request, members[0], name), _merged_shape(agreement, name))
        for name in agreement.names
    ]
    agreement.notes += _narrowed(members, planned)
    shards = plan_shards(planned, request.max_shard_size)
    if modules is not None and base_source is not None and request.method.reads_base:
        modules.find_base(base_source)
    prepared = PreparedMerge(
        request, members, agreement, statistics, base, shards, settings=by_name, modules=modules, text=text, read=read
    )
    prepared.warnings = equal_warnings(prepared)
    return prepared


def statistics_problems(prepared: PreparedMerge, sums: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Which statistics were collected from other weights than those they lie beside.

    Args:
        prepared: the merge.
        sums: SHA-256 of the files by name, by source.
    """
    return [
        problem
        for member, statistics in zip(prepared.members, prepared.statistics, strict=True)
        for problem in other_weights(member, statistics, sums[member.name])
    ]


def write_merged_weights(prepared: PreparedMerge, folder: Path, device: torch.device | str = "cpu") -> None:
    """Merge and write the weights, file by file; fills ``prepared.diagnostics``.

    Raises:
        MergeError: for NaN or infinity in weights, parameters stored twice with other values, and so on.
    """
    for member in prepared.members:
        check_doubles(member)
    planned = {tensor.name: tensor for shard in prepared.shards for tensor in shard.tensors}

    def finished(parameter: MergedParameter) -> MergedParameter:
        return replace(parameter, value=as_planned(parameter.value, planned[parameter.name]))

    with closing(merged_tensors(prepared, device, finished=finished)) as tensors:
        write_shards(folder, prepared.shards, tensors)
    if prepared.modules is not None:
        prepared.modules.write(folder, prepared.request.dtype, prepared.settings, device, prepared.diagnostics)


def merged_tensors(
    prepared: PreparedMerge,
    device: torch.device | str = "cpu",
    left_out: Collection[str] = (),
    finished: Callable[[MergedParameter], MergedParameter] | None = None,
) -> Generator[tuple[str, Tensor]]:
    """Names and values of the merged tensors in the order of the files, each merged when it is asked for.

    Args:
        prepared: the merge.
        device: where to compute.
        left_out: names of tensors that are not merged.
        finished: what is done to each at last; then large tensors come in pieces, one after the other under one name.
    """
    agreement, lead = prepared.agreement, prepared.lead
    names = [tensor.name for shard in prepared.shards for tensor in shard.tensors if tensor.name not in left_out]
    members = []
    for member, orders, statistics in zip(prepared.members, agreement.orders, prepared.statistics, strict=True):
        view = AlignedWeights(member.weights, {name: name for name in names}, orders, filler=lead.weights)
        members.append(MergeMember.of(member.name, view, statistics.sources))
    base = None
    if prepared.base is not None:
        base = aligned_base(prepared.base, lead, names)
    # What stays apart is not among the names any more.
    method = replace(prepared.request.method, keep_layers=[], merge_layers=None, keep_top=0)
    prepared.diagnostics.clear()
    started = time.perf_counter()
    work = MergeWork(prepared, members, base, torch.device(device), finished=finished)
    if isinstance(method, RefiningMethod | Distill | Auto):
        from regmean_lab.checkpoints.reading_work import ReadingWork  # imports Lightning, by which text is read

        work = ReadingWork(prepared, members, base, torch.device(device))  # needs all parameters whole
    yield from work.tensors(method)
    log.info("merged %d tensors in %.1f s", len(names), time.perf_counter() - started)


def _find_bases(request: MergeRequest, sources: Sequence[Source]) -> tuple[Source | None, dict[str, Source], list[str]]:
    """The base of the merge, the base of each adapter by its name, and what is wrong."""
    bases = find_bases(sources, request.base, request.models_folder, request.adapter_bases)
    references, located, found = bases.references, bases.located, list(bases.problems)
    # A model may have several names; what counts is what they stand for.
    apart = {located[name].folder if name in located else name for name in references.values()}
    chosen = request.base or (next(iter(references.values())) if len(apart) == 1 else None)
    if request.needs_base and chosen is None:
        reason = "the adapters have different ones" if references else "none is given"
        what = "adapter.rank"
        if request.method.reads_base:
            what = f"method {request.method.name}" if request.method.needs_base else "method.followed_by"
        found.append(
            f"base: {what} needs the model that the checkpoints were trained from, and {reason}; "
            "set base=FOLDER_OR_NAME"
        )
    return (located.get(chosen) if chosen is not None else None), bases.by_adapter, found


def _chosen_lead(request: MergeRequest, members: Sequence[Member]) -> Member | None:
    """The model whose tokenizer was asked for, or None."""
    if request.tokenizer is None:
        return None
    if request.tokenizer == UNION:
        return union_lead(members)
    for member in members:
        if member.source.reference == request.tokenizer:
            return member
    source = find_sources([request.tokenizer], request.models_folder)[0]
    if source.is_adapter:
        raise CheckpointError([f"{source.reference} is an adapter; expected a whole model"])
    return read_member(replace(source, name="base"), None)


def _unreadable(agreement: Agreement) -> list[str]:
    """Why transformers cannot load the merged tensors under the model's own names."""
    architecture = agreement.lead.architecture
    written = {name: StoredTensor(Path(), "F32", architecture.shapes[name], 0, 0) for name in agreement.names}
    names = architecture.stored_names(written)
    if not (changed := [name for name in written if names.plain.get(name) != name]):
        return []
    return [
        f"{architecture.name}: transformers {version('transformers')} would change {abbreviated(changed)} when it "
        "loads the merged model; models of this kind cannot be merged yet"
    ]


def _by_name(request: MergeRequest, names: Sequence[str], found: list[str]) -> Callable[[str], TensorSettings] | None:
    """How each tensor is merged, by a recipe or by the method's ``parts``; appends what is wrong with the latter."""
    if request.settings is not None:
        return request.settings.of(names)
    if not request.method.parts:
        return None
    found += [f"method.{problem}" for problem in name_problems(request.method.parts, names)]
    return part_settings(request.method, names)


def _merged_shape(agreement: Agreement, name: str) -> tuple[int, ...]:
    return agreement.lead.weights.shape(name)


def _output_dtype(request: MergeRequest, first: Member, name: str) -> torch.dtype:
    own = first.dtypes[name]
    return request.dtype if request.dtype is not None and own.is_floating_point else own


def _narrowed(members: Sequence[Member], planned: Sequence[PlannedTensor]) -> list[str]:
    """Members some of whose tensors are written in a dtype with a smaller range or fewer digits."""
    notes = []
    for member in members:
        pairs = {
            (str(own).removeprefix("torch."), str(tensor.dtype).removeprefix("torch."))
            for tensor in planned
            if (own := member.dtypes.get(tensor.name)) is not None
            and torch.promote_types(own, tensor.dtype) != tensor.dtype
        }
        notes += [f"{member.name}: tensors of {own}, which are written as {written}" for own, written in sorted(pairs)]
    return notes


def check_doubles(member: Member) -> None:
    """Compare what a member's files hold twice for one parameter.

    Raises:
        MergeError: when the two are not equal.
    """
    for files, one, other in member.duplicates:
        if not equal_tensors(files, one, other):
            raise MergeError(
                f"{member.name}: its files hold {one} and {other} for one weight, with different values; remove the "
                "one that does not count (an adapter: merge it into its base with PEFT's merge_and_unload(), and save "
                "that)"
            )
