"""OmegaConf resolvers that the YAML files use."""

from __future__ import annotations

import itertools
import random
import re
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from regmean_lab.config.members import short_name
from regmean_lab.results import fingerprint
from regmean_lab.suites import suite_types
from regmean_lab.utils.files import name_problem

LABELLED = 3
"""How many paths the folder of a job is labelled with."""


def register_resolvers() -> None:
    """Make the resolvers known to OmegaConf (idempotent)."""
    OmegaConf.register_new_resolver("pairs", pairs, replace=True)
    OmegaConf.register_new_resolver("counts", counts, replace=True)
    OmegaConf.register_new_resolver("coefficient_grid", coefficient_grid, replace=True)
    OmegaConf.register_new_resolver("coefficient_samples", coefficient_samples, replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("root_folder", root_folder, replace=True)


def pairs(suite: str | DictConfig) -> str:
    """``${pairs:${suite}}``, or ``${pairs:SUITE}``: all unordered pairs of a suite's members, as values of a sweep."""
    name, settings = (suite, {}) if isinstance(suite, str) else (suite.name, suite)
    members = suite_types()[name].members_by_default(settings)
    return ",".join(f"[{','.join(pair)}]" for pair in itertools.combinations(members, 2))


def counts(members: ListConfig | None) -> str:
    """``${counts:${members}}``: 2, 3, … up to the number of members, as values of a sweep; of fewer than two, none."""
    return ",".join(str(count) for count in range(2, len(members or ()) + 1))


def coefficient_grid(points: int) -> str:
    """``${coefficient_grid:51}``: coefficients (c, 1 − c) of two members for evenly spaced c from 0 to 1."""
    grid = [round(number / (points - 1), 6) for number in range(points)]
    return ",".join(f"[{first},{round(1 - first, 6)}]" for first in grid)


def coefficient_samples(members: int, count: int, seed: int) -> str:
    """``${coefficient_samples:MEMBERS,COUNT,SEED}``: coefficients drawn from a flat Dirichlet distribution."""
    generator = random.Random(seed)
    samples = []
    for _ in range(count):
        drawn = [generator.expovariate(1.0) for _ in range(members)]
        scaled = [round(value / sum(drawn), 4) for value in drawn[:-1]]
        samples.append([*scaled, round(1 - sum(scaled), 4)])
    return ",".join(f"[{','.join(map(str, sample))}]" for sample in samples)


def job_folder(_root_: DictConfig) -> str:
    """``${job_folder:}``: folder of a job below the output folder; the same configuration has the same folder.

    Raises:
        ValueError: for a name that would lead out of it.
    """
    resolved = _without_hydra(_root_)
    named = [("experiment", resolved["experiment"]), ("model.name", resolved["model"]["name"])]
    members, first = [short_name(str(name)) for name in resolved.get("members") or []], resolved.get("first")
    named += [("members", name) for name in members]
    if problems := [problem for key, name in named if (problem := name_problem(key, str(name))) is not None]:
        raise ValueError("; ".join(problems))
    if resolved.get("order") == "greedy":
        corpora = f"greedy{first or ''}"
    else:
        corpora = "+".join(members[:first]) if members else "all"
    method = resolved["method"]["name"]
    name = f"{resolved['model']['name']}-{method}-seed{resolved['seed']}-{fingerprint(resolved)[:10]}"
    return f"{resolved['experiment']}/{corpora}/{name}"


def root_folder(label: str | ListConfig, _root_: DictConfig) -> str:
    """``${root_folder:LABEL}``: folder of a job of an experiment with a root configuration of its own.

    ``LABEL`` is there for people: the last part of a path (of several, of the first ones), as far as a file name can
    have it. Of a merge by a recipe it is the recipe's name.
    """
    resolved = _without_hydra(_root_)
    if resolved.get("recipe"):
        label = str(resolved["recipe"]).rpartition(".")[0]
    paths = list(label)[:LABELLED] if isinstance(label, ListConfig) else [label]
    named = "+".join(str(path).rstrip("/").rpartition("/")[2] for path in paths)
    readable = re.sub(r"[^\w.+-]", "_", named) or "job"
    return f"{resolved['experiment']}/{readable}-{fingerprint(resolved)[:10]}"


def _without_hydra(root: DictConfig | ListConfig) -> dict[str, Any]:
    assert isinstance(root, DictConfig)
    keys = [str(key) for key in root if key != "hydra"]
    resolved = OmegaConf.to_container(OmegaConf.masked_copy(root, keys), resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}
