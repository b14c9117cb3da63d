"""Leaving alone what keeps failing."""

from __future__ import annotations

import pytest

from runlane.sqs import backoff
from runlane.sqs.backoff import Backoff


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, in its only place."""
    clock = [1000.0]
    monkeypatch.setattr(backoff, "monotonic", lambda: clock[0])
    return clock


def test_pauses_grow_to_a_limit(now: list[float]) -> None:
    rest = Backoff(1.0, 8.0)
    assert rest.left() == 0
    for longest in (1.0, 2.0, 4.0, 8.0, 8.0):
        rest.failed()
        assert longest / 2 <= rest.left() <= longest
        now[0] += longest
        assert rest.left() == 0


def test_failures_at_the_same_time_count_as_one(now: list[float]) -> None:
    rest = Backoff(1.0, 8.0)
    rest.failed()
    left = rest.left()
    for _ in range(20):
        rest.failed()
    assert rest.left() == left
    now[0] += 1
    rest.failed()
    assert rest.left() <= 2


def test_a_success_ends_it(now: list[float]) -> None:
    rest = Backoff(1.0, 8.0)
    for _ in range(4):
        rest.failed()
        now[0] += 8
    rest.failed()
    rest.worked()
    assert rest.left() == 0
    rest.failed()
    assert rest.left() <= 1
