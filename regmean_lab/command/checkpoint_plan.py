"""``plan=true`` of the verbs for user-supplied checkpoints: what they would do, job by job, before anything is done."""

from __future__ import annotations

from collections.abc import Sequence

from regmean_lab.config.checkpoint_commands import planned_module
from regmean_lab.config.grids import Composer, composing, grids_of, jobs_of


def show_checkpoint_plan(arguments: Sequence[str], root: str, *, multirun: bool) -> None:
    """Print what a command line without problems would do.

    Args:
        arguments: its overrides.
        root: the experiment with a root configuration of its own.
        multirun: whether the command line says ``-m``.
    """
    module = planned_module(root)
    with composing():
        composer = Composer(root)
        for job in jobs_of(grids_of(arguments, root, multirun=multirun)):
            print("\n".join(module.plan(composer.compose(job))))
    print("Nothing was done.")
