"""Checks whether a checkpoint's fine-tuned head can initialise training on another task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.hub import cached_folder
from regmean_lab.models.pretrained import NEW_HEAD_ADVICE, Checkpoint, head_parameters
from regmean_lab.models.shapes import FORMS, described, shape_of
from regmean_lab.suites.base import Task
from regmean_lab.utils.names import unwrapped

SHOWN_LABELS = 8


@dataclass(frozen=True)
class StartingHead:
    """A checkpoint's own head beside the one that a task needs.

    Attributes:
        sizes: of each parameter that has another size: its name, its size and the one that is needed.
        labels: what the checkpoint's labels are called; empty if it does not say.
    """

    sizes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    labels: tuple[str, ...] = ()


def head_problems(checkpoint: Checkpoint, tasks: Mapping[str, Task]) -> list[str]:
    """A message for each kind of head that a checkpoint has in another size than members' tasks need.

    Args:
        checkpoint: what members start from.
        tasks: of each member.
    """
    if checkpoint.new_head:
        return []
    members: dict[Task, list[str]] = {}
    for member, task in tasks.items():
        members.setdefault(task, []).append(member)
    found = []
    for task, names in members.items():
        try:
            head = _starting_head(checkpoint, task)
        except (OSError, ValueError, KeyError, AttributeError) as error:  # what transformers raises for config.json
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return [f"model.checkpoint: the configuration of {checkpoint.source} cannot be used ({reason[:300]})"]
        if head is not None and head.sizes:
            sizes = ", ".join(
                f"{name} {_size(own)} where {_size(needed)} is needed" for name, own, needed in head.sizes
            )
            own = f" (its labels: {_labels(head.labels)})" if head.labels else ""
            found.append(
                f"model.checkpoint: {checkpoint.source} has a head of another size{own}: {sizes} for the "
                f"{len(task.labels)} labels of {', '.join(names)}. {NEW_HEAD_ADVICE}"
            )
    return found


def head_note(checkpoint: Checkpoint, task: Task) -> str | None:
    """What a user should know of a head that fits by its size, but was trained for labels of other names or order."""
    head = None if checkpoint.new_head else _starting_head(checkpoint, task)
    if head is None or head.sizes or not head.labels or head.labels == task.labels:
        return None
    order = " in another order" if sorted(head.labels) == sorted(task.labels) else ""
    return (
        f"training begins with the head of {checkpoint.source}, which was trained for other labels{order}: "
        f"{_labels(head.labels)}; row by row they become {_labels(task.labels)}. {NEW_HEAD_ADVICE}"
    )


@lru_cache(maxsize=64)
def _starting_head(checkpoint: Checkpoint, task: Task) -> StartingHead | None:
    """None where the task has no head of its own, or the checkpoint none."""
    form = FORMS[task.kind]
    if form not in ("sequence", "tokens"):
        return None
    model = shape_of(checkpoint, form, task)
    assert model is not None
    needed = {name: tuple(model.state_dict()[name].shape) for name in head_parameters(model)}
    own = described(checkpoint)
    stored = _stored_sizes(checkpoint)
    if stored is None:
        # Its weights are not here yet, so its configuration must do.
        as_saved = shape_of(checkpoint, form)
        if own.classes[:1] != (type(model).__name__,) or as_saved is None:
            return None
        stored = {name: tuple(tensor.shape) for name, tensor in as_saved.state_dict().items()}
    sizes = [(name, stored[name], size) for name, size in needed.items() if stored.get(name, size) != size]
    if not set(needed) & set(stored):
        return None
    return StartingHead(tuple(sizes), _own_labels(own.labels))


def _stored_sizes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]] | None:
    """Sizes of the checkpoint's tensors by name; None if its weights are not on this machine."""
    folder: Path | None = Path(checkpoint.location)
    if checkpoint.revision is not None and checkpoint.folder is None:
        folder = cached_folder(checkpoint.source, checkpoint.weights_revision or checkpoint.revision)
    if folder is None:
        return None
    try:
        tensors = stored_tensors(folder)
    except CheckpointError:
        return None
    return {unwrapped(name): tensor.shape for name, tensor in tensors.items()}


def _own_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels of a checkpoint that have names of their own."""
    return () if labels == tuple(f"LABEL_{number}" for number in range(len(labels))) else labels


def _labels(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    return ", ".join(labels[:SHOWN_LABELS]) + more


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "1"
