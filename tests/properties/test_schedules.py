"""However late maintainers come, every occurrence is fired or collapsed exactly once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from runlane import schedule_decisions
from runlane.cadence import Every
from runlane.projections import schedules
from runlane.schedule_decisions import ScheduleDefinition
from runlane.values import Actor, ActorType
from tests.strategies import START

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ACTOR = Actor(ActorType.SCHEDULE, "s")
seconds = st.integers(1, 100_000).map(lambda n: timedelta(seconds=n))


@given(seconds, st.lists(seconds, max_size=12))
@settings(max_examples=60)
def test_each_multiple_of_the_interval_is_fired_or_collapsed_once(interval: timedelta, pauses: list[timedelta]) -> None:
    rule = ScheduleDefinition("s", "t", "q", Every(interval), None, True)
    change = schedule_decisions.move_schedule(
        "default", "s", None, schedule_decisions.deploy(None, rule, START), START, ACTOR
    )
    records, state, now = [*change.records], change.after, START
    told: list[datetime] = []
    for pause in pauses:
        now += pause
        fired = schedule_decisions.fire(state, change.after.stream_id, now)
        assert schedule_decisions.deploy(state, rule, now) == ()
        if not fired:
            assert state.next_at is not None
            assert state.next_at > now
            continue
        (event,) = fired
        first = event.collapsed_from or event.scheduled_for
        assert (event.collapsed == 0) == (event.collapsed_from is None)
        told += [first + n * interval for n in range(event.collapsed + 1)]
        assert told[-1] == event.scheduled_for <= now
        assert event.next_at == event.scheduled_for + interval > now
        change = schedule_decisions.move_schedule("default", "s", state, fired, now, ACTOR)
        records += change.records
        state = change.after
        assert schedule_decisions.fire(state, change.after.stream_id, now) == ()
    begin = (START - EPOCH) // interval + 1
    assert told == [EPOCH + (begin + n) * interval for n in range(len(told))]
    assert not told or now - told[-1] < interval
    assert schedules.replay(records) == state
    assert state.fired_count == len(records) - 1
