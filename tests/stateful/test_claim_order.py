"""The claim order among runs whose wait is over: too rare a meeting to leave it to chance."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from runlane import Runlane, SettableClock, task


@task("work")
def work() -> None:
    """Nothing."""


def test_of_two_delayed_runs_the_one_of_higher_priority_is_claimed_first(
    make_app: Callable[..., Runlane], clock: SettableClock
) -> None:
    app = make_app(work, clock=clock)
    app.trigger(work, delay="1s")
    urgent = app.trigger(work, delay="2s", priority=9).run
    clock.advance(timedelta(seconds=10))
    first = app.execute_next()
    assert first is not None
    assert first.id == urgent.id
