from __future__ import annotations

import gc
import weakref

from regmean_lab.utils.garbage import collect_again, collecting_later


class Circle:
    """Nothing but the collector frees it."""

    def __init__(self) -> None:
        self.own = self


def test_nothing_is_collected_until_it_is_asked_for() -> None:
    with collecting_later():
        assert not gc.isenabled()
        early = weakref.ref(Circle())
        collect_again()
        assert gc.isenabled()
        gc.collect()
        assert early() is not None  # as it was there at the start
        late = weakref.ref(Circle())
        collect_again()  # as the next job of a sweep does
        gc.collect()
        assert late() is None
    assert gc.isenabled()
    gc.collect()
    assert early() is None


def test_who_collects_nothing_is_left_alone() -> None:
    gc.disable()
    try:
        with collecting_later():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
