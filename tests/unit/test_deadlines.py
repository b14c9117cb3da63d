"""One thread watches all attempts that may only last so long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from runlane.deadlines import Deadlines
from tests.support import PATIENCE, eventually

#: Seconds that pass in a test, and seconds that do not.
SOON, NEVER = 0.02, 3600.0


class Watched:
    """Deadlines, and what they did."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Any]] = []
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.deadlines: Deadlines[Any] = Deadlines(self.expire, self.expired)

    def expire(self, item: Any) -> None:
        self.done.append(("expire", item))
        if item == "slow":
            self.entered.set()
            assert self.go_on.wait(PATIENCE)

    def expired(self, item: Any) -> None:
        self.done.append(("expired", item))
        if item == "bad":
            raise ValueError(item)

    def until(self, *items: Any) -> None:
        eventually(lambda: {item for what, item in self.done if what == "expired"} >= set(items), f"{items} expired")


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.go_on.set()
    made.deadlines.close()


def threads() -> int:
    return sum(thread.name == "runlane-deadlines" for thread in threading.enumerate())


def test_no_thread_before_something_is_watched_and_one_for_all_of_it(watched: Watched) -> None:
    before = threads()
    for n in range(100):
        watched.deadlines.watch(n, NEVER + n % 3)
    assert threads() == before + 1
    watched.deadlines.close()
    eventually(lambda: threads() == before, "the thread having ended")


def test_what_is_forgotten_never_expires_and_leaves_nothing(watched: Watched) -> None:
    for n in range(100):
        watched.deadlines.watch(n, SOON)
        watched.deadlines.forget(n, SOON)
    watched.deadlines.watch("last", SOON)
    watched.until("last")
    assert watched.done == [("expire", "last"), ("expired", "last")]
    assert not any(watched.deadlines._lines.values())


def test_a_shorter_time_begun_later_expires_earlier(watched: Watched) -> None:
    watched.deadlines.watch("long", NEVER)
    eventually(lambda: watched.deadlines._wakes, "the thread waiting")
    watched.deadlines.watch("short", SOON)
    watched.until("short")
    assert ("expire", "long") not in watched.done


def test_equal_times_expire_in_order(watched: Watched) -> None:
    for n in range(10):
        watched.deadlines.watch(n, SOON)
    watched.until(*range(10))
    assert [item for what, item in watched.done if what == "expire"] == list(range(10))


def test_one_that_cannot_be_told_does_not_keep_the_others(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.deadlines.watch("bad", SOON)
    watched.until("bad")
    watched.deadlines.watch("good", SOON)
    watched.until("good")
    assert "cannot be told" in caplog.text


def test_who_forgets_what_is_just_expiring_waits_until_it_has(watched: Watched) -> None:
    watched.deadlines.watch("slow", SOON)
    assert watched.entered.wait(PATIENCE)
    forgotten = threading.Event()

    def forget() -> None:
        watched.deadlines.forget("slow", SOON)
        watched.done.append(("forgotten", "slow"))
        forgotten.set()

    threading.Thread(target=forget, daemon=True).start()
    assert not forgotten.wait(SOON)
    watched.go_on.set()
    assert forgotten.wait(PATIENCE)
    assert watched.done[0] == ("expire", "slow")


def test_nothing_is_watched_any_more_once_closed(watched: Watched) -> None:
    watched.deadlines.watch("early", NEVER)
    watched.deadlines.close()
    watched.deadlines.watch("late", SOON)
    assert not any(watched.deadlines._lines.values())
    assert watched.done == []


def test_a_time_beyond_what_a_lock_can_wait_for(watched: Watched) -> None:
    watched.deadlines.watch("eternal", 8.6e13)
    watched.deadlines.watch("short", SOON)
    watched.until("short")


def test_what_finds_no_thread_is_watched_from_the_next_one_on(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuses)
        watched.deadlines.watch("one", SOON)
    assert "not watched until" in caplog.text
    watched.deadlines.watch("two", SOON)
    watched.until("one", "two")
