"""Jobs that did not end: their processes were killed, or never began."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus, filter_overrides

log = logging.getLogger(__name__)


class LostJob(Exception):
    """Why a job has no result: what its scheduler says, and where its log is."""


def lost_job(overrides: Sequence[str], reason: str) -> JobReturn:
    """What a launcher returns of a job that was lost: it counts as failed, and the others go on."""
    log.error("lost the job %s: %s", " ".join(filter_overrides(overrides)), reason)
    returned = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    returned.return_value = LostJob(reason)
    return returned


def reason_of_loss(returned: JobReturn) -> str | None:
    """Why a job was lost; None of one that ended, also by an error of its own."""
    if returned.status == JobStatus.FAILED and isinstance(error := returned._return_value, LostJob):
        return str(error)
    return None
