"""Collecting Gram matrices: time against the textbook way and against the floor."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import median

import torch

from benchmarks.baseline import TextbookGram
from benchmarks.figure import Figure, Setting, unmeasured
from benchmarks.floor import gram_operations, matrix_speed
from benchmarks.measure import interleaved, ratio
from benchmarks.workload import Batch, Workload, minilm, minilm_emotion, real_lengths, shaped
from regmean_lab.statistics import GramStatistics, collect_gram

GPU_BATCHES, GPU_BATCH, GPU_LENGTH = 16, 64, 128


def figures(setting: Setting) -> list[Figure]:
    """All figures of the family on the setting's device."""
    if setting.on_gpu:
        return gpu_figures(setting)
    found = _against_baseline_and_floor(minilm(setting), setting.repeats, main=True)
    if setting.emotion_dir is not None and not setting.pico:
        found += _against_baseline_and_floor(minilm_emotion(setting), setting.repeats)
    found += _against_baseline_and_floor(shaped("roberta_base", setting, real_lengths(setting, 1 / 4)), setting.repeats)
    work = shaped("t5_base", setting, real_lengths(setting, 1 / 12))
    found += _against_baseline_and_floor(work, setting.repeats, goal=None)
    return found


def gpu_figures(setting: Setting) -> list[Figure]:
    """Statistics over the bare forward pass, in three precisions, where there is no padding."""
    count, size, length = (2, 4, 10) if setting.pico else (GPU_BATCHES, GPU_BATCH, GPU_LENGTH)
    work = shaped("roberta_base", setting, [[0] * length for _ in range(count * size)])
    batches = work.random_batches(size)
    found = []
    for name, precision, goal in (("float32", "highest", None), ("TF32", "high", 1.5), ("bfloat16", "bf16", 1.5)):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if precision == "bf16" else precision)
        narrow = precision == "bf16"
        try:
            _collect(work, batches[:1], narrow)
            times = interleaved(
                {"bare": partial(_bare, work, batches, narrow), "ours": partial(_collect, work, batches, narrow)},
                setting.repeats,
                setting.device,
            )
        finally:
            torch.set_float32_matmul_precision(before)
        label = f"Gram, {work.name}, {size} × {length}, {name}: time / bare forward pass"
        found.append(ratio(label, times["ours"], times["bare"], goal))
    return found


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by instructions of its own."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has for name, has in capabilities.items() if name.endswith("bf16"))


def _against_baseline_and_floor(
    work: Workload, repeats: int, main: bool = False, goal: float | None = 0.33
) -> list[Figure]:
    """Ratios for one workload; of the main one also in bfloat16, and with a goal for the floor."""
    plain, ours = work.random_batches(), work.sorted_batches()
    exact = _collect(work, ours)  # warms up, and gives the shapes of the products
    contenders = {
        "baseline": lambda: TextbookGram(work.model).collect(work.module.gram_pass, plain),
        "ours": lambda: _collect(work, ours),
        "forward": lambda: work.run(ours),
    }
    narrow = main and has_bfloat16()
    if narrow:
        _collect(work, ours[-1:], narrow=True)
        contenders["bf16"] = lambda: _collect(work, ours, narrow=True)
    operations, speeds = gram_operations(exact), []
    contenders["probe"] = lambda: speeds.append(matrix_speed(work.device))
    times = interleaved(contenders, repeats, work.device)
    floor = [forward + operations / speed for forward, speed in zip(times["forward"], speeds, strict=True)]
    padded = [sum(batch["input_ids"].numel() for batch in batches) for batches in (plain, ours)]
    sizes = f"{work.tokens} tokens, padded to {padded[0]} by the baseline, {padded[1]} by ours"
    products = f"floor: {median(times['forward']):.2f} s forward, the rest products at {median(speeds) / 1e9:.0f} GF/s"
    found = [
        ratio(f"Gram, {work.name}: time / textbook", times["ours"], times["baseline"], goal, sizes),
        ratio(f"Gram, {work.name}: time / floor", times["ours"], floor, 1.12 if main else None, products),
    ]
    if main:
        name = f"Gram, {work.name}, bfloat16: time / textbook"
        if narrow:
            error = largest_error(_collect(work, ours, narrow=True), exact)
            note = f"largest relative error of a matrix {error:.1e} (Frobenius norm)"
            found.append(ratio(name, times["bf16"], times["baseline"], 0.15, note))
        else:
            found.append(unmeasured(name, 0.15, "this processor has no instructions for bfloat16"))
    return found


def largest_error(rough: GramStatistics, exact: GramStatistics) -> float:
    """The largest relative error of a matrix in the Frobenius norm."""
    return max(
        float((rough.matrix(layer) - exact.matrix(layer)).norm() / exact.matrix(layer).norm()) for layer in exact.layers
    )


def _bare(work: Workload, batches: list[Batch], narrow: bool) -> None:
    with _autocast(work.device, narrow):
        work.run(batches)


def _collect(work: Workload, batches: list[Batch], narrow: bool = False) -> GramStatistics:
    """What the project does."""
    with _autocast(work.device, narrow):
        return collect_gram(
            work.model,
            batches,
            forward=lambda model, batch: work.module.gram_pass(batch),
            mask=work.module.gram_mask,
            rows_dtype=torch.bfloat16 if narrow else None,
        )


def _autocast(device: torch.device, narrow: bool) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if narrow else nullcontext()
