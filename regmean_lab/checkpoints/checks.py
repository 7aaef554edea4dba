"""What a job needs before any work, the checkpoints among its members included; and the result that is there already.

A result is found without the libraries that would compute it, which take seconds to import: what was checked of the
pretrained model when it was computed is not checked again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regmean_lab.config.baselines import Multitask
from regmean_lab.config.resolvers import job_folder
from regmean_lab.config.schema import ConfigurationError, Settings, settings_of
from regmean_lab.evaluation.checks import check_files, find_files
from regmean_lab.evaluation.finished import data_fingerprint, finished_result, model_fingerprint
from regmean_lab.evaluation.label_spaces import label_differences
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.results import RESULT_FILE, Result
from regmean_lab.suites.base import DataError
from regmean_lab.suites.evaluations import evaluations_for

if TYPE_CHECKING:
    from regmean_lab.checkpoints.given_members import GivenMember


def find_given(settings: Settings, checkpoint: Checkpoint | None) -> tuple[dict[str, GivenMember], list[str]]:
    """The members of a job that are checkpoints, by corpus; and everything that stands against any of them.

    Args:
        settings: the job's configuration.
        checkpoint: the pretrained model; None where there is none, which is told elsewhere.
    """
    if isinstance(settings.method, Multitask) or not settings.checkpoints:
        return {}, []  # of joint training one model is trained on all data, whoever the members are
    from regmean_lab.checkpoints.given_members import read_given  # with transformers, which most jobs are found without

    return read_given(settings, checkpoint)


def find_finished(settings: Settings, folder: Path) -> Result | None:
    """The result of a job, if it was computed before and all that it depends on is there, and as it was.

    Args:
        settings: the job's configuration, whose values were checked.
        folder: where the job writes.

    Returns:
        The result; None also where something is missing, which :func:`check` tells.
    """
    if settings.config.force or not (folder / RESULT_FILE).is_file():
        return None
    checkpoint, problems = find_files(settings)
    given, others = find_given(settings, checkpoint)
    if checkpoint is None or problems or others:
        return None
    models = model_fingerprint(checkpoint, {name: member.record for name, member in given.items()})
    evaluations = partial(evaluations_for, settings.suite, settings.members, settings.evaluated_split)
    try:
        if label_differences(settings, checkpoint):
            return None
        data = data_fingerprint(settings, settings.suite.fingerprint)
        return finished_result(settings, models, data, folder, evaluations)
    except (DataError, OSError):
        return None


def check(settings: Settings) -> tuple[Checkpoint, dict[str, GivenMember]]:
    """Check that all that a job needs is there, the checkpoints among its members included.

    Args:
        settings: its configuration, whose values were checked.

    Returns:
        The pretrained model, and by corpus the members that are checkpoints.

    Raises:
        ConfigurationError: with everything that is missing or does not go together.
    """
    found: list[str] = []
    try:
        checkpoint: Checkpoint | None = check_files(settings)
    except ConfigurationError as error:
        found, checkpoint = error.problems, find_files(settings)[0]
    given, problems = find_given(settings, checkpoint)
    if (found := found + problems) or checkpoint is None:
        raise ConfigurationError(found)
    return checkpoint, given


def check_configuration(config: Any) -> None:
    """Check a composed configuration, and that what it needs is there, unless its result is.

    Raises:
        ConfigurationError: with everything that is wrong with the values, or else everything that is missing.
    """
    settings = settings_of(config)
    if find_finished(settings, Path(settings.config.paths.output_dir) / job_folder(config)) is None:
        check(settings)
