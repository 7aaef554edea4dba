"""The command ``python -m regmean_lab``: compose, check, run, exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser

from regmean_lab.command.overrides import output_folder, override_problems
from regmean_lab.command.plan import show_plan, wants_plan
from regmean_lab.command.quoting import corrected_command
from regmean_lab.config.grids import CONFIG_NAME
from regmean_lab.config.locations import configuration_root, register_sweeps
from regmean_lab.config.resolvers import register_resolvers
from regmean_lab.config.roots import RootError, register_root, split_root
from regmean_lab.config.schema import register_schemas
from regmean_lab.sweeps.launchers import register_launchers
from regmean_lab.sweeps.summary import SWEEPS_FOLDER, summarise
from regmean_lab.sweeps.task_function import job, root_job
from regmean_lab.tracking.sweep_name import begin_sweep

EXIT_CONFIGURATION, EXIT_INTERRUPTED = 2, 130
MULTIRUN_FLAGS = ("-m", "--multirun")


def main() -> None:
    """Entry point of ``python -m regmean_lab`` and of the script ``regmean-lab``."""
    register_schemas()
    register_resolvers()
    register_sweeps()
    register_launchers()
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    given = sys.argv[1:]
    # argparse takes overrides on one side of a flag only; people write them on both.
    arguments = sorted(sys.argv[1:], key=lambda argument: argument not in MULTIRUN_FLAGS)
    sys.argv[1:] = arguments
    sweep = begin_sweep()
    try:
        root, arguments = split_root(arguments)
    except RootError as error:
        refuse([str(error)])
    if root is not None:
        register_root(root)
    sys.argv[1:] = arguments
    overrides = get_args_parser().parse_args(arguments).overrides
    runs = all(argument in MULTIRUN_FLAGS for argument in arguments if argument.startswith("-"))
    planned = runs and root is None and wants_plan(overrides)
    corrections: dict[str, str] = {}
    checked = override_problems(overrides, jobs_too=runs and not planned, root=root, corrections=corrections)
    if checked:
        refuse(checked, corrected_command(given, corrections))
    if planned:
        sys.exit(0 if show_plan(overrides) else EXIT_CONFIGURATION)
    output = output_folder(overrides) if runs and root is None else None
    command = hydra.main(
        version_base="1.3", config_path=str(configuration_root() / "conf"), config_name=root or CONFIG_NAME
    )(job if root is None else root_job)
    try:
        command()
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning makes an exit of an interrupt that comes while it trains or tests.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        print(
            "\nInterrupted. Nothing is half-written; the same command goes on where this one stopped.", file=sys.stderr
        )
        sys.exit(EXIT_INTERRUPTED)
    finally:
        if output is not None:
            summarise(output / SWEEPS_FOLDER / sweep)


def refuse(problems: Sequence[str], corrected: str | None = None) -> NoReturn:
    """Say what is wrong with the command line, and end with the status of a wrong configuration.

    Args:
        problems: one message each.
        corrected: the command as it should be, to copy.
    """
    print(f"{len(problems)} thing{'s' if len(problems) > 1 else ''} to correct:", file=sys.stderr)
    for problem in problems:
        print(f"  - {problem}", file=sys.stderr)
    if corrected is not None:
        print(f"The command so corrected:\n{corrected}", file=sys.stderr)
    sys.exit(EXIT_CONFIGURATION)


if __name__ == "__main__":
    main()
