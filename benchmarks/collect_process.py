"""One collection of statistics in a process of its own, which prints how long it took and how much memory it needed.

``python -m benchmarks.collect_process OVERRIDE...``: the overrides of ``regmean-lab collect``.
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks.merge_process import peak_bytes
from regmean_lab import __main__ as command
from regmean_lab.checkpoints import collect_command  # noqa: F401 - imported before memory is looked at


def main() -> None:
    """Collect what the command line names."""
    before, started, spent = peak_bytes(), time.perf_counter(), time.process_time()
    sys.argv = ["regmean-lab", "collect", *sys.argv[1:]]
    command.main()
    taken = {"seconds": time.perf_counter() - started, "processor": time.process_time() - spent}
    print(json.dumps({**taken, "before": before, "peak": max(before, peak_bytes())}))


if __name__ == "__main__":
    main()
