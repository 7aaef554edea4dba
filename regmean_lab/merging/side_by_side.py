"""Work in several threads, with results in order: next pieces are read and merged while the last ones are written."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

Result = TypeVar("Result")

WAITING = 2
"""Most results for each thread that are begun or done, and not asked for yet."""


class Run(Protocol):
    """Does tasks, and gives their results in order."""

    def __call__(self, tasks: Iterable[Callable[[], Result]], /) -> Iterator[Result]:
        """Do tasks; an error of one is raised where its result would be given."""


def one_by_one(tasks: Iterable[Callable[[], Result]], /) -> Iterator[Result]:
    """Each task when its result is asked for, in the same thread."""
    for task in tasks:
        yield task()


@contextmanager
def side_by_side(threads: int) -> Iterator[Run]:
    """What does tasks in threads of their own, each of which computes with one thread of PyTorch.

    Tasks are begun in their order, `WAITING` for each thread ahead of the results that were asked for, so that memory
    does not grow with their number. They may be asked for while others are done, also by what gives the tasks.

    Args:
        threads: how many.
    """
    _keep_freed_memory()
    before, begun = torch.get_num_threads(), threading.Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # the first call in a thread gives it the number of all threads, and later ones do not
        torch.set_num_threads(1)  # for this thread, and for those to come, of which it is set again below
        begun.wait()

    with ThreadPoolExecutor(threads, thread_name_prefix="merge", initializer=begin) as executor:
        for _ in range(threads):
            executor.submit(int)
        begun.wait()
        torch.set_num_threads(before)

        def run(tasks: Iterable[Callable[[], Result]], /) -> Iterator[Result]:
            return _in_order(executor, tasks, WAITING * threads)

        yield run


def _keep_freed_memory() -> None:
    """Let the C library keep what pieces free for those that follow.

    glibc gives larger allocations back to the system at once, where taking them anew costs more than what is computed
    in them; larger ones are such as exceed the largest that was freed so far, up to 32 MiB. Half of that suffices here,
    and keeps less. Elsewhere this does nothing. No memory is touched.
    """
    torch.empty(16 << 20, dtype=torch.uint8)


def _in_order(executor: Executor, tasks: Iterable[Callable[[], Result]], most: int) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(executor.submit(task))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # after an error, nothing goes on reading
        for future in waiting:
            future.cancel()
        wait(waiting)
