"""Forward passes that stop at every linear layer, so that many of them can go through a model side by side.

A method that replaces one layer after the other, each by what the inputs say that it gets through the layers replaced
before, would have to run the model again for every layer. A pass that waits in front of the layer meanwhile runs once,
whatever the architecture; what is kept of it is what the model itself keeps at that point.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from regmean_lab.merging.parameters import MergeError
from regmean_lab.statistics import RowSelection

_RUNNING = threading.local()


class _Abandoned(BaseException):
    """Ends a forward pass that nobody waits for any more; no ``Exception``, so that no model catches it."""


class ForwardPass:
    """A forward pass that stops in front of linear layers, each time until it is resumed.

    It runs in a separate thread, without gradients, under the autocast of the thread that made it; only one of the
    two threads runs at a time. It stops where a layer is called for the first time with rows that count
    (:class:`~regmean_lab.statistics.RowSelection`), inside :func:`stopping_at` for the model that it runs.

    Args:
        run: runs the model.
        selection: which rows of the layers' inputs count.
        device: where the model is.

    Attributes:
        layer: the layer in front of which it stands; None before it began, and when it has ended.
    """

    def __init__(self, run: Callable[[], object], selection: RowSelection, device: torch.device) -> None:
        self.layer: str | None = None
        self._run = run
        self._selection = selection
        self._inputs: Tensor | None = None
        self._reached: set[str] = set()
        self._go_on, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._abandoned = self._ended = False
        self._device = device.type
        self._autocast = (torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))
        self._thread = threading.Thread(target=self._work, daemon=True)

    def advance(self) -> None:
        """Go on to the next stop, or to the end.

        Raises:
            MergeError: when the system starts no more threads.
            Exception: what the model raised.
        """
        if self._thread.ident is None:
            try:
                self._thread.start()
            except RuntimeError as error:
                raise MergeError(f"{error}: too many batches at once; read fewer examples, or larger batches") from None
        if not self._ended:
            self._go_on.release()
            self._stopped.acquire()
        if self._error is not None:
            raised, self._error = self._error, None
            raise raised

    def rows(self) -> Tensor:
        """The rows ``[rows, in]`` that count of the input of the layer in front of which it stands."""
        assert self.layer is not None and self._inputs is not None
        return self._selection.select(self._inputs, self._selection.mask_of(self.layer, self._inputs))

    def close(self) -> None:
        """End it wherever it stands."""
        self._abandoned = True
        if self._thread.ident is not None:
            self._go_on.release()
            self._thread.join()

    def reach(self, layer: str, inputs: Tensor) -> None:
        """Stop in front of a layer, if its input counts and it is called for the first time; in the pass's thread."""
        if layer in self._reached or not self._selection.counts(inputs, self._selection.mask_of(layer, inputs)):
            return
        self._reached.add(layer)
        self.layer, self._inputs = layer, inputs
        self._wait()
        self.layer = self._inputs = None

    def _wait(self) -> None:
        self._stopped.release()
        self._go_on.acquire()
        if self._abandoned:
            raise _Abandoned

    def _work(self) -> None:
        self._go_on.acquire()
        _RUNNING.forward_pass = self
        enabled, dtype = self._autocast
        try:
            if not self._abandoned:
                # Weights are exchanged while the pass stands still, so that none may be kept in another precision.
                with torch.no_grad(), torch.autocast(self._device, dtype, enabled=enabled, cache_enabled=False):
                    self._run()
        except _Abandoned:
            pass
        except BaseException as error:  # raised again where the pass is waited for
            self._error = error
        finally:
            self.layer = self._inputs = None
            self._ended = True
            self._stopped.release()


@contextmanager
def stopping_at(model: nn.Module, layers: Collection[str]) -> Iterator[None]:
    """Make forward passes stop in front of these modules of ``model``; other runs of the model are left alone."""
    handles = [model.get_submodule(name).register_forward_pre_hook(_stop(name), with_kwargs=True) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stop(layer: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        forward_pass: ForwardPass | None = getattr(_RUNNING, "forward_pass", None)
        if forward_pass is not None:
            forward_pass.reach(layer, args[0] if args else next(iter(kwargs.values())))

    return hook
