"""The command ``regmean-lab``, or ``python -m regmean_lab``: verb, compose, check, run, exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, cast

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.command.aliases import METHODS, NOTES, as_typed, known_names, typed_names
from regmean_lab.command.checkpoint_plan import show_checkpoint_plan
from regmean_lab.command.completion import complete_verbs, is_completion
from regmean_lab.command.help import help_page
from regmean_lab.command.members import quoted_members
from regmean_lab.command.overrides import first_line, output_folder, override_problems
from regmean_lab.command.own_folders import split_folders
from regmean_lab.command.plan import show_plan, wants_plan
from regmean_lab.command.quoting import corrected_command
from regmean_lab.command.recipes import recipe_arguments
from regmean_lab.command.released_flags import released_flag_problems
from regmean_lab.command.renamed import folder_problems
from regmean_lab.command.verbs import VERBS, VerbError, run_program, split_verb
from regmean_lab.config.checkpoint_commands import RootError, split_root
from regmean_lab.config.grids import CONFIG_NAME, composing, composing_once
from regmean_lab.config.locations import configuration_root, use_own_folders
from regmean_lab.config.plugin_options import register_plugin_options
from regmean_lab.config.resolvers import register_resolvers
from regmean_lab.config.search import SWEEPER_GROUP
from regmean_lab.sweeps.checkpoint_summary import summarise_checkpoints
from regmean_lab.sweeps.launchers import register_launchers
from regmean_lab.sweeps.summary import SWEEPS_FOLDER, summarise
from regmean_lab.sweeps.task_function import job, root_job
from regmean_lab.tracking.sweep_name import begin_sweep
from regmean_lab.utils.disk import DiskShortage, named_setting, write_problem
from regmean_lab.utils.errors import together
from regmean_lab.utils.garbage import collecting_later
from regmean_lab.utils.plugins import PluginError
from regmean_lab.utils.quantities import counted

EXIT_FAILED, EXIT_CONFIGURATION, EXIT_INTERRUPTED = 1, 2, 130
MULTIRUN_FLAGS = ("-m", "--multirun")
SEARCH = f"{SWEEPER_GROUP}=optuna"
HELP_FLAGS = ("-h", "--help")


def main() -> None:
    """Entry point of ``python -m regmean_lab`` and of the script ``regmean-lab``."""
    with collecting_later(), composing_once():
        try:
            _main(sys.argv[1:])
        except DiskShortage as error:  # before or after the jobs, which tell their own
            print(error, file=sys.stderr)
            sys.exit(EXIT_FAILED)


def _main(given: list[str]) -> None:
    if is_completion(given):
        if (config := complete_verbs(given)) is not None:
            _register()
            _hydra_command(config)()
        return
    try:
        verb, arguments = split_verb(given)
    except VerbError as error:
        refuse([str(error)])
    if verb is not None and VERBS[verb].config is None:
        sys.exit(run_program(verb, arguments))
    if verb == "merge":
        arguments = recipe_arguments(arguments)
    renamed = known_names(arguments, merges=verb == "merge")
    typed = typed_names(arguments, merges=verb == "merge")
    for key, name in typed.items():
        if name in NOTES:
            print(f"{name} is read as {key}: {NOTES[name]}", file=sys.stderr)
    _run(verb, renamed if verb in ("merge", "evaluate", "collect") else quoted_members(renamed), typed)


def _run(verb: str | None, given: list[str], typed: Mapping[str, str]) -> None:
    """Compose, check and run the overrides given to a Hydra verb, or to no verb.

    Args:
        verb: the verb.
        given: its overrides and flags.
        typed: by setting, the other name by which it was typed.
    """
    sweep = begin_sweep()
    _register()
    whole = [verb, *given] if verb else given
    released, corrected = released_flag_problems(given, verb)
    folders, given, problems = split_folders(given)
    if problems := [*problems, *released, *folder_problems(folders)]:
        refuse(problems, corrected)
    use_own_folders(folders)
    asks_for_help = any(argument in HELP_FLAGS for argument in given) or (not given and verb is None)
    arguments = [*given, *(VERBS[verb].overrides if verb and not asks_for_help else ())]
    if SEARCH in arguments and not any(argument in MULTIRUN_FLAGS for argument in arguments):
        arguments.append(MULTIRUN_FLAGS[0])  # Hydra cannot tell from a sweeper of a command line that it is one
    # argparse takes overrides on one side of a flag only; people write them on both.
    arguments = sorted(arguments, key=lambda argument: argument not in MULTIRUN_FLAGS)
    try:
        root, arguments = split_root(arguments, verb and VERBS[verb].config)
    except RootError as error:
        refuse([str(error)])
    sys.argv[1:] = arguments
    overrides = get_args_parser().parse_args(arguments).overrides
    runs = not asks_for_help and all(argument in MULTIRUN_FLAGS for argument in arguments if argument.startswith("-"))
    planned = runs and root is None and wants_plan(overrides)
    with composing():
        if overrides or runs:  # a page of help alone has nothing that could be wrong
            corrections: dict[str, str] = {}
            multirun = planned or not runs or any(argument in MULTIRUN_FLAGS for argument in arguments)
            checked = override_problems(
                overrides, jobs_too=runs and not planned, root=root, multirun=multirun, corrections=corrections
            )
            if checked:
                refuse(as_typed(checked, typed), corrected_command(whole, corrections))
        if asks_for_help:
            print(help_page(root or CONFIG_NAME, "plan" if verb == "plan" else None))
            return
        if runs and root is not None and wants_plan(overrides):
            show_checkpoint_plan(overrides, root, multirun=multirun)
            return
        if planned:
            try:
                is_complete = show_plan(overrides)
            except (HydraException, OmegaConfBaseException) as error:
                refuse([first_line(error)])
            sys.exit(0 if is_complete else EXIT_CONFIGURATION)
        told = runs and (root is None or any(argument in MULTIRUN_FLAGS for argument in arguments))
        output = output_folder(overrides, root) if told else None
        if output is not None and root is None and (problem := write_problem(output)) is not None:
            refuse([named_setting(problem, output, {"paths.output_dir": output})])
    try:
        _hydra_command(root or CONFIG_NAME)()
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning makes an exit of an interrupt that comes while it trains or tests.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        print(
            "\nInterrupted. Nothing is half-written; the same command resumes where this one stopped.", file=sys.stderr
        )
        sys.exit(EXIT_INTERRUPTED)
    finally:
        if output is not None:
            (summarise if root is None else summarise_checkpoints)(output / SWEEPS_FOLDER / sweep)


def _register() -> None:
    """Make known to Hydra and OmegaConf what the configuration refers to."""
    try:
        register_plugin_options(reserved=METHODS)
    except PluginError as error:
        refuse([str(error)])
    register_resolvers()
    register_launchers()


def _hydra_command(config: str) -> Callable[[], Any]:
    """Hydra's command for a root configuration."""
    decorated = hydra.main(version_base="1.3", config_path=str(configuration_root() / "conf"), config_name=config)
    return cast(Callable[[], Any], decorated(job if config == CONFIG_NAME else root_job))


def refuse(problems: Sequence[str], corrected: str | None = None) -> NoReturn:
    """Say what is wrong with the command line, and end with the status of a wrong configuration.

    Args:
        problems: one message each.
        corrected: the command as it should be, to copy.
    """
    shown = together(problems)
    print(f"{counted(len(shown), 'thing')} to correct:", file=sys.stderr)
    for problem in shown:
        print(f"  - {problem}", file=sys.stderr)
    if corrected is not None:
        print(f"The command so corrected:\n{corrected}", file=sys.stderr)
    sys.exit(EXIT_CONFIGURATION)


if __name__ == "__main__":
    main()
