"""Folders with a user's own YAML: ``--config-dir FOLDER`` and ``hydra.searchpath=[FOLDER,…]``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

CONFIG_DIR_FLAGS = ("--config-dir", "-cd")
SEARCH_PATH_KEY = "hydra.searchpath"
FILE_SCHEME = "file://"


def split_folders(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Take the folders out of a command line, which then serve all that is composed, not the first job alone.

    Args:
        arguments: the command line's.

    Returns:
        The folders, the other arguments, and what is wrong with the folders: one message each.
    """
    folders: list[str] = []
    others: list[str] = []
    problems: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag in CONFIG_DIR_FLAGS:
            folder = value if equals else next(remaining, "")
            folders += _checked(flag, folder, problems)
        elif flag.lstrip("+") == SEARCH_PATH_KEY:
            for folder in _listed(argument, problems):
                folders += _checked(SEARCH_PATH_KEY, folder, problems)
        else:
            others.append(argument)
    return folders, others, problems


def _listed(argument: str, problems: list[str]) -> list[str]:
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException as error:
        problems.append(f"{argument}: {str(error).splitlines()[0]}")
        return []
    return [str(folder) for folder in (value if isinstance(value, list) else [value])]


def _checked(key: str, folder: str, problems: list[str]) -> list[str]:
    path = folder.removeprefix(FILE_SCHEME)
    if "://" in path:  # pkg://, or a scheme of another plugin
        return [path]
    if not os.path.isdir(os.path.expanduser(path)):
        problems.append(f"{key}: there is no folder {path!r}" if path else f"{key}: expected a folder")
        return []
    return [FILE_SCHEME + os.path.abspath(os.path.expanduser(path))]
