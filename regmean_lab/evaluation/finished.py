"""Finds the result of a job that was run before, if it is still valid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from regmean_lab.config.baselines import Individual
from regmean_lab.config.schema import Settings
from regmean_lab.evaluation.label_spaces import unknown_labels
from regmean_lab.results import RESULT_FILE, Result, find_result
from regmean_lab.suites.data_module import Evaluation

log = logging.getLogger(__name__)


def finished_result(
    settings: Settings,
    model_fingerprint: str,
    data_fingerprint: str,
    folder: Path,
    evaluations: Callable[[], Sequence[Evaluation]],
) -> Result | None:
    """A job's result, if it was computed before from the same configuration, data and pretrained weights.

    Args:
        settings: the checked configuration.
        model_fingerprint: identifies the pretrained model, and the members that are checkpoints.
        data_fingerprint: hash of all data that the job reads.
        folder: where the job writes.
        evaluations: reads what is evaluated; called for results of version 0.1 only.
    """
    config = settings.config
    if config.force:
        return None
    wanted = (settings.resolved, data_fingerprint, model_fingerprint)
    found = find_result(folder, *wanted, merged_too=config.save_merged)
    if found is not None and found.unknown_labels is None and _counts_unknown(settings, evaluations()):
        log.info("%s counts labels as predicted that were not trained, and is computed again", folder / RESULT_FILE)
        return None
    return found


def _counts_unknown(settings: Settings, evaluations: Sequence[Evaluation]) -> bool:
    """Whether version 0.1 counted labels as predicted that a model was not trained on."""
    suite, method = settings.suite, settings.method
    alone = isinstance(method, Individual) or getattr(method, "is_partial", False)
    models = [[member] for member in settings.members] if alone else [settings.members]
    return any(unknown_labels(suite, members, evaluations) for members in models)
