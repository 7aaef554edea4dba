"""The same merges by this project and by mergekit, in turns; the family `training` does so with transformers' Trainer.

mergekit runs in an environment of its own, which the variable `ENVIRONMENT` names: its requirements are other ones.

This project learns the structure of an architecture in its first merge, and keeps it. So models of each size are merged
once before anything is measured, and what is measured is a merge of an architecture that was merged before; what the
first one costs more is a figure of the family `start`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from benchmarks.figure import Figure, Setting, unmeasured
from benchmarks.merge_memory import PICO_PARAMETERS, decoder_config, write_decoder
from regmean_lab.checkpoints.writing import PlannedTensor, plan_shards, write_shards
from regmean_lab.utils.cache import CACHE_VARIABLE

ENVIRONMENT = "MERGEKIT_ENVIRONMENT"
"""Variable that names the folder of a virtual environment with mergekit."""

INSTALL = (
    "python -m venv FOLDER; FOLDER/bin/pip install torch==2.13.0 mergekit==0.1.5; export MERGEKIT_ENVIRONMENT=FOLDER"
)

TIME, MEMORY = 0.8, 0.4
"""What this project should need at most of mergekit's time and memory."""

RECIPES: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear", "parameters": {"weight": 0.5}},
    "task_arithmetic": {"merge_method": "task_arithmetic", "parameters": {"weight": 0.5}},
    "ties": {"merge_method": "ties", "parameters": {"weight": 0.5, "density": 0.5}},
    "slerp": {"merge_method": "slerp", "parameters": {"t": 0.5}},
    "nuslerp": {"merge_method": "nuslerp", "parameters": {"weight": 0.5}},
    "multislerp": {"merge_method": "multislerp", "parameters": {"weight": 0.5}},
    "karcher": {"merge_method": "karcher"},
    "dare_linear": {"merge_method": "dare_linear", "parameters": {"weight": 0.5, "density": 0.5}},
    "dare_ties": {"merge_method": "dare_ties", "parameters": {"weight": 0.5, "density": 0.5}},
    "della_linear": {"merge_method": "della_linear", "parameters": {"weight": 0.5, "density": 0.5, "epsilon": 0.1}},
    "della": {"merge_method": "della", "parameters": {"weight": 0.5, "density": 0.5, "epsilon": 0.1}},
    "breadcrumbs": {"merge_method": "breadcrumbs", "parameters": {"weight": 0.5, "density": 0.5, "gamma": 0.125}},
    "breadcrumbs_ties": {
        "merge_method": "breadcrumbs_ties",
        "parameters": {"weight": 0.5, "density": 0.5, "gamma": 0.125},
    },
    "sce": {"merge_method": "sce", "parameters": {"select_topk": 0.5}},
    "model_stock": {"merge_method": "model_stock"},
}
"""What both have, in the YAML that both read."""

WITHOUT_BASE = ("linear", "nuslerp", "multislerp", "karcher")
BETWEEN_TWO = "slerp"
DRAWN = ("dare_linear", "dare_ties", "della_linear", "della")
"""Methods whose random numbers are not the same: their outputs are not compared."""

LARGE_PARAMETERS = 345_000_000
LARGE_METHODS = ("linear", "task_arithmetic", "ties", "slerp", "karcher")
"""What is also merged at a size where the merge takes longer than the start."""

ROUNDS = 2
"""At most: what is compared is the time of processors, of processes that all start anew."""

ROUNDED = {"dtype": "float32", "out_dtype": "bfloat16"}
"""How mergekit computes as this project does: in float32, rounded once. Its own default is the dtype of the result."""

CHANGE = 0.1
"""Standard deviation of a member's change of a weight, in units of that of the weight."""

Run = dict[str, Any]


def figures(setting: Setting) -> list[Figure]:
    """All figures of the family; none, with a note, without an environment that has mergekit."""
    environment = os.environ.get(ENVIRONMENT)
    if environment is None:
        return [unmeasured("merging / mergekit", TIME, f"{ENVIRONMENT} names no environment with it: {INSTALL}")]
    found = []
    for parameters, names in sizes(setting):
        with tempfile.TemporaryDirectory(dir=setting.scratch) as scratch:
            folder = Path(scratch)
            models = write_models(folder, parameters)
            peers = Peers(folder, Path(environment), models)
            with suppress(RuntimeError):  # each method tells it again
                peers.warm_up()
            for name in names:
                try:
                    found += peers.figures(name, min(setting.repeats, ROUNDS))
                except RuntimeError as error:  # the other methods are still worth having
                    reason = str(error).strip().splitlines()[-1][:200]
                    found.append(unmeasured(f"{peers.title(name)}: processor time / mergekit", TIME, reason))
    return found


def sizes(setting: Setting) -> list[tuple[int, Sequence[str]]]:
    """Numbers of parameters, and the methods that are measured with models of that size."""
    if setting.pico:
        return [(PICO_PARAMETERS, tuple(RECIPES))]
    chosen: list[tuple[int, Sequence[str]]] = [(setting.merge_parameters, tuple(RECIPES))]
    if setting.merge_parameters < LARGE_PARAMETERS:
        chosen.append((LARGE_PARAMETERS, LARGE_METHODS))
    return chosen


@dataclass(frozen=True)
class Peers:
    """Both programs on the same files.

    Attributes:
        folder: where recipes and merged models are written.
        environment: the folder of mergekit's virtual environment.
        models: folders of the base and of two models that were trained from it.
    """

    folder: Path
    environment: Path
    models: Sequence[Path]

    def contenders(self, threads: int) -> dict[str, Mapping[str, Any] | None]:
        """Options of mergekit by what they are called; None is this project."""
        fastest = {
            **{"lazy_unpickle": True, "low_cpu_memory": True, "allow_crimes": True},
            **{"async_write": True, "write_threads": threads, "num_threads": threads},
        }
        return {"ours": None, "mergekit": {}, "mergekit with its fastest switches": fastest}

    def title(self, name: str) -> str:
        """What is merged, as figures call it."""
        parameters = sum(path.stat().st_size for path in self.models[0].glob("*.safetensors")) / 2
        return f"{name} of 2, {parameters / 1e6:.1f} million parameters"

    def warm_up(self) -> None:
        """Merge once by this project, base included, so that the structures of the models are kept.

        Raises:
            RuntimeError: as :meth:`run` does.
        """
        self.run(self._recipe("task_arithmetic", {"dtype": "bfloat16"}), None, self.folder / "ours")

    def figures(self, name: str, rounds: int) -> list[Figure]:
        """Time, memory and equality of one method."""
        recipe = self._recipe(name, {"dtype": "bfloat16"})
        options = self.contenders(torch.get_num_threads())
        runs: dict[str, list[Run]] = {key: [] for key in options}
        for number in range(rounds):
            for key in list(options)[:: 1 if number % 2 == 0 else -1]:
                runs[key].append(self.run(recipe, options[key], self.folder / ("ours" if key == "ours" else "theirs")))
        found, title = [], self.title(name)
        for key, theirs in runs.items():
            if key != "ours":
                found += [_time(f"{title}: processor time / {key}", runs["ours"], theirs)]
                found += [_memory(f"{title}: peak memory / {key}", runs["ours"], theirs)]
        if name not in DRAWN:
            self.run(self._recipe(name, ROUNDED), {}, self.folder / "theirs")
            found.append(self._equality(name))
        return found

    def run(self, recipe: Path, options: Mapping[str, Any] | None, output: Path) -> Run:
        """One merge in a process of its own.

        Raises:
            RuntimeError: when it fails, with the end of what it wrote.
        """
        shutil.rmtree(output, ignore_errors=True)
        command = [sys.executable, "-m", "benchmarks.recipe_process", str(recipe), str(output)]
        if options is not None:
            python = str(self.environment / "bin" / "python")
            command = [python, "-m", "benchmarks.mergekit_process", str(recipe), str(output), json.dumps(options)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
        environment[CACHE_VARIABLE] = str(self.folder / "kept")
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
        measured: Run = json.loads(done.stdout.splitlines()[-1])
        return measured

    def _recipe(self, name: str, dtypes: Mapping[str, str]) -> Path:
        base, *members = map(str, self.models)
        content: dict[str, Any] = {**RECIPES[name], **dtypes, "models": [{"model": member} for member in members]}
        if name == BETWEEN_TWO:
            content["base_model"] = members[0]
        elif name not in WITHOUT_BASE:
            content["base_model"] = base
        path = self.folder / "recipe.yml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def _equality(self, name: str) -> Figure:
        differing, total, digits = 0, 0, 0.0
        for ours, theirs in zip(*map(_tensors, (self.folder / "ours", self.folder / "theirs")), strict=True):
            differing += int((ours != theirs).sum())
            total += ours.numel()
            largest = float((ours.float() - theirs.float()).abs().max())
            scale = float(theirs.float().abs().max()) or 1.0
            digits = max(digits, largest / (scale * torch.finfo(theirs.dtype).eps))
        note = f"of {total} elements {differing} differ; mergekit computes in float32, too, and rounds to bfloat16"
        what = "largest difference, in units of the last digit of a tensor's largest weight"
        return Figure(f"{self.title(name)}: {what}", digits, digits, digits, 1.0, note=note)


def _time(name: str, ours: Sequence[Run], theirs: Sequence[Run]) -> Figure:
    """The ratio of two whole processes' times, and in the note what it is without their start."""

    def whole(run: Run) -> float:
        return float(run["start"] + run["processor"])

    ratios = [whole(one) / whole(other) for one, other in zip(ours, theirs, strict=True)]
    alone = median(one["processor"] / other["processor"] for one, other in zip(ours, theirs, strict=True))
    waited = median(one["seconds"] / other["seconds"] for one, other in zip(ours, theirs, strict=True))
    both = [[median(column) for column in zip(*map(_seconds, runs), strict=True)] for runs in (ours, theirs)]
    (start, processor, seconds), (their_start, their_processor, their_seconds) = both
    note = (
        f"imports {start:.1f} s / {their_start:.1f} s; the merge alone {alone:.2f}: {processor:.1f} s / "
        f"{their_processor:.1f} s of processors, {waited:.2f}: {seconds:.1f} s / {their_seconds:.1f} s of waiting"
    )
    return Figure(name, median(ratios), min(ratios), max(ratios), TIME, note=note)


def _seconds(run: Run) -> tuple[float, float, float]:
    return run["start"], run["processor"], run["seconds"]


def _memory(name: str, ours: Sequence[Run], theirs: Sequence[Run]) -> Figure:
    ratios = [one["peak"] / other["peak"] for one, other in zip(ours, theirs, strict=True)]
    peaks = [median(run["peak"] for run in runs) / 1e6 for runs in (ours, theirs)]
    own = [median(run["own"] for run in runs) / 1e6 for runs in (ours, theirs)]
    versions = ", ".join(f"{package} {number}" for package, number in theirs[0]["versions"].items())
    note = (
        f"{peaks[0]:.0f} MB / {peaks[1]:.0f} MB resident; {own[0]:.0f} MB / {own[1]:.0f} MB without mapped files; "
        f"{versions}"
    )
    return Figure(name, median(ratios), min(ratios), max(ratios), MEMORY, note=note)


def write_models(folder: Path, parameters: int) -> list[Path]:
    """A decoder with random weights in bfloat16, and two others near it, half of whose changes is common to them."""
    config = decoder_config(parameters)
    base = write_decoder(folder / "base", config, 0)
    listed = [base]
    for number in (1, 2):
        member = folder / f"member{number}"
        member.mkdir()
        config.save_pretrained(member)
        planned = [PlannedTensor(name, torch.bfloat16, shape) for name, shape in _shapes(base).items()]
        shards = plan_shards(planned, 5 * 10**9)
        names = [tensor.name for shard in shards for tensor in shard.tensors]
        generators = [torch.Generator().manual_seed(seed) for seed in (0, number)]
        write_shards(member, shards, _changed(base, names, generators))
        listed.append(member)
    return listed


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def _changed(folder: Path, names: Sequence[str], generators: Sequence[torch.Generator]) -> Iterator[tuple[str, Tensor]]:
    files = {name: path for path in sorted(folder.glob("*.safetensors")) for name in _names(path)}
    for name in names:
        with safe_open(files[name], framework="pt") as file:
            tensor = file.get_tensor(name).float()
        scale = CHANGE * float(tensor.std()) / len(generators) ** 0.5
        for generator in generators:
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=scale)
        yield name, tensor.bfloat16()


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _tensors(folder: Path) -> Iterator[Tensor]:
    """A folder's tensors in the order of their names."""
    files = {name: path for path in sorted(folder.glob("*.safetensors")) for name in _names(path)}
    for name in sorted(files):
        with safe_open(files[name], framework="pt") as file:
            yield file.get_tensor(name)
