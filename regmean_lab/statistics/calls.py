"""Records the calls of a model's modules, and checks that they account for every use of its parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from .forward_hooks import ForwardHooks, Hook
from .per_example import Parts, Rule, find_rule

KnownModule: TypeAlias = tuple[str, nn.Module, Rule]
"""A module's name, the module, and how its per-example gradients are found."""


def known_modules(model: nn.Module) -> list[KnownModule]:
    """The modules of ``model`` that have trainable parameters of their own and a rule for their gradients."""
    known: list[KnownModule] = []
    for name, module in model.named_modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            rule = find_rule(module)
            if rule is not None:
                known.append((name, module, rule))
    return known


@dataclass(frozen=True)
class Call:
    """One call of a module in a forward pass.

    Attributes:
        name: the module's name.
        module: the module.
        rule: how its per-example gradients are found.
        inputs: its input, detached.
        output: the place of its output in the autograd graph.
        size: the first dimension of its input, None if the input is a single row.
        repeated: whether the module was called once for all examples and its output repeated for each.
    """

    name: str
    module: nn.Module
    rule: Rule
    inputs: Tensor
    output: GradientEdge
    size: int | None
    repeated: bool

    def parts(self, gradient: Tensor, dtype: torch.dtype) -> Parts:
        """The parts of the parameters' per-example gradients, computed in ``dtype``.

        Args:
            gradient: the gradient at the output, the examples first.
            dtype: of the parts.
        """
        inputs = self.inputs.to(dtype) if self.inputs.is_floating_point() else self.inputs
        if self.repeated:
            inputs = inputs.expand(gradient.shape[0], *inputs.shape[1:])
        yield from (
            (parameter, part)
            for parameter, part in self.rule(self.module, inputs, gradient.to(dtype))
            if parameter.requires_grad
        )


class CallRecorder(ForwardHooks):
    """Records the calls of modules whose per-example gradients are known.

    A context manager; ``calls`` holds what was called inside the ``with`` block, in order. The recorder changes one
    thing in the forward pass: the output of an embedding that is looked up once for all examples, ``[1, …]`` (absolute
    positions), is repeated for each example, so that the gradients of the examples stay apart.

    Args:
        known: the modules to record, from `known_modules`.
        examples: number of examples in the batch.
    """

    def __init__(self, known: Sequence[KnownModule], examples: int) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._known = known
        self._examples = examples

    def _hooks(self) -> Iterable[tuple[nn.Module, Hook]]:
        return [(module, self._hook(name, rule)) for name, module, rule in self._known]

    def _hook(self, name: str, rule: Rule) -> Any:
        """A forward hook that records the calls of the module ``name``."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            if not output.requires_grad:
                return None
            inputs: Tensor = args[0] if args else next(iter(kwargs.values()))
            lookup = isinstance(module, nn.Embedding)
            size = inputs.shape[0] if inputs.dim() > (0 if lookup else 1) else None
            repeated = lookup and size == 1 and self._examples > 1
            if repeated:
                output = output.expand(self._examples, *output.shape[1:])
            edge = get_gradient_edge(output)
            self.calls.append(Call(name, module, rule, inputs.detach(), edge, size, repeated))
            return output if repeated else None

        return hook


def obstacles(model: nn.Module, logits: Tensor, calls: Sequence[Call], examples: int) -> list[str]:
    """What keeps the recorded calls from giving exact per-example gradients; empty if nothing does.

    Every use of a trainable parameter in the graph of ``logits`` must be a recorded call, and every call must have the
    examples in the first dimension of its input (or have been repeated for each example).
    """
    found = [
        f"the input of '{call.name}' does not have the examples in its first dimension"
        for call in calls
        if call.size != examples and not call.repeated
    ]
    recorded = Counter(id(parameter) for call in calls for parameter in call.module.parameters(recurse=False))
    uses = _parameter_uses(logits)
    found += [
        f"parameter '{name}' is used outside of modules whose per-example gradients are known"
        for name, parameter in model.named_parameters()
        if uses[id(parameter)] > recorded[id(parameter)]
    ]
    return list(dict.fromkeys(found))


def shape_obstacles(calls: Sequence[Call], single: Sequence[Call]) -> list[str]:
    """What only looks as if it had the examples first, found by comparison with the calls for a single example.

    The first dimension of an input may equal the number of examples by chance (a square matrix of relative positions);
    in the forward pass of one example it is then not 1.
    """
    if [call.name for call in calls] != [call.name for call in single]:
        return ["the model calls other modules for one example than for several"]
    return list(
        dict.fromkeys(
            f"the input of '{call.name}' does not have the examples in its first dimension"
            for call, alone in zip(calls, single, strict=True)
            if alone.size != 1
        )
    )


def _parameter_uses(output: Tensor) -> Counter[int]:
    """How often each parameter, by its ``id``, enters the autograd graph that ends in ``output``."""
    uses: Counter[int] = Counter()
    seen: set[Node] = set()
    waiting: list[Node] = [] if output.grad_fn is None else [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            if following is None:
                continue
            variable = getattr(following, "variable", None)
            if variable is None:
                waiting.append(following)
            else:
                uses[id(variable)] += 1
    return uses


def gradients_at(logits: Tensor, calls: Iterable[Call], factor: Tensor, *, keep_graph: bool) -> list[Tensor | None]:
    """The gradients at the outputs of ``calls`` for the gradient ``factor`` at ``logits``; None where there is none."""
    edges = [call.output for call in calls]
    return list(torch.autograd.grad(logits, edges, factor, retain_graph=keep_graph, allow_unused=True))
