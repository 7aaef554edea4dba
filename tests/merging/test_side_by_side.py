"""Work in several threads: results in order, errors where their results would be, and little in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from regmean_lab.merging.side_by_side import WAITING, side_by_side


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order(threads: int) -> None:
    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3 == 0))
        return number

    with side_by_side(threads) as run:
        assert list(run((lambda number=number: slow(number)) for number in range(40))) == list(range(40))


def test_little_is_begun_ahead() -> None:
    begun = []

    def tasks() -> Iterator[Callable[[], int]]:
        for number in range(100):
            begun.append(number)
            yield lambda: 0

    with side_by_side(2) as run:
        results = run(tasks())
        next(results)
        assert len(begun) == 2 * WAITING + 1
        next(results)
        assert len(begun) == 2 * WAITING + 2
        results.close()  # type: ignore[attr-defined]


def test_an_error_comes_in_its_turn_and_nothing_is_begun_after_it() -> None:
    done = []

    def task(number: int) -> int:
        if number == 3:
            raise ValueError("the fourth")
        done.append(number)
        return number

    with side_by_side(1) as run:
        results = run((lambda number=number: task(number)) for number in range(100))
        found = []
        with pytest.raises(ValueError, match="the fourth"):
            found.extend(results)
    assert sorted(done)[:3] == [0, 1, 2]
    assert len(done) <= 3 + WAITING + 1


def test_each_thread_computes_with_one_and_the_caller_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with side_by_side(2) as run:
            assert torch.get_num_threads() == 2
            together = threading.Barrier(2)

            def count() -> int:
                together.wait()  # in two threads
                return torch.get_num_threads()

            assert list(run([count, count])) == [1, 1]
        assert torch.get_num_threads() == 2
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert found == [2]
    finally:
        torch.set_num_threads(before)


def test_what_gives_tasks_may_have_others_done() -> None:
    with side_by_side(2) as run:

        def tasks() -> Iterator[Callable[[], int]]:
            for number in range(5):
                total = sum(run([lambda number=number: number, lambda: 10]))  # type: ignore[misc]
                yield lambda total=total: total  # type: ignore[misc]

        assert list(run(tasks())) == [10, 11, 12, 13, 14]
