"""A process that imports the command once and runs it in forks: a test may start, kill and repeat it in little time.

Reads one JSON object a line. ``{"arguments": […], "log": FILE, "folder": FOLDER, "installed": FOLDER, "environment":
{…}, "largest_file": BYTES}`` starts a fork in a folder (None: where this process is), which finds packages in another
one, too, whose environment differs in some variables (None: it has none of that name), and whose files may have so many
bytes (None: any number); it answers with its process number. ``{"wait": NUMBER}`` answers with its exit status once it
has ended (minus the signal that ended it).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import traceback

import torch
from quick_configurations import install

from regmean_lab.__main__ import main

# What nearly every command imports on its way, which takes seconds; a fork has it at once.
LATER = (
    "pytorch_lightning",
    "transformers.models.bert.modeling_bert",
    "regmean_lab.experiment.computing",
    "regmean_lab.evaluation.evaluators",
    "regmean_lab.report.summary",
    "regmean_lab.sweeps.stages",
    "regmean_lab.sweeps.step_work",
)


def start(
    arguments: list[str],
    log: str,
    folder: str | None,
    installed: str | None,
    environment: dict[str, str | None],
    largest_file: int | None = None,
) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(folder or ".")
        os.environ.update({name: value for name, value in environment.items() if value is not None})
        for name in [name for name, value in environment.items() if value is None]:
            os.environ.pop(name, None)
        if installed is not None:
            sys.path.insert(0, installed)
        sys.argv = ["regmean_lab", *arguments]
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where this process was told to ignore it
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(process: int) -> int:
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    install()
    for module in LATER:
        importlib.import_module(module)
    # Forks look for no garbage in what was imported, and share its memory.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        answer = wait(request["wait"]) if "wait" in request else start(**request)
        print(answer, flush=True)
