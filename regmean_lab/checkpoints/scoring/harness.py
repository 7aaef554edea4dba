"""Language models on tasks of EleutherAI's lm-evaluation-harness: its numbers, in the same ``result.json``."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from regmean_lab.checkpoints.scoring.models import ScoredModel
from regmean_lab.checkpoints.scoring.score import Settings, checkpoint_result, configuration_of, method_of
from regmean_lab.config.harness import HARNESS, HarnessSettings
from regmean_lab.results import RESULT_FILE, Result, find_result
from regmean_lab.training.processes import first_device
from regmean_lab.utils.files import contents_sha256, sha256_of
from regmean_lab.utils.installed import installed_version
from regmean_lab.utils.names import did_you_mean

PACKAGE = "lm_eval"
INSTALL = "pip install 'regmean-lab[lm-eval]'"
DTYPES = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "16-true": torch.float16}
"""By Lightning's name of a precision, the type of the weights; the harness runs the model itself."""

SHARES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1", "mcc", "likelihood_diff_acc")
"""Metrics between 0 and 1 (mcc: −1 and 1), which results have times 100 as all others; the rest stays as it is."""

STDERR = "_stderr"

log = logging.getLogger(__name__)


def harness_problems(settings: HarnessSettings, models: Sequence[ScoredModel], precision: str) -> list[str]:
    """What stands against running tasks, before any of it runs.

    Args:
        settings: the tasks.
        models: the checkpoints.
        precision: Lightning's name of the precision.
    """
    if installed_version(PACKAGE) is None:
        return [f"suite: {HARNESS} needs the lm-evaluation-harness, which is not installed: {INSTALL}"]
    found = [f"suite.{problem}" for problem in settings.problems()]
    found += [
        f"checkpoint: {model.name} is no language model, which tasks of {HARNESS} are for"
        for model in models
        if model.task.kind != "text"
    ]
    if precision not in DTYPES:
        found.append(f"trainer.precision: expected one of {', '.join(DTYPES)} with {HARNESS}, got {precision}")
    if not found:
        manager = _manager(settings)
        known = [*manager.all_tasks]
        unknown = [task for task in settings.tasks if not manager.match_tasks([task])]
        found += [f"suite.tasks: there is no {task!r}; {_hint(task, known)}" for task in unknown]
    return found


@dataclass
class Harness:
    """Tasks that checkpoints are scored on.

    Attributes:
        tasks: the tasks.
        settings: how.
    """

    tasks: HarnessSettings
    settings: Settings

    @property
    def data_fingerprint(self) -> str:
        """Hash of the tasks as far as they are known without running them: the harness's version, and own tasks."""
        own = [] if self.tasks.include_path is None else [_contents(Path(self.tasks.include_path).expanduser())]
        return sha256_of([version(PACKAGE), *sorted(self.tasks.tasks), *own])

    def score(self, model: ScoredModel, folder: Path) -> Result:
        """Run the tasks with a checkpoint, or find its finished result.

        Args:
            model: the checkpoint.
            folder: where the result is written.
        """
        suite = {"name": HARNESS, **{key: value for key, value in asdict(self.tasks).items() if key != "include_path"}}
        configuration = configuration_of(self.settings, method_of(model), suite, self.tasks.tasks)
        if not self.settings.force:
            found = find_result(folder, configuration, self.data_fingerprint, model.fingerprint)
            if found is not None:
                log.info("found the finished result %s", folder / RESULT_FILE)
                return found
        started = time.perf_counter()
        raw = self._run(model)
        metrics = {task: _numbers(values) for task, values in raw["results"].items()}
        scores = {task: _reported(metrics[task], raw, task) for task in self._scored(raw) if metrics[task]}
        result = checkpoint_result(
            configuration,
            {"in_domain": scores, "out_of_domain": {}},
            metrics,
            self.data_fingerprint,
            model.fingerprint,
            time.perf_counter() - started,
            self.settings,
        )
        result.environment["versions"] = {**result.environment["versions"], PACKAGE: version(PACKAGE)}
        result.write(folder)
        return result

    def _run(self, model: ScoredModel) -> Mapping[str, Any]:
        """What the harness returns."""
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        settings, trainer = self.settings, self.settings.trainer
        device = first_device(trainer.accelerator)
        network: Any = model.module(model.task).model
        wrapped = HFLM(
            pretrained=network.to(device, DTYPES[trainer.precision]),
            tokenizer=model.tokenizer,
            backend=model.task.labels[0],
            batch_size=settings.batch_size,
            max_length=settings.max_length,
        )
        raw = lm_eval.simple_evaluate(
            wrapped,
            tasks=list(self.tasks.tasks),
            num_fewshot=self.tasks.fewshot,
            limit=self.tasks.limit,
            task_manager=_manager(self.tasks),
            fewshot_random_seed=self.tasks.seed,
            log_samples=False,
        )
        assert isinstance(raw, Mapping)
        return raw

    def _scored(self, raw: Mapping[str, Any]) -> list[str]:
        """The tasks that tables show: those that were asked for, of groups without a number of their own the parts."""
        parts, found = raw.get("group_subtasks") or {}, list[str]()
        waiting = list(self.tasks.tasks)
        while waiting:
            task = waiting.pop(0)
            if _numbers(raw["results"].get(task, {})):
                found.append(task)
            else:
                waiting = [*parts.get(task, ()), *waiting]
        return list(dict.fromkeys(found or (task for task, values in raw["results"].items() if _numbers(values))))


def harness_lines(results: Sequence[Result]) -> list[str]:
    """For each checkpoint and task the reported number and the harness's standard error, in words."""
    lines = []
    for result in results:
        for task, score in result.scores["in_domain"].items():
            metrics = result.metrics[task]
            (name, *_) = [key for key, value in metrics.items() if value == score and not _is_error(key)]
            error = metrics.get(_error_of(name))
            shown = "" if error is None else f" ± {error:.2f}"
            lines.append(f"{task}: {result.method} has {name} {score:.2f}{shown}")
    return lines


def _manager(settings: HarnessSettings) -> Any:
    from lm_eval.tasks import TaskManager

    path = settings.include_path
    return TaskManager(include_path=None if path is None else str(Path(path).expanduser()))


def _contents(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return contents_sha256(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


def _hint(task: str, known: Sequence[str]) -> str:
    hint = did_you_mean(task, known)
    return hint if len(hint) < 200 else f"there are {len(known)}: lm-eval ls tasks"


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The harness's numbers by metric, with the filter where it is another than ``none``; shares times 100."""
    found = {}
    for key, value in values.items():
        metric, comma, name = key.partition(",")
        if not comma or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        factor = 100 if metric.removesuffix(STDERR) in SHARES else 1
        found[metric if name == "none" else key] = factor * float(value)
    return found


def _reported(metrics: Mapping[str, float], raw: Mapping[str, Any], task: str) -> float:
    """The number that tables show: the task's first of which more is better, else its first."""
    better = (raw.get("higher_is_better") or {}).get(task) or {}
    names = [name for name in metrics if not _is_error(name)]
    wanted = [name for name in names if better.get(name.partition(",")[0])]
    return metrics[(wanted or names)[0]]


def _is_error(name: str) -> bool:
    return name.partition(",")[0].endswith(STDERR)


def _error_of(name: str) -> str:
    metric, comma, filtered = name.partition(",")
    return f"{metric}{STDERR}{comma}{filtered}"
