"""The work of a merge of checkpoints: parameter by parameter, then what a method does with the whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regmean_lab.checkpoints.merged_text import refine_merged_
from regmean_lab.checkpoints.teaching import Readers, chosen_of_checkpoints, distilled_merge
from regmean_lab.merging.auto import Auto
from regmean_lab.merging.base import Layout, MergeMember, MergeMethod
from regmean_lab.merging.distill import Distill
from regmean_lab.merging.merge import MergedParameter, merge_in_pieces, merge_members, part_settings
from regmean_lab.merging.refining import RefiningMethod
from regmean_lab.merging.starting_merge import permuted

if TYPE_CHECKING:
    from regmean_lab.checkpoints.merge import PreparedMerge


@dataclass
class MergeWork:
    """A merge that is under way.

    Attributes:
        prepared: the merge.
        members: the members' tensors under the merged model's names, with their statistics.
        base: those of the model that they were trained from.
        device: where to compute.
        order: numbers of the members, in the order in which they are merged; None is their own.
        finished: what is done at last to each merged parameter, of which large ones then come in pieces; None: nothing,
            and all are whole.
    """

    prepared: PreparedMerge
    members: Sequence[MergeMember]
    base: Mapping[str, Tensor] | None
    device: torch.device
    order: Sequence[int] | None = None
    finished: Callable[[MergedParameter], MergedParameter] | None = None

    @property
    def layout(self) -> Layout:
        """Of the merged model."""
        return self.prepared.lead.architecture.layout

    @property
    def readers(self) -> Readers | None:
        """The checkpoints as those that read text, if any is read; in the order in which they are merged."""
        prepared = self.prepared
        if prepared.text is None:
            return None
        order = range(len(self.members)) if self.order is None else self.order
        plan = replace(prepared.text, counts=[prepared.text.counts[number] for number in order])
        members, orders = prepared.members, prepared.agreement.orders
        return Readers(plan, [members[number] for number in order], [orders[number] for number in order], prepared.lead)

    def merged(self, method: MergeMethod) -> Iterator[tuple[str, Tensor]]:
        """Merge parameter by parameter or in pieces; where layers are refitted afterwards, all are in memory."""
        prepared, settings = self.prepared, self.prepared.settings
        if prepared.modules is not None:
            method = prepared.modules.of_transformer(method, self.layout)
        if self.order is not None and method.parts:  # they have one number a member, too
            settings = part_settings(method, [*self.members[0].weights])
        merge = merge_members if self.finished is None else partial(merge_in_pieces, finished=self.finished)
        parameters = merge(method, self.members, self.layout, device=self.device, base=self.base, settings=settings)
        if isinstance(method, RefiningMethod):
            yield from self._refined(method, parameters)
        for parameter in parameters:
            if parameter.diagnostics is not None:
                prepared.diagnostics.append(parameter.diagnostics)
            yield parameter.name, parameter.value

    def _refined(self, method: RefiningMethod, parameters: Iterator[MergedParameter]) -> Iterator[tuple[str, Tensor]]:
        """What becomes of merged parameters when their layers are refitted one after the other."""
        readers = self.readers
        assert readers is not None
        merged, diagnostics = {}, {}
        for parameter in parameters:
            merged[parameter.name] = parameter.value
            if parameter.diagnostics is not None:
                diagnostics[parameter.diagnostics.layer] = parameter.diagnostics
        refined = refine_merged_(
            readers.plan, method, readers.members, readers.orders, readers.lead, merged, self.base, self.device
        )
        diagnostics.update({row.layer: row for row in refined})
        self.prepared.diagnostics += diagnostics.values()
        yield from merged.items()

    def distilled(self, method: Distill) -> Iterator[tuple[str, Tensor]]:
        """Merge, and distil the members into the merge, in an order that does not depend on how they are listed."""
        prepared = self.prepared
        order = sorted(range(len(self.members)), key=lambda number: self.members[number].name)
        work = replace(self, members=[self.members[number] for number in order], order=order, finished=None)
        own, readers = permuted(method, order), work.readers
        assert readers is not None
        start = dict(work.merged(own.beginning))
        trained, note = distilled_merge(own, start, readers, prepared.request.trainer, prepared.snapshots)
        prepared.agreement.notes.append(note)
        yield from trained.items()

    def chosen(self, auto: Auto) -> Iterator[tuple[str, Tensor]]:
        """The best of several merges."""
        prepared, whole = self.prepared, replace(self, finished=None)

        def merge(method: MergeMethod) -> dict[str, Tensor]:
            prepared.diagnostics.clear()  # those of the last one remain
            return dict(whole.merged(method))

        merged, choice = chosen_of_checkpoints(auto, merge, self.members, self.layout, self.readers, self.device)
        prepared.choice = choice
        prepared.agreement.notes.append(choice.reason())
        yield from merged.items()
