"""Errors that a person can mend: they are shown without a traceback."""

from __future__ import annotations

from regmean_lab.checkpoints.headers import CheckpointError
from regmean_lab.download import DownloadError
from regmean_lab.merging import MergeError
from regmean_lab.models import ModelError
from regmean_lab.processes import ProcessError
from regmean_lab.schema import ConfigurationError
from regmean_lab.statistics.errors import StatisticsError
from regmean_lab.suites.base import DataError
from regmean_lab.zoo import ZooError

EXPECTED_ERRORS = (
    CheckpointError,
    ConfigurationError,
    DataError,
    DownloadError,
    ModelError,
    ProcessError,
    MergeError,
    StatisticsError,
    ZooError,
)
