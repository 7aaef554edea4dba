"""Checks of the command line before Hydra runs: every problem at once, with the nearest valid names."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.command.locations import configuration_root

CONFIG_NAME = "config"


def override_problems(arguments: Sequence[str], *, jobs_too: bool = True) -> list[str]:
    """What is wrong with the overrides of a command line: one message each.

    Unknown groups, options and keys get the nearest valid names. With ``jobs_too``, every value of a sweep, the
    experiment's own too, is tried once (with the first value of every other), so that a wrong one shows before the
    first job runs.
    """
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
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
        problems = [problem for override in groups for problem in _option_problems(loader, override)]
        if problems:
            return problems
        try:
            base = compose_first_job([_first(override) for override in groups])
        except (HydraException, OmegaConfBaseException) as error:
            return [_first_line(error)]
        problems = _key_problems(base, values)
        if problems or not jobs_too:
            return problems
        return _job_problems([*groups, *values])


def output_folder(arguments: Sequence[str]) -> Path:
    """``paths.output_dir`` of a command line that has no problems."""
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        parsed = OverridesParser.create().parse_overrides(list(arguments))
        return Path(compose_first_job([_first(override) for override in parsed]).paths.output_dir)


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


def _job_problems(overrides: Sequence[Override]) -> list[str]:
    """Problems of composed jobs: each value of each sweep, the experiment's own too, with the others' first values."""
    from regmean_lab.experiment import check_files
    from regmean_lab.schema import ConfigurationError, settings_of

    problems: dict[str, None] = {}
    for make in _jobs(overrides):
        try:
            config = make()
            OmegaConf.set_struct(config, True)
            check_files(settings_of(config))
        except ConfigurationError as error:
            problems.update(dict.fromkeys(error.problems))
        except (HydraException, OmegaConfBaseException) as error:
            problems[_first_line(error)] = None
    return list(problems)


def _jobs(overrides: Sequence[Override]) -> Iterator[Callable[[], DictConfig]]:
    """What makes the configuration of each job that is checked; composing one takes a quarter of a second."""
    for choice in _variations(overrides):
        yield partial(compose_first_job, choice)
    first = [_first(override) for override in overrides]
    try:
        base, own = compose_first_job(first), _own_sweep(first)
    except (HydraException, OmegaConfBaseException):
        return  # the first job above has the same problem
    for override in own:
        for text in values_of(override)[1:]:
            # Setting a value is quicker; what selects an option of a group has to be composed.
            if _is_value(base, override):
                yield partial(_updated, base, text)
            else:
                yield partial(compose_first_job, [text, *first])


def _own_sweep(overrides: list[str]) -> list[Override]:
    """What the experiment sweeps by itself, unless the overrides set it."""
    full = compose(CONFIG_NAME, overrides, return_hydra_config=True)
    given = {text.partition("=")[0].lstrip("+~") for text in overrides}
    parameters = OmegaConf.select(full, "hydra.sweeper.params") or {}
    own = [f"{key}={value}" for key, value in parameters.items() if key not in given]
    parsed: list[Override] = OverridesParser.create().parse_overrides(own)
    return parsed


def _is_value(config: DictConfig, override: Override) -> bool:
    node = OmegaConf.select(config, override.key_or_group, throw_on_missing=False)
    return override.type == OverrideType.CHANGE and not isinstance(node, DictConfig)


def _updated(base: DictConfig, text: str) -> DictConfig:
    (override,) = OverridesParser.create().parse_overrides([text])
    config = copy.deepcopy(base)
    OmegaConf.update(config, override.key_or_group, override.value(), merge=False)
    return config


def _variations(overrides: Sequence[Override]) -> list[list[str]]:
    first = [_first(override) for override in overrides]
    varied = [first]
    for number, override in enumerate(overrides):
        for text in values_of(override)[1:]:
            varied.append([*first[:number], text, *first[number + 1 :]])
    return varied


def compose_first_job(overrides: list[str]) -> DictConfig:
    """A job's configuration; where the experiment sweeps by itself, that of the first of its jobs."""
    return compose(CONFIG_NAME, [*[_first(override) for override in _own_sweep(overrides)], *overrides])


def values_of(override: Override) -> list[str]:
    """An override as one text for each value that it sweeps over."""
    key = override.get_key_element()
    if override.is_discrete_sweep():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    return [f"{key}={override.get_value_element_as_str()}" if not override.is_delete() else str(override.input_line)]


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
