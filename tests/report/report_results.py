"""Results for tests of the report: what jobs would have written, with scores that follow a known rule."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regmean_lab.merging.parameters import LayerDiagnostics
from regmean_lab.report.entries import entries_of
from regmean_lab.report.grid import Section, sections_of
from regmean_lab.report.read import Run
from regmean_lab.report.tables import Cell, Table
from regmean_lab.results import RESULT_FILE, Result

CORPORA = ("tec", "isear", "crowdflower", "dailydialog")
OUTSIDE = ("emoint", "ssec")
GAIN = {"individual": 6.0, "ensemble": 3.0, "simple": 0.0, "fisher": 1.0, "regmean": 4.0}

LAYERS = ("encoder.layer.0.query", "encoder.layer.1.query", "head")


def score(method: str, corpus: str, members: Sequence[str], seed: int, shift: float = 0.0) -> float:
    """Some score: a base for each corpus, the method's gain, and what looks like noise."""
    noise = math.sin(97.0 * seed + 13.0 * sum(map(ord, "".join(members) + corpus + method)))
    return 40.0 + 5.0 * (sum(map(ord, corpus)) % 7) + GAIN.get(method, 0.5) + shift + noise


def make_result(
    method: str = "simple",
    members: Sequence[str] = ("tec", "isear"),
    seed: int = 1,
    *,
    experiment: str = "emotion_pairwise",
    suite: str = "emotion",
    model: str = "roberta_base",
    head_init: str = "same",
    outside: Sequence[str] = OUTSIDE,
    settings: dict[str, Any] | None = None,
    configuration: dict[str, Any] | None = None,
    shift: float = 0.0,
    scores: dict[str, dict[str, float]] | None = None,
    data: str = "data",
) -> Result:
    """One result; ``settings`` are those of the method, ``configuration`` replaces whole parts of the rest."""
    if scores is None:
        scores = {
            "in_domain": {corpus: score(method, corpus, members, seed, shift) for corpus in members},
            "out_of_domain": {corpus: score(method, corpus, members, seed, shift) - 10 for corpus in outside},
        }
    inside, out = list(scores["in_domain"].values()), list(scores["out_of_domain"].values())
    given = {"off_diagonal": 0.9, "diagonal": False} if method == "regmean" else {}
    resolved = {
        "experiment": experiment,
        "suite": {"name": suite, "train_examples": None},
        "model": {"name": model, "checkpoint": f"hub/{model}", "revision": None},
        "method": {"name": method, "coefficients": None, **given, **(settings or {})},
        "training": {"learning_rate": 1e-5, "epochs": 20},
        "statistics": {"gram": {"examples": 16000}, "fisher": {"examples": 16000}, "seed": 0},
        "trainer": {"precision": "32-true"},
        "paths": {"output_dir": "outputs"},
        "members": list(members),
        "order": "given",
        "first": None,
        "seed": seed,
        "head_init": head_init,
        **(configuration or {}),
    }
    command = f"python -m regmean_lab method={method} members=[{','.join(members)}] seed={seed}"
    return Result(
        fingerprint="f",
        experiment=experiment,
        suite=suite,
        model=model,
        method=method,
        members=list(members),
        seed=seed,
        head_init=head_init,
        scores=scores,
        mean_in_domain=sum(inside) / len(inside),
        mean_out_of_domain=sum(out) / len(out) if out else None,
        metrics={},
        seconds={"train": 1.0, "statistics": 2.0, "merge": 3.0, "evaluate": 4.0},
        peak_memory_bytes=2**30,
        environment={"versions": {"python": "3.11.7", "torch": "2.13.0"}, "device": "cpu", "command": command},
        data_fingerprint=data,
        zoo={},
        configuration=resolved,
    )


def diagnosed(result: Result, factor: float = 1.0, moved: bool = True) -> Result:
    """The same result with diagnostics that follow a known rule; without ``moved`` as version 0.1 wrote them."""
    rows: list[dict[str, Any]] = []
    for number, layer in enumerate(LAYERS):
        row = LayerDiagnostics(
            layer,
            jitter=0.0,
            condition=10.0 ** (number + 1) * factor,
            unseen_features=0,
            off_diagonal_share=0.5,
            moved=0.1 * (number + 1) * factor,
            distances={member: 0.9 + 0.1 * number + 0.01 * place for place, member in enumerate(result.members)},
            conditions={member: 2.0 * factor + place for place, member in enumerate(result.members)},
        )
        rows.append({key: value for key, value in asdict(row).items() if moved or key not in
                     ("moved", "distances", "conditions")})  # fmt: skip
    result.diagnostics = rows
    return result


def write_results(folder: Path, results: Iterable[Result]) -> list[Path]:
    """Write results as jobs do, each into a folder of its own; returns the files."""
    paths = []
    for number, result in enumerate(results):
        path = folder / result.experiment / f"{number:05d}-{result.method}-seed{result.seed}" / RESULT_FILE
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(asdict(result)), encoding="utf-8")
        paths.append(path)
    return paths


def pairwise(
    methods: Sequence[str] = ("individual", "simple", "fisher", "regmean"),
    seeds: Iterable[int] = (1, 2, 3),
    **more: Any,
) -> list[Result]:
    """Every pair of the corpora by every method with every seed."""
    jobs = itertools.product(methods, itertools.combinations(CORPORA, 2), seeds)
    return [make_result(method, pair, seed, **more) for method, pair, seed in jobs]


def incremental(methods: Sequence[str] = ("simple", "regmean"), seeds: Iterable[int] = (1, 2, 3)) -> list[Result]:
    """The first 2, 3, … corpora."""
    jobs = itertools.product(methods, range(2, len(CORPORA) + 1), seeds)
    return [
        make_result(method, CORPORA[:count], seed, experiment="emotion_incremental", shift=-2.0 * count)
        for method, count, seed in jobs
    ]


def off_diagonal(values: Sequence[float] = (0.0, 0.5, 0.9, 1.0), seeds: Iterable[int] = (1, 2, 3)) -> list[Result]:
    """RegMean with several factors, and Simple."""
    jobs = itertools.product(values, seeds)
    merged = [
        make_result("regmean", seed=seed, experiment="off_diagonal", settings={"off_diagonal": value}, shift=2 * value)
        for value, seed in jobs
    ]
    return merged + [make_result("simple", seed=seed, experiment="off_diagonal") for seed in seeds]


def gram_examples(values: Sequence[int] = (1, 16, 256, 4096), seeds: Iterable[int] = (1, 2)) -> list[Result]:
    """RegMean with Gram matrices from several numbers of examples, and Simple with the same settings."""
    results = []
    for method, value, seed in itertools.product(("regmean", "simple"), values, seeds):
        statistics = {"gram": {"examples": value}, "fisher": {"examples": 16000}, "seed": 0}
        shift = math.log10(value) if method == "regmean" else 0.0
        results.append(
            make_result(
                method, seed=seed, experiment="gram_examples", configuration={"statistics": statistics}, shift=shift
            )
        )
    return results


def without(results: Sequence[Result], method: str, members: Sequence[str], seed: int) -> list[Result]:
    """All results but one."""
    return [
        result for result in results if (result.method, result.members, result.seed) != (method, list(members), seed)
    ]


def runs_of(results: Sequence[Result], times: Sequence[float] | None = None) -> list[Run]:
    """Results as if they had been read, written at given times."""
    moments = times or [0.0] * len(results)
    return [Run(result, Path(f"/r/{n:03d}/result.json"), moments[n]) for n, result in enumerate(results)]


def section_of(results: Sequence[Result], times: Sequence[float] | None = None) -> Section:
    """The only section of some results."""
    (section,) = sections_of(entries_of(runs_of(results, times)))
    return section


def cell_of(table: Table, row: str, column: str) -> Cell:
    """The cell below a heading in a row."""
    names = [heading.full for heading in table.headings]
    return dict(table.rows)[row][names.index(column)]
