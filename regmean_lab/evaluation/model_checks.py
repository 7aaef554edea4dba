"""What is checked of a pretrained model before members are made of it: that it does for their tasks."""

from __future__ import annotations

from regmean_lab.config.schema import Settings
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.member_text import ReadsText
from regmean_lab.merging.partial import unmatched_layers
from regmean_lab.merging.parts import missing_blocks
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.models.shapes import CLASSES, FORMS, bare_shape, shape_of
from regmean_lab.models.task_models import task_model
from regmean_lab.suites.base import Task
from regmean_lab.training.lora import lora_problems
from regmean_lab.training.starting_heads import head_problems


def model_problems(settings: Settings, checkpoint: Checkpoint) -> list[str]:
    """Why a model does not do for a job: one message each, beginning with the setting's name."""
    config = settings.config
    tasks = {member: settings.suite.task(member) for member in settings.members}
    first = tasks[settings.members[0]]
    found = task_model(first).model_problems(checkpoint, first)
    trained = {member: task for member, task in tasks.items() if member not in settings.checkpoints}
    found += head_problems(checkpoint, trained)
    found += lora_problems(config.training.lora, checkpoint, list(trained.values()))
    if parts := getattr(settings.method, "parts", None):
        found += [
            f"method.{problem}"
            for problem in missing_blocks(parts, [name for name, _ in bare_shape(checkpoint).named_parameters()])
        ]
    if isinstance(settings.method, ReadsText) and FORMS[first.kind] in CLASSES:
        found += [f"method.{problem}" for problem in settings.method.reading_problems()]
    # Of a model that does not do nothing else can be told.
    return found or _layer_problems(settings, checkpoint, first)


def _layer_problems(settings: Settings, checkpoint: Checkpoint, task: Task) -> list[str]:
    """Patterns of layers that match nothing in a classifier or tagger, which would be told after all training."""
    method = settings.method
    if not isinstance(method, MergeMethod) or not any(method.partial_layers.values()):
        return []
    form = FORMS[task.kind]
    shape = shape_of(checkpoint, form, task) if form in CLASSES else None
    if shape is None:
        return []
    return unmatched_layers(method.partial_layers, [name for name, _ in shape.named_parameters()])
