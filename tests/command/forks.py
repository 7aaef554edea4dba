"""Commands that run in forks of a process that has imported everything already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Forks:
    """Talks to `forking_command.py`."""

    server: subprocess.Popen[str]

    def _ask(self, **request: object) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, arguments: list[str], log: Path, folder: Path | None = None) -> int:
        """Start the command, in a folder; returns its process number."""
        return self._ask(arguments=arguments, log=str(log), folder=None if folder is None else str(folder))

    def wait(self, process: int) -> int:
        """The exit status of a process, once it has ended."""
        return self._ask(wait=process)


@contextmanager
def forking() -> Iterator[Forks]:
    """The process, for as long as it is needed."""
    program = Path(__file__).with_name("forking_command.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        yield Forks(server)
        assert server.stdin is not None
        server.stdin.close()
