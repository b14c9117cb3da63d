"""Transactions of a process under way: which of them may have written a lease that another one takes for its own."""

from __future__ import annotations

import threading

import pytest

from runlane.storage.commits import Passings
from tests.support import PATIENCE


def test_one_that_was_alone_mistakes_nothing() -> None:
    passings = Passings()
    with passings.one():
        pass
    with passings.one() as mine:
        assert not passings.may_mistake(mine)


@pytest.mark.parametrize("first", ["mine", "other"])
@pytest.mark.parametrize("leases", [True, False])
def test_one_beside_that_has_leased_may_be_mistaken(first: str, leases: bool) -> None:
    passings = Passings()
    entered = [passings.one(), passings.one()]
    one, another = (context.__enter__() for context in entered)
    (mine, other), ends = ((one, another), entered[1]) if first == "mine" else ((another, one), entered[0])
    if not leases:
        other.ends([])
    ends.__exit__(None, None, None)
    assert passings.may_mistake(mine) is leases


def test_one_under_way_is_waited_for() -> None:
    passings = Passings()
    began, may_end = threading.Event(), threading.Event()

    def other() -> None:
        with passings.one() as passing:
            began.set()
            assert may_end.wait(PATIENCE)
            passing.ends([])

    thread = threading.Thread(target=other)
    with passings.one() as mine:
        thread.start()
        assert began.wait(PATIENCE)
        assert passings.may_mistake(mine), "it did not end in time"
        may_end.set()
        thread.join(PATIENCE)
        assert not passings.may_mistake(mine)
