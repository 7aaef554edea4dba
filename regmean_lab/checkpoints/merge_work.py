"""The work of a merge of checkpoints, parameter by parameter; `reading_work.py` has that of methods that read text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.merge import MergedParameter, merge_in_pieces, merge_members, part_settings
from regmean_lab.merging.parameters import Layout, MergeMember

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

    def tensors(self, method: MergeMethod) -> Iterator[tuple[str, Tensor]]:
        """Names and values of all merged tensors."""
        yield from self.merged(method)

    def merged(self, method: MergeMethod) -> Iterator[tuple[str, Tensor]]:
        """Merge parameter by parameter, or in pieces."""
        for parameter in self.parameters(method):
            if parameter.diagnostics is not None:
                self.prepared.diagnostics.append(parameter.diagnostics)
            yield parameter.name, parameter.value

    def parameters(self, method: MergeMethod) -> Iterator[MergedParameter]:
        """The merged parameters or their pieces, each merged when it is asked for."""
        prepared, settings = self.prepared, self.prepared.settings
        if prepared.modules is not None:
            method = prepared.modules.of_transformer(method, self.layout)
        if self.order is not None and method.parts:  # they have one number a member, too
            settings = part_settings(method, [*self.members[0].weights])
        merge = merge_members if self.finished is None else partial(merge_in_pieces, finished=self.finished)
        yield from merge(method, self.members, self.layout, device=self.device, base=self.base, settings=settings)
