"""Flags and YAML files of the paper's released code on a command line: what to write instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.command.overrides import compose_first_job
from regmean_lab.command.own_folders import split_folders
from regmean_lab.command.quoting import command_line, for_shell
from regmean_lab.command.released import PAGE
from regmean_lab.command.released_files import SWEEP, released_choices, template_overrides
from regmean_lab.config.grids import composing
from regmean_lab.config.published import PublishedError

CONFIG_FILES, FILTER_MODEL, TEMPLATES, UPLOAD = "--config_files", "--filter_model", "--templates", "--upload"
FLAGS = (CONFIG_FILES, FILTER_MODEL, TEMPLATES, UPLOAD)
"""Flags of the released code, which understands them by their beginnings too: ``--config``, ``--config_file``."""
SHORT = "-c"
"""The short form of the first one; it is Hydra's own where no YAML file follows."""
SHORTEST = len("--temp")

YAML = (".yaml", ".yml")
EXAMPLE = "experiment=emotion_pairwise model=roberta_base method=regmean"
SUITE_KEYS = ("suite", "experiment", SWEEP.lstrip("+"))
DATA = "paths.data_dir=resources"
"""The folder that every configuration of the released code reads."""
USUAL_SUITE = "suite=emotion"


@dataclass
class _Given:
    """A command line, divided: flags as they are typed, by flag of the released code, and what belongs to them."""

    flags: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def released_flag_problems(arguments: Sequence[str], verb: str | None = None) -> tuple[list[str], str | None]:
    """What to write instead of flags and files of the released code.

    Args:
        arguments: of the command line, without the verb.
        verb: the verb.

    Returns:
        One message for each flag, and for YAML files without one; and the whole command as it is typed here, where
        names of files and of members are known.
    """
    given = _divided(arguments, with_files=verb in (None, "run", "plan"))
    if not given.flags and not given.files:
        return [], None
    named = len(given.members) if given.members else None
    chosen = [] if any(_key(other) in SUITE_KEYS for other in given.others) else released_choices(given.files, named)
    templates = [override for template in given.templates for override in template_overrides(template) or ()]
    # What is typed in the syntax of here counts, then what templates say, then what files say.
    chosen = _without(chosen, {*map(_key, templates), *map(_key, given.others)})
    templates = _without(list(dict.fromkeys(templates)), set(map(_key, given.others)))
    suite_known = any(_key(override) in SUITE_KEYS for override in [*chosen, *given.others])
    problems, members = [], None
    certain = " ".join(map(for_shell, chosen)) if suite_known else ""
    if CONFIG_FILES in given.flags:
        example = certain or f"{EXAMPLE}, or suite= model= method="
        problems.append(_of_flag(given.flags[CONFIG_FILES], f"choose options of groups instead: {example}"))
    elif given.files:
        files = ", ".join(given.files)
        problems.append(f"{files}: experiments are chosen by their names, not by files: {certain or EXAMPLE} ({PAGE})")
    if FILTER_MODEL in given.flags:
        usual = [] if suite_known else [USUAL_SUITE]
        meant, members = _members(given.members, [*chosen, *given.others, *usual])
        problems.append(_of_flag(given.flags[FILTER_MODEL], f"name the members' corpora instead: {meant}"))
        suite_known = suite_known and members is not None
    if TEMPLATES in given.flags:
        example = " ".join(templates) or "seed=1"
        problems.append(
            _of_flag(given.flags[TEMPLATES], f"write the values without it: {example}, several seeds as -m seed=1,2,3")
        )
    if UPLOAD in given.flags:
        problems.append(_of_flag(UPLOAD, "results are in paths.output_dir, which may be on a shared file system"))
    reads_data = any(_key(override) == "model" for override in chosen)
    data = _without([DATA], set(map(_key, given.others))) if reads_data else []
    whole = [verb or "", *chosen, members or "", *templates, *data, *given.others]
    return problems, command_line(whole) if suite_known else None


def _divided(arguments: Sequence[str], *, with_files: bool) -> _Given:
    given = _Given()
    current = None
    for argument, after in pairwise([*arguments, ""]):
        typed, equals, value = argument.partition("=")
        if (flag := _flag(typed, after)) is not None:
            current = flag
            given.flags.setdefault(flag, typed)
            if equals:
                _take(given, flag, value)
        elif current == TEMPLATES and equals and template_overrides(argument) is not None:
            given.templates.append(argument)
        elif argument.startswith("-") or equals:
            current = None
            given.others.append(argument)
        elif current in (CONFIG_FILES, FILTER_MODEL):
            _take(given, current, argument)
        elif with_files and argument.lower().endswith(YAML):
            given.files.append(argument)
        else:
            given.others.append(argument)
    return given


def _flag(typed: str, after: str) -> str | None:
    """The released code's flag that is typed, by its beginning; None for everything else."""
    if typed == SHORT:
        return CONFIG_FILES if after.lower().endswith(YAML) else None
    return next((flag for flag in FLAGS if len(typed) >= SHORTEST and flag.startswith(typed)), None)


def _take(given: _Given, flag: str, value: str) -> None:
    if flag == TEMPLATES:
        (given.others if template_overrides(value) is None else given.templates).append(value)
    else:
        (given.files if flag == CONFIG_FILES else given.members).append(value)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _without(overrides: Sequence[str], keys: set[str]) -> list[str]:
    return [override for override in overrides if _key(override) not in keys]


def _of_flag(flag: str, instead: str) -> str:
    return f"{flag}: a flag of the paper's released code; {instead} ({PAGE})"


def _members(names: Sequence[str], overrides: Sequence[str]) -> tuple[str, str | None]:
    """What names of members stand for in a suite, in words, and as an override where all of them are known."""
    from regmean_lab.config.schema import ConfigurationError, settings_of  # takes a while to import

    _, plain, _ = split_folders([override for override in overrides if override not in ("-m", "--multirun")])
    try:
        with composing():
            if not names:
                return _of_suite(plain), None
            given = f"members=[{','.join(names)}]"
            settings_of(compose_first_job([*plain, given]))
    except ConfigurationError as error:
        about = [problem for problem in error.problems if problem.startswith("members: ")]
        if not about:
            return given, given
        meant = re.search(r"members=\[[^\]]*\]", about[0])
        text = about[0].removeprefix("members: ").removesuffix(f" ({PAGE})")
        return text, meant[0] if meant and len(about) == 1 else None
    except (HydraException, OmegaConfBaseException, PublishedError, ValueError):
        return "members=[A,B], with names of the suite's corpora", None
    return given, given


def _of_suite(overrides: Sequence[str]) -> str:
    """An example: the first members of the suite that a command chooses."""
    from regmean_lab.suites import suite_types

    config = compose_first_job(list(overrides))
    members = suite_types()[config.suite.name].members_by_default(config.suite)
    return f"members=[{','.join(members[:2])}]"
