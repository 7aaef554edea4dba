"""What is checked of a pretrained model before members are made of it: that it does for their tasks."""

from __future__ import annotations

from regmean_lab.config.schema import Settings
from regmean_lab.merging import MergeMethod, layout_of
from regmean_lab.merging.base import unmatched_linear
from regmean_lab.merging.partial import unmatched_layers
from regmean_lab.merging.parts import missing_blocks
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.models.shapes import FORMS, bare_shape, shape_of
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
    return found + _layer_problems(settings, checkpoint, first)


def _layer_problems(settings: Settings, checkpoint: Checkpoint, task: Task) -> list[str]:
    """Patterns of layers that match nothing in the model, which would be told after all training."""
    method = settings.method
    if not isinstance(method, MergeMethod):
        return []
    excluded: list[str] = getattr(method, "exclude_layers", [])
    if not (excluded or any(method.partial_layers.values())):
        return []
    shape = shape_of(checkpoint, FORMS[task.kind], task)
    if shape is None:
        return []
    found = unmatched_layers(method.partial_layers, [name for name, _ in shape.named_parameters()])
    if lost := unmatched_linear(excluded, layout_of(shape)):
        found.append(f"method.exclude_layers: no linear layer matches {', '.join(lost)}")
    return found
