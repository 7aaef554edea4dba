"""Forward hooks on several modules, for as long as a ``with`` block lasts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]
"""Gets the module, the arguments and keywords of its call, and the output; what it returns replaces the output."""


class ForwardHooks(ABC):
    """A context manager that puts hooks on modules; subclasses say which."""

    def __init__(self) -> None:
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    @abstractmethod
    def _hooks(self) -> Iterable[tuple[nn.Module, Hook]]:
        """The modules, and the hook of each."""

    def __enter__(self) -> Self:
        """Put the hooks on the modules."""
        for module, hook in self._hooks():
            # First of the module's hooks, so that it sees what the module itself computed.
            self._handles.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
