"""The merge stage as a Lightning callback: statistics, then the merge, then the test loop evaluates the result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from regmean_lab.callbacks.choose import chosen_merge
from regmean_lab.callbacks.distill import Distillation, Start, distilled, in_fixed_order, taught
from regmean_lab.callbacks.refine import TextReading, member_texts
from regmean_lab.callbacks.requests import published_path
from regmean_lab.callbacks.statistics import MakeBatches, StatisticsRequest, collect_for_entry, open_statistics
from regmean_lab.callbacks.text_streams import text_streams
from regmean_lab.merging import MergeError, MergeMember, MergeMethod, merge_members
from regmean_lab.merging.auto import Auto
from regmean_lab.merging.distill import Distill
from regmean_lab.merging.layout import averaged_line, layout_of
from regmean_lab.merging.memory import memory_for_merge
from regmean_lab.merging.parameters import LayerDiagnostics, LinearLayer
from regmean_lab.merging.refining import RefiningMethod, refine_
from regmean_lab.merging.residual import Residual, residual_of
from regmean_lab.merging.weights import SafetensorsWeights
from regmean_lab.models.pretrained import head_parameters
from regmean_lab.modules import TaskModule
from regmean_lab.statistics import expert_layers, linear_layers
from regmean_lab.statistics.pseudo_text import few_tokens
from regmean_lab.statistics.token_counts import TokenCounts
from regmean_lab.training.distillation import TextStream
from regmean_lab.utils.files import file_sha256
from regmean_lab.utils.progress import at_stage
from regmean_lab.zoo import ZooEntry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        batches: makes loaders of its training examples.
    """

    name: str
    entry: ZooEntry
    data_fingerprint: str
    annotated: tuple[bool, ...] | None
    load: Callable[[], TaskModule]
    batches: MakeBatches


class MergeCallback(pl.Callback):
    """Merges members into every module that ``Trainer.test`` is about to test, on the trainer's device.

    Members are merged once, at the first test. Statistics that the method needs and that are not beside a member yet
    are collected then, and kept there. Parameters that are kept apart stay what they are in the module under test: test
    a module loaded from member i to evaluate the merge with member i's own parameters, or its residual. The trainer
    must not run in inference mode (``Trainer(inference_mode=False)``): Fisher information needs gradients.

    Args:
        members: the members, in order.
        method: how to merge them.
        requests: how statistics are collected, by kind; only those that the method needs are.
        own_heads: keep all parameters apart that are not part of the model's encoder (its base model).
        base: gives the weights of the pretrained model that the members were trained from, under the names that the
            members' weights have, for methods that need them; called with the class of the model under test.
        reading: how members' text is read, for methods that need it.

    Attributes:
        seconds: time spent on ``statistics`` and on ``merge``.
        diagnostics: of each layer's system of equations, for methods that solve one.
        notes: what a user should know of the merge.
        choice: of methods that choose, what was chosen among what, and by which figures.
        statistics_bytes: size of the files of statistics that are read, by kind, the largest of any member.
    """

    def __init__(
        self,
        members: Sequence[MemberSource],
        method: MergeMethod,
        requests: Sequence[StatisticsRequest] = (),
        *,
        own_heads: bool = False,
        base: Callable[[type[PreTrainedModel]], Mapping[str, Tensor]] | None = None,
        reading: TextReading | None = None,
    ) -> None:
        order = in_fixed_order(members, method)
        self.members = order.members
        self.method = order.method
        self.requests = [request for request in requests if request.kind in method.statistics]
        self.own_heads = own_heads
        self.base = base
        self.reading = reading or TextReading()
        self.seconds = {"statistics": 0.0, "merge": 0.0}
        self.diagnostics: list[LayerDiagnostics] = []
        self.notes: list[str] = []
        self.choice: dict[str, Any] | None = None
        self.statistics_bytes: dict[str, int] = {}
        self._merged: dict[str, Tensor] | None = None

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the merged parameters into the module; in the first test collect what is missing and merge first."""
        assert isinstance(pl_module, TaskModule)
        if self._merged is None:
            started = time.perf_counter()
            requests = self._needed(pl_module)
            for member in self.members:
                for request in requests:
                    collect_for_entry(
                        trainer, member.entry, request, member.load, member.batches, member.data_fingerprint
                    )
            self.seconds["statistics"] = time.perf_counter() - started
            self.statistics_bytes = self._sizes(requests)
            started = time.perf_counter()
            at_stage("merge")
            with memory_for_merge(self.method, [member.name for member in self.members], pl_module.device):
                if isinstance(self.method, Distill):
                    self._merged = self._distil(trainer, pl_module, requests)
                elif isinstance(self.method, Auto):
                    self._merged = self._choose(trainer, pl_module, requests)
                else:
                    self._merged = self._merge(trainer, pl_module, requests)
            self.seconds["merge"] = time.perf_counter() - started
            at_stage("evaluate")
        targets = pl_module.model.state_dict(keep_vars=True)
        residual = residual_of(self.method.followed_by)
        layers = {} if residual is None else self._layers_with_residuals(residual, pl_module)
        started = time.perf_counter()
        with torch.no_grad():
            for name, value in self._merged.items():
                if residual is not None and name in layers:
                    value = residual.added(layers[name], value, targets[name])
                targets[name].copy_(value)
        if residual is not None:
            self.seconds["merge"] += time.perf_counter() - started

    def _layers_with_residuals(self, residual: Residual, module: TaskModule) -> dict[str, LinearLayer]:
        """The layers of which the member whose module is tested keeps something; notes, once, how much that is."""
        assert self._merged is not None
        layers = residual.layers(self._merged, layout_of(module.model), head_parameters(module.model))
        if (line := residual.note([tuple(self._merged[name].shape) for name in layers])) not in self.notes:
            self.notes.append(line)
        return layers

    def diagnostics_table(self) -> list[dict[str, Any]]:
        """Diagnostics as plain dicts."""
        return [asdict(row) for row in self.diagnostics]

    def _method(self, module: TaskModule, method: MergeMethod | None = None) -> MergeMethod:
        """What merges, or another method, with heads added to the unmerged layers if members keep their own heads."""
        heads = head_parameters(module.model) if self.own_heads or self.method.keep_top else []
        return replace(method or self.method.beginning, keep_layers=[*self.method.keep_layers, *heads])

    def _needed(self, module: TaskModule) -> list[StatisticsRequest]:
        """The requests, of statistics of layers' inputs for no more layers than the method reads."""
        kept, names = self._method(module).kept, module.model.state_dict().keys()
        layers = self.method.gram_layers(names - kept(names), layout_of(module.model))
        experts = expert_layers(module.model)
        with_experts = not set(experts).isdisjoint(layers)
        every = len(layers) == len(linear_layers(module.model)) + (len(experts) if with_experts else 0)
        return [
            replace(request, layers=None if every else tuple(layers), experts=with_experts)
            if request.about.of == "inputs"
            else request
            for request in self.requests
            if request.about.of != "inputs" or layers
        ]

    def _distil(
        self, trainer: pl.Trainer, module: TaskModule, requests: Sequence[StatisticsRequest]
    ) -> dict[str, Tensor]:
        """The merged parameters after distillation."""
        assert isinstance(self.method, Distill)

        def merge() -> Start:
            merged = self._merge(trainer, module, requests)
            return Start(merged, list(self.diagnostics), list(self.notes))

        distillation = Distillation(
            self.method,
            self.members,
            self._texts(requests, self.method, module),
            {
                "statistics": self._statistics_read(requests),
                # Which of the members' own examples the start reads, if it reads some.
                "reading": [self.reading.batch_size, self.reading.seed, self.reading.batch_tokens]
                if self.method.beginning.needs_text
                else None,
                "heads": self.own_heads,
            },
            trainer,
        )
        weights = SafetensorsWeights(self.members[0].entry.path)
        kept = self._method(module).kept(weights)
        found = distilled(distillation, merge, [name for name in weights if name not in kept], module.device)
        self.diagnostics, self.notes = found.diagnostics, [*dict.fromkeys([*self.notes, *found.notes])]
        return found.merged

    def _choose(
        self, trainer: pl.Trainer, module: TaskModule, requests: Sequence[StatisticsRequest]
    ) -> dict[str, Tensor]:
        """The merged parameters of the merge that is chosen."""
        assert isinstance(self.method, Auto)
        auto = self.method

        def merge(method: MergeMethod) -> dict[str, Tensor]:
            self.diagnostics, self.notes = [], list(told)  # those of the last one remain
            return self._merge(trainer, module, requests, method)

        evidence, readers = None, []
        if not auto.by_text:
            evidence = self._with_statistics(requests), layout_of(module.model)
        else:
            readers = taught(self.members, self._texts(requests, auto, module))
        told = [*self.notes, *auto.own_notes]
        merged, choice = chosen_merge(
            auto,
            merge,
            len(self.members),
            module.device,
            readers=readers,
            evidence=evidence,
            precision=trainer.precision_plugin.forward_context,
        )
        self.choice = choice.record()
        self.notes.append(choice.reason())
        return merged

    def _texts(
        self, requests: Sequence[StatisticsRequest], method: Distill | Auto, module: TaskModule
    ) -> list[TextStream]:
        batches = [member.batches for member in self.members]
        counts = self._counts(self._with_statistics(requests))
        return text_streams(batches, method, self.reading, counts, module.task)

    def _counts(self, members: Sequence[MergeMember]) -> list[TokenCounts | None]:
        """What pseudo-text of each member is drawn from, where that was asked for."""
        files = [member.others.get("tokens") for member in members]
        counts = [None if file is None else file.counts for file in files]
        for member, own in zip(members, counts, strict=True):
            if (warning := few_tokens(member.name, own)) and warning not in self.notes:
                log.warning("%s", warning)
                self.notes.append(warning)
        return counts

    def _with_statistics(self, requests: Sequence[StatisticsRequest]) -> list[MergeMember]:
        return [
            MergeMember.of(
                member.name, SafetensorsWeights(member.entry.path), _opened(member, requests), member.annotated
            )
            for member in self.members
        ]

    def _statistics_read(self, requests: Sequence[StatisticsRequest]) -> list[Any]:
        """What determines the statistics that are read, by kind and member: how they were collected, or their files."""
        described: list[Any] = []
        for request in requests:
            for member in self.members:
                path = request.find(member.entry, member.data_fingerprint)
                published = path == published_path(member.entry.path, request.kind)
                assert path is not None
                described.append(file_sha256(path) if published else request.describe(member.data_fingerprint))
        return described

    def _sizes(self, requests: Sequence[StatisticsRequest]) -> dict[str, int]:
        sizes = {}
        for request in requests:
            paths = [request.find(member.entry, member.data_fingerprint) for member in self.members]
            sizes[request.kind] = max(path.stat().st_size for path in paths if path is not None)
        return sizes

    def _merge(
        self,
        trainer: pl.Trainer,
        module: TaskModule,
        requests: Sequence[StatisticsRequest],
        method: MergeMethod | None = None,
    ) -> dict[str, Tensor]:
        """The merged parameters by name: a whole model's, or none if one cannot be merged."""
        members = self._with_statistics(requests)
        method = self._method(module, method)
        targets = module.model.state_dict(keep_vars=True)
        given = set(members[0].weights) - method.kept(members[0].weights)
        wanted = set(targets) - method.kept(targets)
        if unknown := sorted(given - wanted):
            raise MergeError(f"the model has no place for {', '.join(unknown[:5])} of {members[0].name}")
        if unset := sorted(wanted - _same_tensors(targets, given)):
            raise MergeError(f"the weights of {members[0].name} lack {', '.join(unset[:5])}")
        layout = layout_of(module.model, len(module.task.labels) if module.task.kind == "multi_label" else None)
        if line := averaged_line(method.averaged_maps(given, layout), method.name):
            log.info("%s", line)
            self.notes.append(line)
        self.notes += method.notes
        base = None
        if method.reads_base and self.base is not None:
            base = self.base(type(module.model))
            if not set(base) & set(members[0].weights):
                raise MergeError("the pretrained model has none of the members' parameters; were they trained from it?")
            if method.needs_base:
                _tell_missing(sorted(given - set(base)))
        merged, diagnostics = {}, {}
        for parameter in merge_members(method, members, layout, device=module.device, base=base):
            merged[parameter.name] = parameter.value
            if parameter.diagnostics is not None:
                diagnostics[parameter.diagnostics.layer] = parameter.diagnostics
        if isinstance(method, RefiningMethod):
            texts = member_texts(self.members, method, self.reading, module.device, self._counts(members))
            with trainer.precision_plugin.forward_context():
                refined = refine_(method, members, texts, merged, layout, base=base)
            diagnostics.update({row.layer: row for row in refined})
            log.info(
                "replaced %d linear layers, with at most %d examples of each member", len(refined), method.text_examples
            )
        self.diagnostics += diagnostics.values()
        if jittered := [row for row in self.diagnostics if row.jitter]:
            worst = max(jittered, key=lambda row: row.jitter)
            log.info(
                "%d of %d layers had to be regularised: diagonals raised by at most %.0e of themselves (%s)",
                *(len(jittered), len(self.diagnostics), worst.jitter, worst.layer),
            )
        return merged


def _opened(member: MemberSource, requests: Sequence[StatisticsRequest]) -> dict[str, Any]:
    """A member's statistics by kind, as `MergeMember.of` takes them."""
    return {request.kind: open_statistics(member.entry, request, member.data_fingerprint) for request in requests}


def _tell_missing(names: Sequence[str]) -> None:
    """Tell which of the parameters that are merged the pretrained model lacks, if any."""
    if names:
        modules = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
        log.info("not in the pretrained model, and averaged: %s", ", ".join(modules))


def _same_tensors(targets: Mapping[str, Tensor], given: set[str]) -> set[str]:
    """All aliases of the tensors named in ``given``: safetensors files hold a tied one under one name."""
    held = {id(targets[name]) for name in given}
    return {name for name, tensor in targets.items() if id(tensor) in held}
