"""The command ``python -m regmean_lab.dashboard``: saves a view of a W&B project that shows its merges.

It needs an account, the network and the package wandb-workspaces (the extra ``dashboard``). Runs that were logged
offline show in it once ``wandb sync`` has sent them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from regmean_lab.config.groups import LoggerConfig
from regmean_lab.tracking.names import DEV_SCORE, DIAGNOSTICS_TABLE, REPORT_PAGE, SCORES_TABLE

PROGRAM = "python -m regmean_lab.dashboard"
EXIT_FAILED, EXIT_WRONG = 1, 2
VIEW_NAME = "Merges"
MEANS = ("mean_in_domain", "mean_out_of_domain")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: those of the command line unless given.

    Returns:
        The exit code: 0, 1 when W&B refuses the view or cannot be reached, 2 when the package is missing.
    """
    parser = argparse.ArgumentParser(PROGRAM, description="Saves a view of a W&B project that shows its merges.")
    parser.add_argument("--entity", required=True, help="user or team that the project belongs to")
    parser.add_argument("--project", default=LoggerConfig().project, help="default: %(default)s, as of logger.project")
    parser.add_argument("--name", default=VIEW_NAME, help="what the view is called; default: %(default)s")
    given = parser.parse_args(arguments)
    if find_spec("wandb_workspaces") is None:
        print('it needs the package wandb-workspaces; pip install "regmean-lab[dashboard]"', file=sys.stderr)
        return EXIT_WRONG
    try:
        view = workspace(given.entity, given.project, given.name)
        view.save()
    except Exception as error:  # the client has no error of its own: whatever W&B or the network answers
        print(f"the view could not be saved: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(f"View: {view.url}")
    return 0


def workspace(entity: str, project: str, name: str) -> Any:
    """The view, not saved yet: a ``wandb_workspaces.workspaces.Workspace``.

    Runs are grouped by sweep and by job type. Sections show mean scores by method, in domain against out of domain,
    the tables of each run, how training went, and the pages of sweeps' reports.
    """
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    by_method = panels.Config("method.name")
    scores = [
        panels.BarPlot(
            title=mean.replace("_", " "),
            metrics=[panels.SummaryMetric(mean)],
            groupby=by_method,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for mean in MEANS
    ]
    against = panels.ScatterPlot(
        title="in domain against out of domain",
        x=panels.SummaryMetric(MEANS[0]),
        y=panels.SummaryMetric(MEANS[1]),
    )
    tables = [panels.WeavePanelSummaryTable(table_name=f"table/{name}") for name in (SCORES_TABLE, DIAGNOSTICS_TABLE)]
    training = [panels.LinePlot(title=metric, y=[metric]) for metric in ("train/loss", DEV_SCORE)]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(name="Scores", panels=[*scores, against], is_open=True),
            workspaces.Section(name="Tables of a run", panels=[*tables], is_open=True),
            workspaces.Section(name="Training of members", panels=[*training]),
            workspaces.Section(name="Reports of sweeps", panels=[panels.MediaBrowser(media_keys=[REPORT_PAGE])]),
        ],
        runset_settings=workspaces.RunsetSettings(
            groupby=[workspaces.Metric("Group"), workspaces.Metric("JobType")],
            order=[workspaces.Ordering(workspaces.Summary(MEANS[0]), ascending=False)],
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
