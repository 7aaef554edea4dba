"""Checks of the command line before Hydra runs: every problem at once, with the nearest valid names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.command import renamed
from regmean_lab.command.quoting import as_list, for_shell, joined, quoted_override
from regmean_lab.command.released import PAGE, released_key_problem
from regmean_lab.command.released_files import released_choices
from regmean_lab.config.checkpoint_commands import EXPERIMENT_KEY, ROOTS, root_module
from regmean_lab.config.grids import (
    CONFIG_NAME,
    Composer,
    Grid,
    SweepError,
    composing,
    composition,
    config_loader,
    grids_of,
    jobs_of,
    takes_any_key,
    values_of,
)
from regmean_lab.config.method_settings import method_settings
from regmean_lab.config.published import PublishedError
from regmean_lab.config.search import (
    SWEEPER_GROUP,
    Search,
    interval_problems,
    search_of_command,
    search_problems,
    tried,
)
from regmean_lab.config.search_space import PLACE, is_searched
from regmean_lab.config.targets import is_target
from regmean_lab.sweeps.launchers import LAUNCHER_GROUP, launcher_problems
from regmean_lab.utils.names import did_you_mean, nearest

NOT_IN_PATHS = ("checkpoint", "checkpoints", "data", "kinds", "output", "recipe")
"""Settings whose values are no names of folders."""

INTERPOLATION = "Interpolation key "
"""What OmegaConf says of ``${NAME}`` where there is no such setting."""


def override_problems(
    arguments: Sequence[str],
    *,
    jobs_too: bool = True,
    root: str | None = None,
    multirun: bool = True,
    corrections: dict[str, str] | None = None,
) -> list[str]:
    """What is wrong with the overrides of a command line: one message each.

    Unknown groups, options and keys get the nearest valid names. With ``jobs_too``, every value of a sweep, the
    experiment's own too, is tried once (with the first value of every other), so that a wrong one shows before the
    first job runs.

    Args:
        arguments: overrides.
        jobs_too: try the jobs as well.
        root: the experiment with a root configuration of its own that they belong to, whose schema is registered.
        multirun: whether the command line says ``-m``.
        corrections: filled with what to write instead of arguments that only want quotes or brackets, by argument;
            an empty text is what belongs to the one before.
    """
    corrections = {} if corrections is None else corrections
    config_name = root or CONFIG_NAME
    with composing():
        loader = config_loader()
        parser, parsed = OverridesParser.create(config_loader=loader), []
        problems = []
        divided = joined(arguments)
        for number, argument in enumerate(arguments):
            if argument in corrections:
                continue  # a piece of what was joined
            try:
                parsed += parser.parse_overrides([argument])
            except HydraException as error:
                problems.append(_grammar_problem(argument, error, divided.get(number), corrections))
        if problems:
            return problems
        groups, values = _split(loader, parsed)
        launchers = [override for override in values if override.key_or_group == LAUNCHER_GROUP]
        sweepers = [override for override in values if override.key_or_group == SWEEPER_GROUP]
        problems = [
            problem for override in launchers for problem in launcher_problems(str(override.value()), runs=jobs_too)
        ]
        if problems:
            return problems
        chosen = [*groups, *launchers, *sweepers]
        problems = [problem for override in chosen for problem in _option_problems(loader, override)]
        if problems:
            return problems
        try:
            base = _with_all_keys([_first(override) for override in groups], config_name)
        except PublishedError as error:
            return error.problems
        except (HydraException, OmegaConfBaseException) as error:
            return [first_line(error)]
        problems = _key_problems(base, values)
        problems += [problem for override in values for problem in _list_problems(base, override, corrections)]
        if problems:
            return problems
        try:
            found = grids_of(arguments, config_name, multirun=multirun)
            search = search_of_command(arguments, config_name)
            if search is None:
                _ = [values_of(parameter) for grid in found for parameter in grid]  # of which an interval has none
        except (HydraException, OmegaConfBaseException) as error:
            # What cannot be composed is left to Hydra where no jobs are tried.
            return [first_line(error)] if jobs_too or isinstance(error, SweepError) else []
        if search is not None and jobs_too:
            if root is not None:
                return [f"{SWEEPER_GROUP}: a search is of jobs with dev splits; experiment={root} has none"]
            if problems := [*search_problems(search, found), *interval_problems(base, found)]:
                return problems
        if not jobs_too:
            return []
        problems = _job_problems(found, root, search)
        if any(INTERPOLATION in problem for problem in problems):
            for argument in arguments:
                if "${" in argument and (other := quoted_override(argument, _parses, literal=True)) is not None:
                    corrections[argument] = other
                    problems.append(f"{argument}: if it is a name that has ${{ in it, write: {for_shell(other)}")
        return problems


def output_folder(arguments: Sequence[str], root: str | None = None) -> Path:
    """``paths.output_dir`` of a command line that has no problems.

    Args:
        arguments: overrides.
        root: the experiment with a root configuration of its own that they belong to.
    """
    config_name = root or CONFIG_NAME
    with composing():
        return Path(Composer(config_name).compose(_first_job(arguments, config_name)).paths.output_dir)


def _parses(text: str) -> bool:
    try:
        OverridesParser.create(config_loader=config_loader()).parse_override(text)
    except HydraException:
        return False
    return True


def _grammar_problem(argument: str, error: HydraException, whole: str | None, corrections: dict[str, str]) -> str:
    """Why an override cannot be read, and where quotes help, how to write it."""
    reason = first_line(error).partition(" See https://hydra.cc")[0]
    if reason.startswith("LexerNoViableAlt"):  # which repeats the whole text
        reason = "a mark that is not allowed in it"
    if whole is not None and (_parses(whole) or quoted_override(whole, _parses) is not None):
        corrected = whole if _parses(whole) else str(quoted_override(whole, _parses))
        first, *others = [piece for piece in whole.split(" ") if piece]
        corrections.update({first: corrected, **dict.fromkeys(others, "")})
        return f"{argument}: the shell has divided this at a blank; write: {for_shell(corrected)}"
    corrected_one = quoted_override(argument, _parses)
    if corrected_one is None:
        return f"{argument}: {reason}; how values are written: https://hydra.cc/docs/advanced/override_grammar/basic"
    corrections[argument] = corrected_one
    return f"{argument}: Hydra cannot read this ({reason}); in quotes it can: {for_shell(corrected_one)}"


def _list_problems(base: DictConfig, override: Override, corrections: dict[str, str]) -> list[str]:
    """Single values where a list is expected, and how to write it."""
    if override.package is not None or override.is_delete() or override.is_interval_sweep():
        return []
    if not isinstance(_node(base, override), ListConfig):
        return []
    values = [text.partition("=")[2] for text in values_of(override)]
    single = [value for value in values if value[:1] != "[" and value != "null" and "${" not in value]
    if not single or any(value[:1] == "{" for value in single):
        return []
    key, argument = override.get_key_element(), str(override.input_line)
    corrections[argument] = as_list(key, values)
    shown = for_shell(corrections[argument])
    return [f"{key}: expected a list, got {', '.join(single)}; in brackets it is one: {shown}"]


def _node(base: DictConfig, override: Override) -> Any:
    parent, _, last = override.key_or_group.rpartition(".")
    node = OmegaConf.select(base, parent) if parent else base
    return node._get_node(last, validate_access=False) if isinstance(node, DictConfig) else None


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
    options = list(loader.get_group_options(group, ObjectType.CONFIG))
    options += ROOTS if group == EXPERIMENT_KEY else ()
    wanted = [text.partition("=")[2] for text in values_of(override)]
    if group == "method":
        wanted = [
            option for option in wanted if not is_target(option)
        ]  # what is wrong with one shows when it is loaded
    return [
        f"{group}={option}: there is no such option; {_option_hint(group, option, options)}"
        for option in wanted
        if option not in (*options, "null") and not option.startswith("[")
    ]


def _option_hint(group: str, option: str, options: Sequence[str]) -> str:
    """What may be meant by an unknown option: experiments of the paper's released code are named by their files."""
    if group == EXPERIMENT_KEY and len(chosen := released_choices([option])) > 1 and chosen[0].startswith(f"{group}="):
        return f"did you mean {' '.join(chosen)}? ({PAGE})"
    return did_you_mean(option, sorted(set(options)))


def _key_problems(base: DictConfig, values: Sequence[Override]) -> list[str]:
    known = set(_keys(base))
    leaves = {key.rpartition(".")[2]: key for key in known}
    problems = []
    for override in values:
        key = override.key_or_group
        if override.is_add() or override.is_force_add() or override.is_delete() or key.startswith("hydra"):
            continue
        if key in known or takes_any_key(base, key) or (is_searched(override) and PLACE.sub("", key) in known):
            continue
        if key in renamed.SETTINGS:
            problems.append(f"{key}: {renamed.SETTINGS[key]}")
            continue
        near = nearest(key, known, cutoff=0.6)
        near += [leaves[leaf] for leaf in nearest(key.rpartition(".")[2], leaves, most=2, cutoff=0.6)]
        hint = " or ".join(dict.fromkeys(near)) if near else "one of those that --cfg job shows"
        unknown = f"{key}: there is no such key; did you mean {hint}?"
        problems.append(released_key_problem(key) or _other_methods(base, key) or unknown)
    return problems


def _other_methods(base: DictConfig, key: str) -> str | None:
    """That a setting belongs to other methods than the chosen one, if it does."""
    group, _, setting = key.partition(".")
    if group != "method" or "method" not in base:
        return None
    owners = [name for name, kind in method_settings().items() if setting in kind.__dataclass_fields__]
    if not owners:
        return None
    owners.sort(key=lambda name: name not in ("regmean", "fisher"))  # the methods that all others are compared with
    shown = ", ".join(owners[:3]) + (" and others" if len(owners) > 3 else "")
    return f"{key}: method {base.method.name} has no such setting; {shown} {'has' if len(owners) == 1 else 'have'} it"


def _job_problems(grids: Sequence[Grid], root: str | None, search: Search | None = None) -> list[str]:
    """Problems of composed jobs: each value of each sweep, the experiment's own too, with the others' first values."""
    from regmean_lab.config.schema import ConfigurationError

    check = _check_suite_job if root is None else root_module(root).check
    config_name = root or CONFIG_NAME
    problems: dict[str, None] = {}
    composer = Composer(config_name)
    for overrides in _jobs(grids, search):
        try:
            check(composer.compose(overrides))
        except (ConfigurationError, PublishedError) as error:
            problems.update(dict.fromkeys(error.problems))
        except (HydraException, OmegaConfBaseException) as error:
            problems[first_line(error)] = None
    if root is not None and not problems:
        problems.update(dict.fromkeys(_shared_paths(jobs_of(grids), composer, root)))
    return list(problems)


def _shared_paths(jobs: Sequence[Sequence[str]], composer: Composer, root: str) -> list[str]:
    """Paths that several jobs of a sweep would write: each would replace what the one before has written."""
    if len(jobs) < 2:
        return []
    owners: dict[Path, dict[int, str]] = {}
    for number, overrides in enumerate(jobs):
        for key, path in root_module(root).written(composer.compose(overrides)):
            owners.setdefault(Path(os.path.abspath(path)), {})[number] = key
    found = []
    for path, keys in owners.items():
        inside = {number for other, numbers in owners.items() if path in other.parents for number in numbers}
        if len(numbers := {*keys, *inside}) < 2:
            continue
        key = next(iter(keys.values()))
        differing = sorted({text.partition("=")[0] for job in jobs for text in job if any(text not in o for o in jobs)})
        differing = ["method.name" if name == "method" else name for name in differing if name not in NOT_IN_PATHS]
        if key == "push":
            repository = f"{path.parent.name}/{path.name}"
            example = for_shell(f"push='{repository}-${{{differing[0]}}}'") if differing else f"{repository}-2"
            found.append(
                f"push: {len(numbers)} jobs of the sweep would push to {repository}, each over what the one before has "
                f"pushed; give each a repository of its own, such as {example}"
            )
            continue
        remedy = (
            "give each job a folder with output" if key == "checkpoint" else "leave output out: jobs have their own"
        )
        if differing:
            example = for_shell(f"output='FOLDER/{'-'.join(f'${{{name}}}' for name in differing)}'")
            remedy += f", or put into it what differs between them, such as {example}"
        found.append(
            f"{key}: {len(numbers)} jobs of the sweep would write {path}, each over what the one before has written; "
            f"{remedy}"
        )
    return found


def _check_suite_job(config: DictConfig) -> None:
    from regmean_lab.checkpoints.checks import check_configuration

    check_configuration(config)


def _jobs(grids: Sequence[Grid], search: Search | None) -> Iterator[list[str]]:
    """The overrides of each job that is checked: of every grid all first values, then each other value in turn."""
    seen = set()
    for grid in grids:
        values = tried(grid, search)
        first = [texts[0] for texts in values]
        for number, texts in enumerate(values):
            for text in texts if number == 0 else texts[1:]:
                job = (*first[:number], text, *first[number + 1 :])
                if job not in seen:
                    seen.add(job)
                    yield list(job)
        if not values:
            yield []


def _with_all_keys(groups: Sequence[str], config_name: str) -> DictConfig:
    """The configuration of some choices of groups, for its keys: those of a first job where there is one already."""
    try:
        return compose_first_job(groups, config_name)
    except SweepError:  # what is swept over is said by the values, which come later
        return composition(config_name, groups)


def compose_first_job(arguments: Sequence[str], config_name: str = CONFIG_NAME) -> DictConfig:
    """Configuration of the first of a command line's jobs."""
    return composition(config_name, _first_job(arguments, config_name))


def _first_job(arguments: Sequence[str], config_name: str) -> list[str]:
    """The overrides of the first of a command line's jobs."""
    search = search_of_command(arguments, config_name)
    first = grids_of(arguments, config_name)[0]
    return [texts[0] for texts in tried(first, search)]


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


def first_line(error: Exception) -> str:
    """What cannot be composed, in one line: the override, and what is wrong with its value."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if text.startswith("Error merging override") and error.__cause__ is not None:
        return f"{text.removeprefix('Error merging override ')}: {str(error.__cause__).splitlines()[0]}"
    return renamed.with_new_name(text)
