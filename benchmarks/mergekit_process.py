"""As `recipe_process`, by mergekit: run by the Python of an environment that has it, and may lack this project.

``python -m benchmarks.mergekit_process RECIPE OUTPUT OPTIONS``, with the options of its command as a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import yaml

from benchmarks.memory import OwnMemory, peak_bytes


def main() -> None:
    """Merge by the recipe that the command line names."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    recipe, output, options = sys.argv[1:]
    before, started = time.process_time(), time.perf_counter()
    with OwnMemory() as memory:
        chosen = MergeOptions(quiet=True, **json.loads(options))
        chosen.apply_global_options()
        with open(recipe, encoding="utf-8") as file:
            text = file.read()
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), output, chosen, config_source=text)
    measured = {
        "start": before,
        "processor": time.process_time() - before,
        "seconds": time.perf_counter() - started,
        "peak": peak_bytes(),
        "own": memory.most,
        "versions": {name: version(name) for name in ("mergekit", "torch", "transformers")},
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
