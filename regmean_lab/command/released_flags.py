"""Flags and YAML files of the paper's released code on a command line: what to write instead."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.command.overrides import compose_first_job
from regmean_lab.command.own_folders import split_folders
from regmean_lab.command.quoting import command_line
from regmean_lab.command.released import PAGE, released_choices
from regmean_lab.config.grids import composing
from regmean_lab.config.published import PublishedError

CONFIG_FILES, FILTER_MODEL, TEMPLATES = "--config_files", "--filter_model", "--templates"
FLAGS = {CONFIG_FILES: CONFIG_FILES, "--config": CONFIG_FILES, FILTER_MODEL: FILTER_MODEL, TEMPLATES: TEMPLATES}
"""By flag as it is typed, the flag of the released code that it is."""

YAML = (".yaml", ".yml")
EXAMPLE = "experiment=emotion_pairwise model=roberta_base method=regmean"
SUITE_KEYS = ("suite", "experiment")
USUAL_SUITE = "suite=emotion"


def released_flag_problems(arguments: Sequence[str], verb: str | None = None) -> tuple[list[str], str | None]:
    """What to write instead of flags and files of the released code.

    Args:
        arguments: of the command line, without the verb.
        verb: the verb.

    Returns:
        One message for each flag, and for YAML files without one; and the whole command as it is typed here, where
        names of files and of members are known.
    """
    flags, values, others = _divided(arguments, with_files=verb in (None, "run", "plan"))
    files = values[CONFIG_FILES]
    if not flags and not files:
        return [], None
    chosen = [] if any(_key(other) in SUITE_KEYS for other in others) else released_choices(files)
    chosen = [override for override in chosen if _key(override) not in map(_key, others)]
    suite_known = any(_key(override) in SUITE_KEYS for override in [*chosen, *others])
    problems, instead = [], [*chosen]
    certain = " ".join(chosen) if suite_known else ""
    if CONFIG_FILES in flags:
        example = certain or f"{EXAMPLE}, or suite= model= method="
        problems.append(_of_flag(flags[CONFIG_FILES], f"choose options of groups instead: {example}"))
    elif files:
        named = ", ".join(files)
        problems.append(f"{named}: experiments are chosen by their names, not by files: {certain or EXAMPLE} ({PAGE})")
    if FILTER_MODEL in flags:
        meant, members = _members(values[FILTER_MODEL], [*chosen, *others, *([] if suite_known else [USUAL_SUITE])])
        problems.append(_of_flag(flags[FILTER_MODEL], f"name the members' corpora instead: {meant}"))
        instead += [members] if members else []
        suite_known = suite_known and members is not None
    if TEMPLATES in flags:
        problems.append(_of_flag(flags[TEMPLATES], "write the values without it: seed=1, or -m seed=1,2,3"))
    return problems, command_line([*([verb] if verb else []), *instead, *others]) if suite_known else None


def _divided(arguments: Sequence[str], *, with_files: bool) -> tuple[dict[str, str], dict[str, list[str]], list[str]]:
    """Flags as they are typed, the values of each, and all other arguments."""
    flags: dict[str, str] = {}
    values: dict[str, list[str]] = {CONFIG_FILES: [], FILTER_MODEL: [], TEMPLATES: []}
    others: list[str] = []
    current = None
    for argument in arguments:
        typed, equals, value = argument.partition("=")
        if typed in FLAGS:
            current = FLAGS[typed]
            flags.setdefault(current, typed)
            if equals:
                (others if current == TEMPLATES else values[current]).append(value)
        elif argument.startswith("-") or equals:  # values of templates are overrides here
            current = None
            others.append(argument)
        elif current in (CONFIG_FILES, FILTER_MODEL):
            values[current].append(argument)
        elif with_files and argument.lower().endswith(YAML):
            values[CONFIG_FILES].append(argument)
        else:
            others.append(argument)
    return flags, values, others


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _of_flag(flag: str, instead: str) -> str:
    return f"{flag}: a flag of the paper's released code; {instead} ({PAGE})"


def _members(names: Sequence[str], overrides: Sequence[str]) -> tuple[str, str | None]:
    """What names of members stand for in a suite, in words, and as an override where all of them are known."""
    from regmean_lab.config.schema import ConfigurationError, settings_of  # takes a while to import

    given = f"members=[{','.join(names)}]"
    if not names:
        return "members=[tec,isear]", None
    _, plain, _ = split_folders([override for override in overrides if override not in ("-m", "--multirun")])
    try:
        with composing():
            settings_of(compose_first_job([*plain, given]))
    except ConfigurationError as error:
        about = [problem for problem in error.problems if problem.startswith("members: ")]
        if not about:
            return given, given
        meant = re.search(r"members=\[[^\]]*\]", about[0])
        text = about[0].removeprefix("members: ").removesuffix(f" ({PAGE})")
        return text, meant[0] if meant and len(about) == 1 else None
    except (HydraException, OmegaConfBaseException, PublishedError, ValueError):
        return "members=[tec,isear]", None
    return given, given
