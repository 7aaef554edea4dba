"""Silences library warnings that appear in every run and that users cannot act on."""

from __future__ import annotations

import logging
import os
import warnings

NOT_SHOWN = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*lr_scheduler.step.*",
    ".*LeafSpec.*",
    ".*resuming from a checkpoint that ended before the epoch ended.*",  # batches go on where they were
    ".*Experiment logs directory .* exists and is not empty.*",
)
"""Warnings of Lightning that no user of the command can do anything about."""


def quiet_libraries() -> None:
    """Turn off what Lightning and HTTP libraries say about every run and what no user can change."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # Those of HTTP write a line for each request to the hub.
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda", "httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOT_SHOWN:
        warnings.filterwarnings("ignore", message)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
