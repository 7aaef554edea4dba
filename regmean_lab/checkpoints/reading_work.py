"""The work of a merge of checkpoints that read text, or of which one is chosen: what is done with the whole model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from regmean_lab.checkpoints.merge_work import MergeWork
from regmean_lab.checkpoints.merged_text import refine_merged_
from regmean_lab.checkpoints.teaching import Readers, chosen_of_checkpoints, distilled_merge
from regmean_lab.merging.auto import Auto
from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.distill import Distill
from regmean_lab.merging.merge import MergedParameter
from regmean_lab.merging.refining import RefiningMethod
from regmean_lab.merging.starting_merge import permuted


@dataclass
class ReadingWork(MergeWork):
    """A merge that is under way, by a method that goes on from another merge or chooses one."""

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

    def tensors(self, method: MergeMethod) -> Iterator[tuple[str, Tensor]]:
        """Names and values of all merged tensors."""
        if isinstance(method, Distill):
            yield from self.distilled(method)
        elif isinstance(method, Auto):
            yield from self.chosen(method)
        else:
            yield from self.merged(method)

    def merged(self, method: MergeMethod) -> Iterator[tuple[str, Tensor]]:
        """Merge parameter by parameter, or refit the layers of a merge."""
        if isinstance(method, RefiningMethod):
            yield from self._refined(method, self.parameters(method))
        else:
            yield from super().merged(method)

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
        work = replace(self, members=[self.members[number] for number in order], order=order)
        own, readers = permuted(method, order), work.readers
        assert readers is not None
        start = dict(work.merged(own.beginning))
        trained, note = distilled_merge(own, start, readers, prepared.request.trainer, prepared.snapshots)
        prepared.agreement.notes.append(note)
        yield from trained.items()

    def chosen(self, auto: Auto) -> Iterator[tuple[str, Tensor]]:
        """The best of several merges."""
        prepared = self.prepared

        def merge(method: MergeMethod) -> dict[str, Tensor]:
            prepared.diagnostics.clear()  # those of the last one remain
            return dict(self.merged(method))

        merged, choice = chosen_of_checkpoints(auto, merge, self.members, self.layout, self.readers, self.device)
        prepared.choice = choice
        prepared.agreement.notes.append(choice.reason())
        yield from merged.items()
