"""``members=[CORPUS=CHECKPOINT,…]`` as it is typed: Hydra's grammar wants quotes around an equals sign in a list."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from regmean_lab.command.quoting import quoted_override

KEYS = ("members=", "checkpoints=", "checkpoints.")


def quoted_members(arguments: Sequence[str]) -> list[str]:
    """Arguments with quotes around those members and checkpoints that Hydra could not read without."""
    parser = OverridesParser.create()

    def parses(text: str) -> bool:
        try:
            parser.parse_override(text)
        except HydraException:
            return False
        return True

    found = []
    for argument in arguments:
        wants_quotes = argument.startswith(KEYS) and not parses(argument)
        quoted = quoted_override(argument, parses) if wants_quotes else None
        found.append(argument if quoted is None else quoted)
    return found
