"""The number of CPU threads of a job, so that jobs side by side do not compete for cores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def limit_threads(configured: int | None, launcher: Mapping[str, Any]) -> None:
    """Set PyTorch's number of threads for a job; leave it where nothing says what it should be.

    joblib and Ray set ``OMP_NUM_THREADS`` of the processes that they start, which PyTorch follows.

    Args:
        configured: ``trainer.threads``.
        launcher: settings of the launcher; submitit's say what a job gets as ``cpus_per_task``.
    """
    threads = configured or launcher.get("cpus_per_task")
    if threads is None and os.environ.get("SUBMITIT_EXECUTOR") == "local":
        threads = 1  # all jobs run at once
    if threads is not None:
        import torch  # takes seconds

        torch.set_num_threads(threads)
