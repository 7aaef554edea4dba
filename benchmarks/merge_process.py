"""One merge of folders in a process of its own, which prints how long it took and how much memory it needed.

``python -m benchmarks.merge_process METHOD OUTPUT BASE CHECKPOINT...``
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.memory import peak_bytes
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.output import write_output
from regmean_lab.merging import method_types


def main() -> None:
    """Merge what the command line names."""
    method, output, base, *checkpoints = sys.argv[1:]
    before, started = peak_bytes(), time.perf_counter()
    prepared = prepare_merge(MergeRequest(checkpoints, method_types()[method](), base=base))
    write_output(prepared, Path(output), {"name": method})
    seconds = time.perf_counter() - started
    # The system counts pages by processor and adds them up now and then, so that a peak may seem to fall a little.
    print(json.dumps({"seconds": seconds, "before": before, "peak": max(before, peak_bytes())}))


if __name__ == "__main__":
    main()
