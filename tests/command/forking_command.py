"""A process that imports the command once and runs it in forks: a test may start, kill and repeat it in little time.

Reads one JSON object a line: ``{"arguments": […], "log": FILE, "folder": FOLDER}`` starts a fork in a folder (None:
where this process is) and answers with its process number;
``{"wait": NUMBER}`` answers with its exit status once it has ended (minus the signal that ended it).
"""

from __future__ import annotations

import json
import os
import sys

import torch

from regmean_lab.__main__ import main


def start(arguments: list[str], log: str, folder: str | None) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(folder or ".")
        sys.argv = ["regmean_lab", *arguments]
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(process: int) -> int:
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        answer = wait(request["wait"]) if "wait" in request else start(**request)
        print(answer, flush=True)
