"""What loggers call what they get: of a training, of a result and of a report."""

from __future__ import annotations

DEV_SCORE = "dev/score"
"""The key score on dev after an epoch: mean over dev sets, times 100."""

SCORES_TABLE, DIAGNOSTICS_TABLE = "scores", "merge_diagnostics"
"""Tables of a result's scores, and of the merge's diagnostics."""

REPORT_PAGE = "report"
"""What W&B calls the page of a report."""
