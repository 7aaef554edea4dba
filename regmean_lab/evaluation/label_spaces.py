"""Checks that members and evaluation corpora share the labels that a method needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from regmean_lab.config.baselines import Individual
from regmean_lab.config.schema import Settings
from regmean_lab.merging import MergeMethod
from regmean_lab.models.pretrained import Checkpoint, head_parameters
from regmean_lab.suites.base import IGNORED, Suite, Task
from regmean_lab.suites.evaluations import Evaluation


def same_labels(one: Task, other: Task) -> bool:
    """Whether a model of one task makes predictions for the other."""
    return (one.kind, one.labels) == (other.kind, other.labels)


def answerable(suite: Suite, evaluations: Sequence[Evaluation], member: str) -> list[int]:
    """Numbers of the evaluations whose labels a member predicts."""
    task = suite.task(member)
    return [number for number, evaluation in enumerate(evaluations) if same_labels(evaluation.task, task)]


def own_and_outside(suite: Suite, evaluations: Sequence[Evaluation], member: str) -> list[int]:
    """Of these, a member's own and those out of domain."""
    return [
        number
        for number in answerable(suite, evaluations, member)
        if evaluations[number].domain == "out" or evaluations[number].corpus == member
    ]


def known_labels(suite: Suite, members: Sequence[str]) -> tuple[bool, ...] | None:
    """For each label of a multi-label task, whether the training data of any of some members annotates it.

    None for tasks of other kinds: a class has no output of its own that could stay untrained, and questions in words
    can be asked about any label.
    """
    if suite.task(members[0]).kind != "multi_label":
        return None
    return tuple(map(any, zip(*(suite.annotated_labels(member) for member in members), strict=True)))


def annotated_by(suite: Suite, members: Sequence[str], task: Task) -> list[Sequence[bool]] | None:
    """For each member and label, whether its training data annotate the label; None where a task leaves none open."""
    partly = task.kind in ("multi_label", "answers")
    return [suite.annotated_labels(member) for member in members] if partly else None


def unknown_labels(suite: Suite, members: Sequence[str], evaluations: Sequence[Evaluation]) -> dict[str, list[str]]:
    """By name of an evaluation, the labels that its data annotates and that no member was trained on, if any."""
    known = known_labels(suite, members)
    if known is None:
        return {}
    found = {}
    for evaluation in evaluations:
        names = [
            name
            for name, is_known, values in zip(evaluation.task.labels, known, _columns(evaluation), strict=True)
            if not is_known and any(value != IGNORED for value in values)
        ]
        if names:
            found[evaluation.name] = names
    return found


def _columns(evaluation: Evaluation) -> Iterable[tuple[int, ...]]:
    """For each label, its values in all examples."""
    return zip(*(cast(tuple[int, ...], example.label) for example in evaluation.examples), strict=True)


def label_differences(settings: Settings, checkpoint: Checkpoint) -> list[str]:
    """Why members do not go together, or not with what they are evaluated on; empty if they do.

    Members' labels may differ where no head is made of theirs: where the suite or the method lets each keep its own.

    Args:
        settings: the configuration.
        checkpoint: the pretrained model, whose head's parameters are looked up where labels differ.
    """
    suite, method = settings.suite, settings.method
    tasks = {member: suite.task(member) for member in settings.members}
    found = [
        f"suite: {corpus} is evaluated out of domain, but no member predicts its labels: {_labels(suite.task(corpus))}"
        for corpus in suite.out_of_domain(settings.members)
        if not any(same_labels(suite.task(corpus), task) for task in tasks.values())
    ]
    first = settings.members[0]
    others = [member for member, task in tasks.items() if not same_labels(task, tasks[first])]
    if others and settings.config.order == "greedy":
        found.append("order: greedy compares members by their scores, but they predict different labels")
    if not others or suite.own_heads or isinstance(method, Individual):
        return found
    reason = f"method {method.name} needs members with the same labels"
    if isinstance(method, MergeMethod):
        heads = _merged_head(checkpoint, tasks[first], method)
        if not heads:
            return found
        modules = ",".join(dict.fromkeys(name.partition(".")[0] for name in heads))
        reason = f"their heads cannot be merged; with method.keep_layers=[{modules}] every member keeps its own"
    return found + [
        f"members: {member} predicts {_labels(tasks[member])}; {first} {_labels(tasks[first])}: {reason}"
        for member in others
    ]


def _merged_head(checkpoint: Checkpoint, task: Task, method: MergeMethod) -> list[str]:
    """Parameters of a task's head that a method would merge."""
    from regmean_lab.models.task_models import task_model  # transformers; with the same labels, no head is looked at

    model = task_model(task).new_model(checkpoint, task)
    kept = method.kept(model.state_dict())
    return [] if method.keep_top else [name for name in head_parameters(model) if name not in kept]


def _labels(task: Task) -> str:
    return f"{task.kind} of {', '.join(task.labels)}"
