"""Slots and the line before them."""

from __future__ import annotations

from runlane.ready import Ready


def test_there_are_so_many_slots_and_who_comes_later_waits() -> None:
    ready: Ready[str] = Ready(2)
    assert ready.oldest() is None
    assert ready.admit("abcd") == ["a", "b"]
    assert (ready.line(), ready.waiting) == (["c", "d"], 2)
    assert ready.oldest() is not None
    assert ready.admit("e") == []


def test_who_leaves_hands_over_the_slot_in_order() -> None:
    ready: Ready[str] = Ready(1)
    ready.admit("abc")
    assert ready.begin("a")
    assert not ready.begin("b")
    assert ready.leave("a") == "b"
    assert ready.begin("b")
    assert ready.leave("b") == "c"
    assert ready.begin("c")
    assert ready.leave("c") is None
    assert ready.admit("de") == ["d"]


def test_who_has_begun_cannot_be_withdrawn_and_who_was_withdrawn_cannot_begin() -> None:
    ready: Ready[str] = Ready(2)
    ready.admit("abcd")
    assert ready.begin("a")
    assert ready.withdraw("abcx") == ["b", "c"]
    assert ready.withdraw("abcx") == []
    assert not ready.begin("b")
    assert not ready.begin("c")
    assert ready.line() == ["d"]
    assert ready.leaving == 1
    assert ready.leave("b") == "d"  # it had a slot
    assert ready.leaving == 0


def test_the_time_inside_is_added_up_of_those_that_had_begun() -> None:
    ready: Ready[str] = Ready(2)
    ready.admit("ab")
    assert ready.begin("a")
    ready.withdraw("b")
    ready.leave("a")
    ready.leave("b")
    assert ready.left == 1
    assert 0 <= ready.spent < 20
