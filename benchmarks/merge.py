"""Merging by RegMean: time against explicit inverses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.baseline import textbook_regmean
from benchmarks.figure import Figure, Setting
from benchmarks.measure import interleaved, ratio
from benchmarks.workload import Workload, minilm
from regmean_lab.merging import Layout, MergeMember, merge_members
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.regmean import RegMean
from regmean_lab.statistics import GramStatistics, collect_gram

OFF_DIAGONAL = 0.9
MEMBERS = 2


def figures(setting: Setting) -> list[Figure]:
    """All figures of the family."""
    work = minilm(setting)
    weights, grams = drawn_members(work)
    by_layer = [{layer: gram.matrix(layer).to(work.device) for layer in gram.layers} for gram in grams]
    layout = layout_of(work.model)
    members = [
        MergeMember(f"member {number}", state, gram)
        for number, (state, gram) in enumerate(zip(weights, grams, strict=True))
    ]
    times = interleaved(
        {
            "warm-up": lambda: merge(members[:2], layout, work.device),
            "baseline": lambda: textbook_regmean(weights, by_layer, OFF_DIAGONAL),
            "ours": lambda: merge(members, layout, work.device),
        },
        max(3, setting.repeats),
        work.device,
    )
    name = f"RegMean of {MEMBERS} members, {work.name}: time / textbook (inverse)"
    return [ratio(name, times["ours"], times["baseline"], 0.3)]


def merge(members: list[MergeMember], layout: Layout, device: torch.device) -> dict[str, Tensor]:
    """What the project does."""
    parts = merge_members(RegMean(off_diagonal=OFF_DIAGONAL), members, layout, device=device)
    return {part.name: part.value for part in parts}


def drawn_members(work: Workload) -> tuple[list[dict[str, Tensor]], list[GramStatistics]]:
    """Weights around the model's own, as fine-tuning leaves them, and Gram matrices on halves of the sentences."""
    generator = torch.Generator().manual_seed(0)
    weights, grams = [], []
    for number in range(MEMBERS):
        state = {name: value.detach().clone() for name, value in work.model.state_dict().items()}
        for value in state.values():
            if value.is_floating_point():
                value.add_(0.01 * torch.randn(value.shape, generator=generator).to(value))
        weights.append(state)
        batches = replace(work, sentences=work.sentences[number::MEMBERS]).sorted_batches()
        grams.append(collect_gram(work.model, batches, forward=lambda _, batch: work.module.gram_pass(batch)))
    return weights, grams
