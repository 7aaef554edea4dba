"""Forward passes of a model one block after the other: all batches go through a block before the next one is needed.

A block is a member of one of the model's outermost lists of modules (``nn.ModuleList``): a layer of a transformer. The
model's own forward pass is run for every block and batch, with blocks whose turn is over giving what they gave before,
up to the end of the block whose turn it is. So what a model does before, between and after its blocks (embeddings,
masks, positions, a mask for every second block) is done by the model itself, and no architecture is written again.

Only the last block of a list gives what it gave. Those before it give NaN: where something reads more of earlier blocks
than what the last one made of it, the NaN reach a block, and the model is refused in place of being measured wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Batch
from .errors import StatisticsError, name_list
from .held_outputs import HeldOutputs, map_tensors
from .layers import is_linear

WHOLE = "collect from the whole model instead (blocks=false)"
"""What to do about a model that cannot be run block by block."""


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a model by name, in the order of ``model.named_modules()``; a list of linear layers is of none."""
    found: dict[str, nn.Module] = {}

    def visit(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            below = f"{path}{name}"
            if isinstance(child, nn.ModuleList) and not any(map(is_linear, child)):
                found.update((f"{below}.{number}", block) for number, block in child.named_children())
            else:
                visit(child, f"{below}.")

    visit(model, "")
    return found


class _Stopped(BaseException):
    """Ends a forward pass; no ``Exception``, so that no model catches it."""


@dataclass
class _Pass:
    """One forward pass.

    Attributes:
        index: the number of its batch.
        block: the block that is run in it; None to find the next one.
        called: the blocks that were called.
        held: by list of blocks, what its last block gave; read when it is needed.
        reached: the block at which it was stopped.
        output: what the block gave.
        inside: whether the block is running.
    """

    index: int
    block: str | None
    called: set[str] = field(default_factory=set)
    held: dict[str, Any] = field(default_factory=dict)
    reached: str | None = None
    output: Any = None
    inside: bool = False


class BlockPasses:
    """Runs a model block by block; use it in a ``with`` statement, which gives the model its blocks back.

    ::

        with BlockPasses(model, forward, held, device) as passes:
            while (block := passes.next_block(batches[0])) is not None:
                for index, batch in enumerate(batches):
                    passes.run(block, index, batch)
                passes.finish(block)
            for index, batch in enumerate(batches):
                passes.run(None, index, batch)  # what is not in blocks

    Args:
        model: the model, in evaluation mode. Parameters of a block are needed while it runs, all others all the time.
        forward: runs the model on a batch.
        held: takes what blocks give.
        device: where the model runs.

    Raises:
        StatisticsError: for a model without blocks, or whose blocks share modules with parameters.
    """

    def __init__(
        self, model: nn.Module, forward: Callable[[Batch], object], held: HeldOutputs, device: torch.device
    ) -> None:
        self.blocks = find_blocks(model)
        self._model = model
        self._forward = forward
        self._held = held
        self._device = device
        self._last: dict[str, str] = {}
        self._done: list[str] = []
        self._own: dict[str, Any] = {}
        self._pass: _Pass | None = None
        if not self.blocks:
            raise StatisticsError(f"{type(model).__name__} has no list of blocks that could run one by one: {WHOLE}")
        owners: dict[int, str] = {}
        for name, block in self.blocks.items():
            for part in block.modules():
                if next(part.parameters(recurse=False), None) is None:
                    continue  # an activation, which measures nothing
                if (other := owners.setdefault(id(part), name)) != name:
                    raise StatisticsError(
                        f"the blocks '{other}' and '{name}' of {type(model).__name__} share a {type(part).__name__}, "
                        f"so that they cannot be run one by one: {WHOLE}"
                    )

    def __enter__(self) -> BlockPasses:
        """Take over the blocks' calls."""
        for name, block in self.blocks.items():
            self._own[name] = block.__dict__.get("forward")
            block.forward = self._replaced(name, block.forward)
        return self

    def __exit__(self, *exception: object) -> None:
        """Give the blocks their calls back."""
        for name, block in self.blocks.items():
            del block.forward  # the module's own attribute, behind which its class's method is again
            if (own := self._own.pop(name)) is not None:
                block.forward = own

    @property
    def left(self) -> list[str]:
        """The blocks that have not been run."""
        return [name for name in self.blocks if name not in self._done]

    def next_block(self, batch: Batch) -> str | None:
        """The block that the model calls after those that are finished; None after the last one.

        Args:
            batch: the first batch.

        Raises:
            StatisticsError: if the model cannot be run block by block.
        """
        return self._through(_Pass(0, None), batch).reached

    def run(self, block: str | None, index: int, batch: Batch) -> None:
        """Run a block on a batch, and hold what it gives; for None, run what is not in blocks.

        Args:
            block: the block.
            index: the batch's number.
            batch: the batch, on the device.
        """
        done = self._through(_Pass(index, block), batch)
        if done.reached != block:
            raise StatisticsError(
                f"{type(self._model).__name__} calls '{done.reached}' for batch {index + 1} where it calls '{block}' "
                f"for the first one, so that its blocks cannot be run one by one: {WHOLE}"
            )
        if block is None:
            return
        try:
            self._held.put((_list_of(block), index), done.output)
        except StatisticsError as error:
            if not str(error).startswith("a "):
                raise
            raise StatisticsError(
                f"'{block}' ({type(self.blocks[block]).__name__}) gives {error}, so that it cannot be held: {WHOLE}"
            ) from None

    def finish(self, block: str) -> None:
        """All batches went through a block."""
        self._done.append(block)
        self._last[_list_of(block)] = block

    @contextmanager
    def watching(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Raise where one of these modules, which are in no block, is called by a block, or between two of them."""

        def check(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            here = self._pass
            if here is None:
                return
            if here.inside:
                raise StatisticsError(
                    f"'{here.block}' calls '{name}', which is in no block, so that blocks cannot be run one by one: "
                    f"{WHOLE}"
                )
            if here.index == 0:
                self._check_inputs(name, (args, kwargs), here)

        handles = [
            module.register_forward_pre_hook(partial(check, name), with_kwargs=True) for name, module in modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _through(self, started: _Pass, batch: Batch) -> _Pass:
        """Run the model on a batch until the pass is stopped, or to its end."""
        self._pass = started
        try:
            self._forward(batch)
        except _Stopped:
            pass
        finally:
            self._pass = None
            started.held.clear()
        return started

    def _replaced(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            here = self._pass
            if here is None:
                return original(*args, **kwargs)
            if name in here.called or here.inside:
                how = f"inside '{here.block}'" if here.inside else "more than once in a forward pass"
                raise StatisticsError(
                    f"{type(self._model).__name__} calls '{name}' {how}, so that its blocks cannot be run one by one: "
                    f"{WHOLE}"
                )
            here.called.add(name)
            if name in self._done:
                return self._given(name, here)
            here.reached = name
            if here.block == name:
                here.inside = True
                here.output = original(*args, **kwargs)
                here.inside = False
            elif here.block is None:
                self._check_inputs(name, (args, kwargs), here)
            raise _Stopped

        return forward

    def _given(self, name: str, here: _Pass) -> Any:
        """What a block gave when it had its turn, or NaN in its place if it is not the last one of its list."""
        stack = _list_of(name)
        if stack not in here.held:
            here.held[stack] = self._held.get((stack, here.index), self._device)
        given = here.held[stack]
        return given if self._last[stack] == name else map_tensors(given, _nothing)

    def _check_inputs(self, name: str, inputs: Any, here: _Pass) -> None:
        """Raise if NaN reach a block, or a module between blocks, that the last blocks do not give."""
        if not _has_nan(inputs) or any(_has_nan(given) for given in here.held.values()):
            return
        raise StatisticsError(
            f"'{name}' of {type(self._model).__name__} reads more of the blocks before it ({name_list(self._done)}) "
            f"than what the last one gives, so that blocks cannot be run one by one: {WHOLE}"
        )


def _list_of(block: str) -> str:
    """The list of modules that a block is a member of."""
    return block.rpartition(".")[0]


def _nothing(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor


def _has_nan(value: Any) -> bool:
    """Whether there is NaN in a value's tensors; of what is no tensor it is not asked."""
    if isinstance(value, Tensor):
        return value.is_floating_point() and bool(value.isnan().any())
    if isinstance(value, list | tuple):
        return any(map(_has_nan, value))
    return isinstance(value, dict) and any(map(_has_nan, value.values()))
