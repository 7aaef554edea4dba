"""Completion in shells: Hydra's own for overrides, and ours for verbs and the programs among them.

Hydra's script, which ``regmean-lab --shell-completion install=bash`` prints, calls the command with ``query=bash`` and
the line so far in ``COMP_LINE``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

from regmean_lab.command.verbs import VERBS

FLAGS = ("-sc", "--shell-completion")
LINE_VARIABLE = "COMP_LINE"


def is_completion(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for completion, or for its installation."""
    return any(argument in FLAGS for argument in arguments)


def complete_verbs(arguments: Sequence[str]) -> str | None:
    """Print what completes verbs and programs, and leave overrides to Hydra.

    The verb is taken out of the line, which Hydra reads next.

    Args:
        arguments: the command line's.

    Returns:
        The root configuration whose overrides Hydra completes, or None where there are none.
    """
    default = VERBS["run"].config
    if not any(argument.startswith("query=") for argument in arguments):
        return default
    line = os.environ.get(LINE_VARIABLE, "")
    program, *words = line.split() or [""]
    unfinished = "" if not words or line.endswith(" ") else words[-1]
    finished = words if not unfinished else words[:-1]
    if not finished:
        print(*(name for name in VERBS if name.startswith(unfinished)))
        return default
    if (verb := VERBS.get(finished[0])) is None:
        return default
    if verb.config is None:
        candidates = importlib.import_module(verb.module).completions(finished[1:], unfinished)
        print(*(candidate for candidate in candidates if candidate.startswith(unfinished)))
        return None
    os.environ[LINE_VARIABLE] = " ".join([program, *finished[1:], unfinished])
    return verb.config
