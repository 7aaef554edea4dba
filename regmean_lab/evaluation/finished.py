"""Finds the result of a job that was run before, if it is still valid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from regmean_lab.config.baselines import Individual
from regmean_lab.config.schema import Settings
from regmean_lab.evaluation.label_spaces import unknown_labels
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.results import RESULT_FILE, Result, combine_fingerprints, find_result
from regmean_lab.suites.evaluations import Evaluation
from regmean_lab.utils.files import file_sha256

log = logging.getLogger(__name__)


def model_fingerprint(checkpoint: Checkpoint, checkpoints: Mapping[str, Mapping[str, Any]]) -> str:
    """What identifies the weights that a job starts from: the pretrained model's, and given members with statistics.

    Args:
        checkpoint: the pretrained model.
        checkpoints: of members that are checkpoints, by corpus, where they are from.
    """
    if not checkpoints:
        return checkpoint.fingerprint
    own = (
        f"{corpus} {record['fingerprint']} {sorted(record['published_statistics'].items())}"
        for corpus, record in sorted(checkpoints.items())
    )
    return combine_fingerprints([checkpoint.fingerprint, *own])


def data_fingerprint(settings: Settings, fingerprint: Callable[[str], str]) -> str:
    """Hash of all data that a job reads.

    Args:
        settings: the checked configuration.
        fingerprint: the hash of a corpus.
    """
    fingerprints = [fingerprint(corpus) for corpus in settings.corpora]
    if (texts := getattr(settings.method, "text_file", None)) is not None:
        fingerprints.append(file_sha256(texts))
    return combine_fingerprints(fingerprints)


def finished_result(
    settings: Settings,
    model: str,
    data: str,
    folder: Path,
    evaluations: Callable[[], Sequence[Evaluation]],
    *,
    ordered: bool = False,
) -> Result | None:
    """A job's result, if it was computed before from the same configuration, data and pretrained weights.

    Whom a greedy order chooses follows from these of all members, so that its result is found before they are ordered.

    Args:
        settings: the checked configuration.
        model: identifies the weights that the job starts from, see :func:`model_fingerprint`.
        data: hash of all data that the job reads, see :func:`data_fingerprint`.
        folder: where the job writes.
        evaluations: reads what is evaluated; called for results of version 0.1 only.
        ordered: whether the members are those that a greedy order has chosen already, as it has to for results of
            version 0.1.
    """
    config = settings.config
    if config.force:
        return None
    wanted = (settings.resolved, data, model)
    candidates = config.order == "greedy" and not ordered
    found = find_result(folder, *wanted, merged_too=config.save_merged, of_candidates=candidates)
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
