"""What a sweep does before its jobs: train one member, or collect one kind of its statistics.

Hydra's launchers send jobs by their overrides. So a step travels as the overrides of a job that needs it, and the step
itself beside the sweeper's settings, ``hydra.sweeper.step``: no part of a job's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from regmean_lab.callbacks.requests import StatisticsRequest, requests_of
from regmean_lab.config.schema import Settings
from regmean_lab.merging import Layout, MergeMethod
from regmean_lab.merging.layout import layout_of
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.models.shapes import bare_shape

STEP_KEY = "hydra.sweeper.step"


@dataclass(frozen=True)
class Step:
    """One thing that jobs of a sweep share.

    Attributes:
        member: the model that is trained, or whose statistics are collected, as jobs call it.
        statistics: the kind of statistics; None to train the member.
    """

    member: str
    statistics: str | None = None

    @property
    def name(self) -> str:
        """The step in words."""
        return f"train {self.member}" if self.statistics is None else f"{self.statistics} statistics of {self.member}"

    def overrides(self, job: Sequence[str], job_folder: str) -> list[str]:
        """What a launcher is given to have the step done.

        Args:
            job: overrides of a job that needs it.
            job_folder: that job's folder below the output folder; the step writes its logs elsewhere.
        """
        content = f"member: {quoted(self.member)}"
        if self.statistics is not None:
            content += f", statistics: {quoted(self.statistics)}"
        return [*job, f"+{STEP_KEY}={{{content}}}", f"hydra.sweep.subdir={quoted(self.folder(job_folder))}"]

    def folder(self, job_folder: str) -> str:
        """Where the step writes its logs, below the output folder; ``job_folder`` is that of a job that needs it."""
        experiment, _, rest = job_folder.partition("/")
        return f"{experiment}/steps/{rest}/{self.statistics or 'train'}-{self.member}"


def step_of(sweeper: Mapping[str, Any]) -> Step | None:
    """The step that a launched job is, by its sweeper's settings; None of a job proper."""
    step = sweeper.get("step")
    return None if step is None else Step(**step)


def requests_for(settings: Settings, layout: Layout | None) -> list[StatisticsRequest]:
    """The statistics of each member that a job's method needs, of all layers, so that other jobs can use them too.

    Args:
        settings: the job's configuration.
        layout: the model's layout; None if the model is not here.
    """
    config, method = settings.config, settings.method
    if not isinstance(method, MergeMethod):
        return []
    experts = layout is not None and method.by_layer and method.reads_experts and bool(layout.stacked)
    return [
        replace(request, experts=experts) if request.about.of == "inputs" else request
        for request in requests_of(config.statistics, config.training, config.trainer)
        if request.kind in method.statistics
    ]


def empty_layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a model without its head, from its configuration alone."""
    return layout_of(bare_shape(checkpoint))


def quoted(text: str) -> str:
    """A text as Hydra's grammar has it in quotes; there are no backslashes in names."""
    return '"{}"'.format(text.replace('"', '\\"'))
