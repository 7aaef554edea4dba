"""The command ``python -m regmean_lab``: compose, check, run, exit code."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from regmean_lab.command.locations import configuration_root, register_sweeps
from regmean_lab.command.overrides import CONFIG_NAME, output_folder, override_problems
from regmean_lab.command.resolvers import register_resolvers
from regmean_lab.command.sweep import SWEEPS_FOLDER, JobRecord, record_job, summarise
from regmean_lab.command.sweep_name import begin_sweep
from regmean_lab.schema import register_schemas

EXIT_CONFIGURATION, EXIT_INTERRUPTED = 2, 130
MULTIRUN_FLAGS = ("-m", "--multirun")

NOT_SHOWN = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*lr_scheduler.step.*",
    ".*LeafSpec.*",
    ".*Experiment logs directory .* exists and is not empty.*",
)
"""Warnings of Lightning that no user of the command can do anything about."""

log = logging.getLogger(__name__)


class JobError(CompactHydraException):
    """A job that failed for a reason the message explains; Hydra prints it without a traceback."""


def job(config: DictConfig) -> float:
    """One job, as Hydra's launchers call it; returns the mean in-domain score."""
    from regmean_lab.errors import EXPECTED_ERRORS  # the libraries behind these take seconds to import
    from regmean_lab.experiment import run

    register_resolvers()
    quiet_libraries()
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    folder, output_dir = Path(hydra_config.runtime.output_dir), Path(config.paths.output_dir)
    number = hydra_config.job.num if hydra_config.mode == RunMode.MULTIRUN else 0
    try:
        result, computed = run(config, folder, overrides)
    except EXPECTED_ERRORS as error:
        record_job(output_dir, number, JobRecord(overrides, str(folder), str(error)))
        raise JobError(str(error)) from error
    except Exception as error:
        log.exception("the job failed")
        record_job(output_dir, number, JobRecord(overrides, str(folder), f"{type(error).__name__}: {error}"))
        raise
    record_job(output_dir, number, JobRecord(overrides, str(folder), None, computed))
    return result.mean_in_domain


def quiet_libraries() -> None:
    """Turn off what Lightning says about every run and what no user can change."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOT_SHOWN:
        warnings.filterwarnings("ignore", message)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    """Entry point of ``python -m regmean_lab`` and of the script ``regmean-lab``."""
    register_schemas()
    register_resolvers()
    register_sweeps()
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    # argparse takes overrides on one side of a flag only; people write them on both.
    arguments = sorted(sys.argv[1:], key=lambda argument: argument not in MULTIRUN_FLAGS)
    sys.argv[1:] = arguments
    overrides = get_args_parser().parse_args(arguments).overrides
    runs = all(argument in MULTIRUN_FLAGS for argument in arguments if argument.startswith("-"))
    if problems := override_problems(overrides, jobs_too=runs):
        print(f"{len(problems)} thing{'s' if len(problems) > 1 else ''} to correct:", file=sys.stderr)
        for problem in problems:
            print(f"  - {problem}", file=sys.stderr)
        sys.exit(EXIT_CONFIGURATION)
    output = output_folder(overrides) if runs else None
    sweep = begin_sweep()
    command = hydra.main(version_base="1.3", config_path=str(configuration_root() / "conf"), config_name=CONFIG_NAME)(
        job
    )
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


if __name__ == "__main__":
    main()
