"""One merge by a recipe in a process of its own, which prints what it took.

``python -m benchmarks.recipe_process RECIPE OUTPUT``
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.memory import OwnMemory, peak_bytes
from regmean_lab.checkpoints.merge import prepare_merge
from regmean_lab.checkpoints.output import write_output
from regmean_lab.checkpoints.recipe.reading import read_recipe
from regmean_lab.checkpoints.recipe.request import request_of_recipe


def main() -> None:
    """Merge by the recipe that the command line names."""
    recipe, output = map(Path, sys.argv[1:])
    before, started = time.process_time(), time.perf_counter()
    with OwnMemory() as memory:
        request = request_of_recipe(read_recipe(recipe))
        write_output(prepare_merge(request), output, {"name": request.method.name})
    measured = {
        "start": before,
        "processor": time.process_time() - before,
        "seconds": time.perf_counter() - started,
        "peak": peak_bytes(),
        "own": memory.most,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
