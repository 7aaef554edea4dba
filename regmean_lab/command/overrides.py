"""Checks of the command line before Hydra runs: every problem at once, with the nearest valid names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.command.jobs import CONFIG_NAME, Composer, config_loader, grids_of, values_of
from regmean_lab.command.launchers import LAUNCHER_GROUP, launcher_problems
from regmean_lab.command.locations import configuration_root
from regmean_lab.command.roots import EXPERIMENT_KEY, ROOTS, root_module


def override_problems(arguments: Sequence[str], *, jobs_too: bool = True, root: str | None = None) -> list[str]:
    """What is wrong with the overrides of a command line: one message each.

    Unknown groups, options and keys get the nearest valid names. With ``jobs_too``, every value of a sweep, the
    experiment's own too, is tried once (with the first value of every other), so that a wrong one shows before the
    first job runs.

    Args:
        arguments: overrides.
        jobs_too: try the jobs as well.
        root: the experiment with a root configuration of its own that they belong to, whose schema is registered.
    """
    config_name = root or CONFIG_NAME
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        loader = config_loader()
        parser, parsed = OverridesParser.create(config_loader=loader), []
        problems = []
        for argument in arguments:
            try:
                parsed += parser.parse_overrides([argument])
            except HydraException as error:
                problems.append(f"{argument}: {_first_line(error)}")
        if problems:
            return problems
        groups, values = _split(loader, parsed)
        launchers = [override for override in values if override.key_or_group == LAUNCHER_GROUP]
        problems = [problem for override in launchers for problem in launcher_problems(str(override.value()))]
        if problems:
            return problems
        problems = [problem for override in [*groups, *launchers] for problem in _option_problems(loader, override)]
        if problems:
            return problems
        try:
            base = compose_first_job([_first(override) for override in groups], config_name)
        except (HydraException, OmegaConfBaseException) as error:
            return [_first_line(error)]
        problems = _key_problems(base, values)
        if problems or not jobs_too:
            return problems
        return _job_problems(arguments, root)


def output_folder(arguments: Sequence[str]) -> Path:
    """``paths.output_dir`` of a command line that has no problems."""
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        return Path(compose_first_job(arguments).paths.output_dir)


def nearest(name: str, candidates: Iterable[str]) -> str:
    """A hint with the nearest valid names, or all of them where none is near."""
    listed = sorted(set(candidates))
    near = difflib.get_close_matches(name, listed, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(listed)}"


def _split(loader: ConfigLoaderImpl, parsed: Sequence[Override]) -> tuple[list[Override], list[Override]]:
    """Overrides that choose an option of a group, and those that set values."""
    groups: list[Override] = []
    values: list[Override] = []
    for override in parsed:
        is_group = "." not in override.key_or_group and loader.repository.group_exists(override.key_or_group)
        (groups if is_group and not override.key_or_group.startswith("hydra/") else values).append(override)
    return groups, values


def _option_problems(loader: ConfigLoaderImpl, override: Override) -> list[str]:
    group = override.key_or_group
    if override.is_delete():
        return []
    options = [option for option in loader.get_group_options(group, ObjectType.CONFIG) if option != "schema"]
    options += ROOTS if group == EXPERIMENT_KEY else ()
    wanted = [text.partition("=")[2] for text in values_of(override)]
    return [
        f"{group}={option}: there is no such option; {nearest(option, options)}"
        for option in wanted
        if option not in (*options, "null") and not option.startswith("[")
    ]


def _key_problems(base: DictConfig, values: Sequence[Override]) -> list[str]:
    known = set(_keys(base))
    leaves = {key.rpartition(".")[2]: key for key in known}
    problems = []
    for override in values:
        key = override.key_or_group
        if override.is_add() or override.is_force_add() or override.is_delete() or key.startswith("hydra"):
            continue
        if key in known:
            continue
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
        near += [leaves[leaf] for leaf in difflib.get_close_matches(key.rpartition(".")[2], leaves, n=2, cutoff=0.6)]
        hint = " or ".join(dict.fromkeys(near)) if near else "one of those that --cfg job shows"
        problems.append(f"{key}: there is no such key; did you mean {hint}?")
    return problems


def _job_problems(arguments: Sequence[str], root: str | None) -> list[str]:
    """Problems of composed jobs: each value of each sweep, the experiment's own too, with the others' first values."""
    from regmean_lab.schema import ConfigurationError

    check = _check_suite_job if root is None else root_module(root).check
    config_name = root or CONFIG_NAME
    problems: dict[str, None] = {}
    try:
        jobs = list(_jobs(arguments, config_name))
    except (HydraException, OmegaConfBaseException) as error:
        return [_first_line(error)]
    composer = Composer(config_name)
    for overrides in jobs:
        try:
            check(composer.compose(overrides))
        except ConfigurationError as error:
            problems.update(dict.fromkeys(error.problems))
        except (HydraException, OmegaConfBaseException) as error:
            problems[_first_line(error)] = None
    return list(problems)


def _check_suite_job(config: DictConfig) -> None:
    from regmean_lab.experiment import check_files
    from regmean_lab.schema import settings_of

    check_files(settings_of(config))


def _jobs(arguments: Sequence[str], config_name: str) -> Iterator[list[str]]:
    """The overrides of each job that is checked: of every grid all first values, then each other value in turn."""
    seen = set()
    for grid in grids_of(arguments, config_name):
        values = [values_of(parameter) for parameter in grid]
        first = [texts[0] for texts in values]
        for number, texts in enumerate(values):
            for text in texts if number == 0 else texts[1:]:
                job = (*first[:number], text, *first[number + 1 :])
                if job not in seen:
                    seen.add(job)
                    yield list(job)
        if not values:
            yield []


def compose_first_job(arguments: Sequence[str], config_name: str = CONFIG_NAME) -> DictConfig:
    """Configuration of the first of a command line's jobs."""
    return compose(config_name, [values_of(parameter)[0] for parameter in grids_of(arguments, config_name)[0]])


def _first(override: Override) -> str:
    return values_of(override)[0]


def _keys(config: DictConfig, prefix: str = "") -> Iterable[str]:
    content: Any = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
    yield from _nested_keys(content, prefix)


def _nested_keys(content: dict[str, Any], prefix: str) -> Iterable[str]:
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _nested_keys(value, f"{prefix}{key}.")


def _first_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())
