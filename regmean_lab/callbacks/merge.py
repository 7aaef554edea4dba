"""The merge stage as a Lightning callback: statistics, then the merge, then the test loop evaluates the result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from regmean_lab.callbacks.statistics import StatisticsRequest, collect_for_entry, open_statistics
from regmean_lab.merging import MergeError, MergeMember, MergeMethod, merge_members
from regmean_lab.merging.base import LayerDiagnostics, matches
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.weights import SafetensorsWeights
from regmean_lab.modules import TaskModule
from regmean_lab.suites.data_module import Batches
from regmean_lab.zoo import ZooEntry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemberSource:
    """Where a member's weights and data are.

    Attributes:
        name: what messages call it.
        entry: its entry in the zoo.
        data_fingerprint: hash of its data.
        annotated: which labels its training data annotates; None where that makes no difference.
        load: loads it as a module, to collect statistics.
        batches: makes a loader of its training examples: number of examples (None: all), batch size, seed.
    """

    name: str
    entry: ZooEntry
    data_fingerprint: str
    annotated: tuple[bool, ...] | None
    load: Callable[[], TaskModule]
    batches: Callable[[int | None, int, int], Batches]


class MergeCallback(pl.Callback):
    """Merges members into the module that ``Trainer.test`` is about to test, on the trainer's device.

    Statistics that the method needs and that are not beside a member yet are collected first, and kept there. The
    trainer must not run in inference mode (``Trainer(inference_mode=False)``): Fisher information needs gradients.

    Args:
        members: the members, in order.
        method: how to merge them.
        requests: how the statistics that the method needs are collected, by kind.

    Attributes:
        seconds: time spent on ``statistics`` and on ``merge``.
        diagnostics: for methods that solve for layers, how well each was posed.
    """

    def __init__(
        self, members: Sequence[MemberSource], method: MergeMethod, requests: Sequence[StatisticsRequest] = ()
    ) -> None:
        self.members = list(members)
        self.method = method
        self.requests = [request for request in requests if request.kind in method.statistics]
        self.seconds = {"statistics": 0.0, "merge": 0.0}
        self.diagnostics: list[LayerDiagnostics] = []
        self._merged = False

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect what is missing, and merge; without effect in later tests of the same module."""
        if self._merged:
            return
        assert isinstance(pl_module, TaskModule)
        started = time.perf_counter()
        for member in self.members:
            for request in self.requests:
                collect_for_entry(trainer, member.entry, request, member.load, member.batches, member.data_fingerprint)
        self.seconds["statistics"] = time.perf_counter() - started
        started = time.perf_counter()
        self._merge(pl_module)
        self._merged = True
        self.seconds["merge"] = time.perf_counter() - started

    def use_member(self, pl_module: TaskModule, number: int) -> None:
        """Put the parameters that are kept apart (``method.keep_apart``) of one member into the merged module."""
        weights = SafetensorsWeights(self.members[number].entry.path)
        own = dict(pl_module.model.state_dict(keep_vars=True))
        for name in weights:
            if matches(name, self.method.keep_apart):
                own[name].data.copy_(weights[name])

    def diagnostics_table(self) -> list[dict[str, Any]]:
        """Diagnostics as plain dicts."""
        return [asdict(row) for row in self.diagnostics]

    def _merge(self, module: TaskModule) -> None:
        members = [
            MergeMember(
                member.name,
                SafetensorsWeights(member.entry.path),
                annotated=member.annotated,
                **{r.kind: open_statistics(member.entry, r, member.data_fingerprint) for r in self.requests},
            )
            for member in self.members
        ]
        layout = layout_of(module.model, len(module.task.labels) if module.task.kind == "multi_label" else None)
        targets = module.model.state_dict(keep_vars=True)
        expected = {name for name in targets if not matches(name, self.method.keep_apart)}
        tied = _tied_names(module.model)
        given = set(members[0].weights)
        if unknown := sorted(given - set(targets)):
            raise MergeError(f"the model has no place for {', '.join(unknown[:5])} of {members[0].name}")
        if unset := sorted(expected - given - tied):
            raise MergeError(f"the weights of {members[0].name} lack {', '.join(unset[:5])}")
        # Merged first, copied afterwards: no half-merged module is left behind when a layer cannot be solved. One
        # copy of the parameters is what this costs.
        merged = []
        for parameter in merge_members(self.method, members, layout, device=module.device):
            merged.append(parameter)
            if parameter.diagnostics is not None:
                self.diagnostics.append(parameter.diagnostics)
        with torch.no_grad():
            for parameter in merged:
                targets[parameter.name].data.copy_(parameter.value)
        if jittered := [row for row in self.diagnostics if row.jitter]:
            worst = max(jittered, key=lambda row: row.jitter)
            log.info(
                "%d of %d layers had to be regularised: at most %.0e of the mean diagonal (%s)",
                *(len(jittered), len(self.diagnostics), worst.jitter, worst.layer),
            )


def _tied_names(model: torch.nn.Module) -> set[str]:
    """Names under which a parameter appears again: safetensors files hold it once."""
    seen: dict[int, str] = {}
    tied = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if seen.setdefault(id(tensor), name) != name:
            tied |= {name, seen[id(tensor)]}
    return tied

