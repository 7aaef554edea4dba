"""Exact Fisher information: time against the squared gradients of batches' mean losses."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.baseline import textbook_fisher
from benchmarks.figure import Figure, Setting
from benchmarks.measure import interleaved, ratio
from benchmarks.workload import Batch, Workload, minilm, real_lengths, shaped
from regmean_lab.statistics import collect_fisher
from regmean_lab.suites.base import Task

SEVERAL_CLASSES = Task("single_label", ("joy", "anger", "fear", "sadness", "love", "surprise"), "macro_f1")
"""The expectation over the model's own labels takes one backward pass less than there are classes."""


def figures(setting: Setting) -> list[Figure]:
    """All figures of the family."""
    small = replace(setting, sentences=max(4, setting.sentences // 4))
    found = [_against_baseline(minilm(small), setting.repeats)]
    if not setting.pico:
        several = minilm(small, SEVERAL_CLASSES)
        found.append(_against_baseline(replace(several, name=f"{several.name}, six classes"), setting.repeats))
    for architecture in ("roberta_base", "deberta_v3_small", "t5_base"):
        work = shaped(architecture, setting, real_lengths(setting, 1 / 24))
        found.append(_against_baseline(work, setting.repeats))
    return found


def _against_baseline(work: Workload, repeats: int) -> Figure:
    batches = work.sorted_batches()
    _collect(work, batches[-1:])
    times = interleaved(
        {
            "baseline": lambda: textbook_fisher(work.model, work.module.batch_loss, batches),
            "ours": lambda: _collect(work, batches),
        },
        repeats,
        work.device,
    )
    name = f"exact Fisher, {work.name}: time / squared batch mean, both on the same batches"
    passes = max(2, len(work.module.task.labels)) - 1
    return ratio(name, times["ours"], times["baseline"], 1 + passes / 2)


def _collect(work: Workload, batches: list[Batch]) -> None:
    collect_fisher(
        work.model, batches, kind=work.module.likelihood, forward=lambda model, batch: work.module.forward(batch)
    )
