"""What must hold after a crowd has been at one database, read from the log alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import timedelta
from itertools import pairwise
from typing import Any

from runlane import Runlane
from runlane.events import Recorded, RunCreated, RunDispatchReserved, RunLeased, ScheduleFired, ScheduleResumed
from runlane.storage import streams
from tests.chaos.crowd import LIMIT, SCHEDULES

#: Events of a run after which it has no slot, whatever it had before.
FREES = {
    "RunSucceeded",
    "RunFailed",
    "RunRetryScheduled",
    "RunReleased",
    "RunInterrupted",
    "RunLeaseExpired",
    "RunCancelled",
    "RunDispatchReservationExpired",
}


def histories(app: Runlane, prefix: str) -> list[Recorded]:
    """Every event of these streams, in the order of the log."""
    with app.lane.database.snapshot() as tx:
        records = [record for stream in streams.read_streams(tx, prefix, app.environment) for record in stream.records]
    return sorted(records, key=lambda record: record.position or 0)


def invariant_9_limits_hold_at_every_position(records: list[Recorded]) -> int:
    """The slots of each key that are leased or reserved; how many were in use at most."""
    partition: dict[Any, str] = {}
    used: dict[str, set[Any]] = defaultdict(set)
    most = 0
    for record in records:
        event = record.event
        if isinstance(event, RunCreated) and event.queue == "bounded":
            partition[record.stream_id] = event.concurrency_key or ""
        key = partition.get(record.stream_id)
        if key is None:
            continue
        if isinstance(event, (RunLeased, RunDispatchReserved)):
            used[key].add(record.stream_id)
        elif type(event).__name__ in FREES:
            used[key].discard(record.stream_id)
        most = max(most, len(used[key]))
        assert len(used[key]) <= LIMIT, f"{len(used[key])} slots of key {key} in use at position {record.position}"
    return most


def invariant_10_every_occurrence_made_one_run(app: Runlane) -> int:
    """None twice, none left out, each with a run of its own; how many there were."""
    made: Counter[Any] = Counter()
    for state in app.schedules.list():
        events = [record.event for record in histories(app, "schedule.") if record.stream_id == state.stream_id]
        assert not any(isinstance(event, ScheduleResumed) for event in events)
        fired = [event for event in events if isinstance(event, ScheduleFired)]
        times = [event.scheduled_for for event in fired]
        assert len(set(times)) == len(times)
        for before, after in pairwise(fired):
            assert after.scheduled_for - before.scheduled_for == timedelta(seconds=1 + after.collapsed)
        made.update(event.run_id for event in fired)
    runs = {
        record.stream_id: record.event.source.occurrence_id
        for record in histories(app, "run.")
        if isinstance(record.event, RunCreated) and record.event.source.occurrence_id is not None
    }
    assert set(made.values()) == {1}
    assert set(made) == set(runs)
    assert len(set(runs.values())) == len(runs)
    assert len(app.schedules.list()) == SCHEDULES
    return len(runs)


def invariant_4_every_run_ends_once(records: list[Recorded]) -> Counter[str]:
    """How often each kind of event happened."""
    ends = Counter(
        record.stream_id
        for record in records
        if type(record.event).__name__ in ("RunSucceeded", "RunFailed", "RunCancelled")
    )
    assert set(ends.values()) == {1}
    return Counter(type(record.event).__name__ for record in records)
