"""What is asked of an adapter that is to be written, and why a model's changes cannot be one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from regmean_lab.checkpoints.architecture import Architecture
from regmean_lab.checkpoints.compatibility import Agreement, base_orders
from regmean_lab.checkpoints.lora.placement import Placement
from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.sentence_modules import MergedModules
from regmean_lab.checkpoints.settings import settings_problem
from regmean_lab.checkpoints.sources import Source
from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.parameters import TensorSettings
from regmean_lab.merging.residual import Residual
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.task_vectors import TaskVectorMethod
from regmean_lab.utils.names import abbreviated

SPACES = ("full", "core")
RESIDUAL_KEY = "method.followed_by.residual"


@dataclass(frozen=True)
class AdapterRequest:
    """An adapter that is to be written.

    Attributes:
        rank: the largest rank of a layer's factors.
        space: where adapters are merged: ``full`` weights, or the ``core`` space of their factors.
    """

    rank: int
    space: str = "full"


def rank_problems(key: str, rank: int, placement: Placement) -> tuple[list[str], list[str]]:
    """What is wrong with a rank for a model, and what a user should know of it.

    Args:
        key: the setting.
        rank: at least 1.
        placement: where the model's parameters lie in an adapter.
    """
    shapes = placement.architecture.shapes
    sides = {name: min(shapes[f"{name}.weight"]) for name in placement.layers}
    if not sides:
        return [f"{key}: {placement.architecture.name} has no linear layers that an adapter could change"], []
    widest = max(sides, key=lambda name: sides[name])
    if rank > sides[widest]:
        return [
            f"{key}: {rank} is larger than every linear layer (the smaller side of the largest, {widest}, is "
            f"{sides[widest]}); expected at most that, and for an adapter that is smaller than the model far less"
        ], []
    exact = [name for name, side in sides.items() if side <= rank]
    return [], [f"of full rank with {key}={rank}: {abbreviated(exact)}"] if exact else []


def base_problems(lead: Member, base: Member, own: Architecture) -> list[str]:
    """Why a model's changes cannot be an adapter to a base, which computes with its own settings and tokens.

    Args:
        lead: the model whose configuration and tokenizer the changed one has.
        base: the base's weights under the lead's names.
        own: the base's own architecture.
    """
    found = []
    if (problem := settings_problem(lead, replace(base, architecture=own), "drop")) is not None:
        found.append(f"base: {problem}")
    if base_orders(lead, base):
        found.append(
            f"base: its vocabulary is not that of {lead.name}, and an adapter has the tokens of its base; write the "
            "whole model instead"
        )
    return found


def core_problems(
    method: MergeMethod,
    sources: Sequence[Source],
    bases: Mapping[str, Source],
    base: Source | None,
) -> list[str]:
    """Why checkpoints cannot be merged in the core space of their factors.

    Args:
        method: how they are merged.
        sources: the checkpoints.
        bases: the bases of adapters that were found, by their names.
        base: the base of the merge.
    """
    found = []
    if whole := [source.name for source in sources if not source.is_adapter]:
        found.append(
            f"adapter.space: the core space is that of adapters' factors, and {', '.join(whole)} "
            f"{'is a whole model' if len(whole) == 1 else 'are whole models'}; expected full"
        )
    if base is not None and (
        others := [name for name, own in bases.items() if own.folder.resolve() != base.folder.resolve()]
    ):
        found.append(
            f"adapter.space: the adapters' changes must be of one base, and {', '.join(others)} is not made for "
            f"{base.reference}; expected full"
        )
    if method.followed_by:
        found.append("adapter.space: steps after a merge (method.followed_by) are for whole weights; expected full")
    if method.statistics or not isinstance(method, Simple | TaskVectorMethod):
        why = f"needs {', '.join(method.statistics)} of the layers" if method.statistics else "merges no task vectors"
        found.append(
            f"adapter.space: method {method.name} {why}, which cores do not have; expected full, or a method of task "
            "vectors such as simple, task_arithmetic, ties or tsv"
        )
    return found


def adapter_problems(
    adapter: AdapterRequest,
    method: MergeMethod,
    heads: str,
    agreement: Agreement,
    modules: MergedModules | None,
    settings: Callable[[str], TensorSettings] | None,
) -> list[str]:
    """Why a merge cannot be written as an adapter; what a user should know of it is added to the agreement's notes.

    Args:
        adapter: what was asked for.
        method: how is merged.
        heads: what becomes of the heads.
        agreement: how the checkpoints go together.
        modules: what follows the transformer, of models of sentence-transformers.
        settings: by a parameter's name, how it is merged where that is not as ``method`` says.
    """
    found = []
    if heads == "keep":
        found.append("heads: an adapter has no place for a head of each checkpoint; expected merge or drop")
    if modules is not None:
        found.append(
            "adapter.rank: an adapter does not hold the modules of sentence-transformers; heads=drop makes one of the "
            "transformers alone"
        )
    applied = [method, *(settings(name).applied(method) for name in agreement.names if settings is not None)]
    if adapter.space == "core" and method.name == "simple" and any(vars(one)["normalize"] is False for one in applied):
        # The base would count as often as the weights add up to.
        found.append("method.normalize: in core space weights add up to 1; expected true, or method=task_arithmetic")
    problems, notes = rank_problems(
        "adapter.rank", adapter.rank, Placement(agreement.lead.architecture, heads == "drop")
    )
    agreement.notes += notes
    return found + problems


def residual_problems(residual: Residual, placement: Placement, *, adapter: bool) -> tuple[list[str], list[str]]:
    """Why residuals cannot be written, and what a user should know of them.

    Args:
        residual: what was asked for.
        placement: where the merged model's parameters lie in an adapter.
        adapter: whether the merged model is written as an adapter itself.
    """
    if adapter:
        return [f"{RESIDUAL_KEY}: adapters to a whole model, and adapter.rank writes none; leave one of them out"], []
    return rank_problems(f"{RESIDUAL_KEY}.rank", residual.rank, placement)
