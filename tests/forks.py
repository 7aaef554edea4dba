"""Commands that run in forks of a process that has imported everything already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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

    def start(
        self,
        arguments: list[str],
        log: Path,
        folder: Path | None = None,
        *,
        installed: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
        largest_file: int | None = None,
    ) -> int:
        """Start the command and return its process number.

        Args:
            arguments: its arguments.
            log: what it prints is added to this file.
            folder: where it runs.
            installed: where it finds packages besides.
            environment: what its environment differs in; without variables that are None.
            largest_file: bytes that a file that it writes may have at most.
        """
        folders = {"folder": folder, "installed": installed}
        paths = {key: path and str(path) for key, path in folders.items()}
        settings = {"environment": dict(environment or {}), "largest_file": largest_file}
        return self._ask(arguments=arguments, log=str(log), **paths, **settings)

    def wait(self, process: int) -> int:
        """The exit status of a process, once it has ended."""
        return self._ask(wait=process)

    def run(self, arguments: list[str], log: Path, *more: Any, **named: Any) -> tuple[int, str]:
        """The exit status of a command, and all that it has printed; the arguments are those of `start`."""
        log.write_text("")
        return self.wait(self.start(arguments, log, *more, **named)), log.read_text()


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
