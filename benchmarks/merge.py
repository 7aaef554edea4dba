"""Merging by RegMean: time against explicit inverses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from benchmarks.baseline import textbook_regmean
from benchmarks.figure import Figure, Setting
from benchmarks.measure import interleaved, now, ratio, seconds, synchronize
from benchmarks.workload import Workload, made_up_sentences, minilm, shaped
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
    parts: list[dict[str, float]] = []
    times = interleaved(
        {
            "float64": lambda: parts.append(in_float64(weights, by_layer, grams[0].shared)),
            "warm-up": lambda: merge(members[:2], layout, work.device),
            "baseline": lambda: textbook_regmean(weights, by_layer, OFF_DIAGONAL),
            "ours": lambda: merge(members, layout, work.device),
        },
        max(3, setting.repeats),
        work.device,
    )
    on_device = gpu_figures(setting) if setting.on_gpu else []
    name = f"RegMean of {MEMBERS} members, {work.name}: "
    steps = ", ".join(f"{step} {median(part[step] for part in parts):.2f} s" for step in parts[0])
    return [
        ratio(f"{name}time / textbook (inverse)", times["ours"], times["baseline"], 0.3),
        ratio(f"{name}what float64 must take / textbook (inverse)", times["float64"], times["baseline"], note=steps),
        *on_device,
    ]


def gpu_figures(setting: Setting) -> list[Figure]:
    """Seconds of a merge of two models with the shapes of RoBERTa-base, whose weights and statistics lie in memory."""
    work = shaped("roberta_base", setting, made_up_sentences(min(setting.sentences, 64)))
    weights, grams = drawn_members(work)
    layout = layout_of(work.model)
    members = [
        MergeMember(f"member {number}", state, gram)
        for number, (state, gram) in enumerate(zip(weights, grams, strict=True))
    ]
    merge(members, layout, work.device)  # what a device sets up once
    taken = [seconds(lambda: merge(members, layout, work.device), work.device) for _ in range(max(3, setting.repeats))]
    name = f"RegMean of {MEMBERS} members, {work.name}, on the device: seconds"
    return [Figure(name, median(taken), min(taken), max(taken), 1.0)]


def merge(members: list[MergeMember], layout: Layout, device: torch.device) -> dict[str, Tensor]:
    """What the project does."""
    parts = merge_members(RegMean(off_diagonal=OFF_DIAGONAL), members, layout, device=device)
    return {part.name: part.value for part in parts}


def in_float64(
    weights: Sequence[Mapping[str, Tensor]], grams: Sequence[Mapping[str, Tensor]], shared: Mapping[str, str]
) -> dict[str, float]:
    """Seconds of what a solution in float64 cannot leave out for two members, by step, over all layers.

    The sum of the Gram matrices and its Cholesky factorisation, once for all layers that share their inputs; the
    product of one of the matrices with the difference of a layer's weights; and the solution of two triangular systems.

    Args:
        weights: of both members.
        grams: the matrices of both, by layer.
        shared: for every layer the leading one, whose matrix it has.
    """
    taken = dict.fromkeys(("sums", "right-hand sides", "Cholesky", "solutions"), 0.0)
    for leader in dict.fromkeys(shared.values()):
        gram = grams[0][leader]
        change = [
            weights[1][f"{layer}.weight"].double() - weights[0][f"{layer}.weight"].double()
            for layer, own in shared.items()
            if own == leader
        ]
        moments = [_moment(gram.device)]
        total = gram.double().add_(grams[1][leader])
        moments.append(_moment(gram.device))
        right = torch.cat(change) @ gram.double()
        moments.append(_moment(gram.device))
        factor = torch.linalg.cholesky_ex(total)[0]
        moments.append(_moment(gram.device))
        half = torch.linalg.solve_triangular(factor.mT, right, upper=True, left=False)
        torch.linalg.solve_triangular(factor, half, upper=False, left=False)
        moments.append(_moment(gram.device))
        for step, (began, ended) in zip(taken, pairwise(moments), strict=True):
            taken[step] += ended - began
    return taken


def _moment(device: torch.device) -> float:
    synchronize(device)
    return now()


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
