"""Runs, and all of them, as of an earlier moment; what became of one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from runlane import (
    Actor,
    AsyncRunlane,
    ConfigurationInvalid,
    Fleet,
    InvariantViolation,
    KeyKind,
    Queue,
    Runlane,
    RunNotFound,
    SettableClock,
    travel,
)
from runlane.decisions import Change
from runlane.events import Recorded, RunDispatchReserved
from runlane.projections import runs
from runlane.storage import log
from runlane.values import new_run_id
from tests.engine.sessions import session_of, take
from tests.engine.tasks import HOUR, echo, flaky, hopeless, patient
from tests.storage.test_verify import unguard
from tests.strategies import History, histories
from tests.support import SECOND, START, database_of, execute, step

Make = Callable[..., Runlane]
ANN, BOB = Actor.operator("ann"), Actor.operator("bob")
MICROSECOND = timedelta(microseconds=1)


def stored(app: Runlane, history: History, environment: str = "default") -> tuple[Recorded, ...]:
    """The history as that of a new run, in the database."""
    run_id = new_run_id()
    records = tuple(evolve(record, stream_id=run_id, environment=environment) for record in history.records)
    change = Change(None, records, runs.replay(records))
    assert not database_of(app).transact(lambda tx: log.append_runs(tx, [change]))
    return records


def up_to(records: Sequence[Recorded], at: datetime) -> list[Recorded]:
    return [record for record in records if record.occurred_at <= at]


# One run.


def test_a_run_as_of_each_event_and_instant_is_the_fold_up_to_there(make_app: Make) -> None:
    app = make_app()

    @given(histories())
    @settings(max_examples=20)
    def check(history: History) -> None:
        records = stored(app, history)
        run_id = records[0].stream_id
        for length, record in enumerate(records, 1):
            assert app.runs.get(run_id, at_sequence=length) == runs.replay(records[:length])
            assert app.runs.get(run_id, at=record.occurred_at) == runs.replay(up_to(records, record.occurred_at))
            if length > 1 and record.occurred_at > records[length - 2].occurred_at:
                before = app.runs.get(run_id, at=record.occurred_at - MICROSECOND)
                assert before == runs.replay(records[: length - 1])
        assert app.runs.get(run_id, at=datetime.max.replace(tzinfo=UTC)) == app.runs.get(run_id)
        with pytest.raises(RunNotFound, match="exists since"):
            app.runs.get(run_id, at=records[0].occurred_at - MICROSECOND)
        with pytest.raises(ConfigurationInvalid, match=f"is {len(records) + 1}, but the last .* is {len(records)}$"):
            app.runs.get(run_id, at_sequence=len(records) + 1)

    check()


def test_a_moment_that_cannot_be_is_refused(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    run = app.trigger(echo, 1).run
    for wrong in (0, -1, True, 1.0, "1", 2**31, 2**70):
        with pytest.raises(ConfigurationInvalid, match="at_sequence must be an integer from 1 to"):
            app.runs.get(run.id, at_sequence=wrong)  # type: ignore[arg-type]
    for wrong in (datetime(2026, 1, 1), "2026-01-01", 7):
        with pytest.raises(ConfigurationInvalid, match="at must be"):
            app.runs.get(run.id, at=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationInvalid, match="at_sequence or at, not both"):
        app.runs.get(run.id, at_sequence=1, at=START)
    since = "2026-01-01T00:00:00\\+00:00; there was none at 1999"
    with pytest.raises(RunNotFound, match=f"run {run.id} exists since {since}"):
        app.runs.get(run.id, at=datetime(1999, 1, 1, tzinfo=UTC))
    for moment in ({"at": START}, {"at_sequence": 1}):
        with pytest.raises(RunNotFound, match="no run has the id"):
            app.runs.get(new_run_id(), **moment)


def test_runs_of_another_environment_are_not_seen(lane_url: str, clock: SettableClock) -> None:
    with Runlane(lane_url, tasks=[echo], clock=clock) as app:
        run = app.trigger(echo, 1, idempotency_key="k").run
        app.runs.cancel(run.id, actor=ANN)
        stranger = Runlane(app.lane, tasks=[echo], clock=clock, environment="other")
        for ask in (
            lambda: stranger.runs.get(run.id, at=START),
            lambda: stranger.runs.get(run.id, at_sequence=1),
            lambda: stranger.audit.diff(run.id),
            lambda: stranger.audit.timeline(run.id),
        ):
            with pytest.raises(RunNotFound, match="in environment 'other'"):
                ask()
        assert stranger.audit.as_of(START).runs == 0
        assert stranger.audit.who(actor=ANN).data == stranger.audit.who(key="k").data == ()
        assert len(app.audit.who(actor=ANN).data) == len(app.audit.who(key="k").data) == 1


def test_a_lost_event_is_told_and_not_folded_over(lane_url: str, clock: SettableClock) -> None:
    with Runlane(lane_url, tasks=[echo], clock=clock) as app:
        run = app.run_now(echo, 1).run
        unguard(app)
        execute(database_of(app), f"delete from {{events}} where stream_id = '{run.id}' and sequence = 2")
        assert app.runs.get(run.id, at_sequence=1).status == "queued"
        with pytest.raises(InvariantViolation, match=f"the log has lost event 2 of run {run.id}"):
            app.runs.get(run.id, at_sequence=2)
        for at in (START, datetime.max.replace(tzinfo=UTC)):
            with pytest.raises(InvariantViolation, match="cannot follow event 1"):
                app.runs.get(run.id, at=at)
        with pytest.raises(InvariantViolation):
            app.audit.diff(run.id)
        execute(database_of(app), "update {events} set data = '7' where sequence = 1")
        with pytest.raises(InvariantViolation, match=r"event 1 of stream .* cannot be read"):
            app.audit.timeline(run.id)
        fleet = app.audit.as_of(datetime.max.replace(tzinfo=UTC))
        assert (fleet.runs, fleet.unreadable, fleet.unreadable_count) == (0, (run.id,), 1)


# All runs.


def test_the_fleet_at_any_instant_is_the_fold_of_what_had_happened(make_app: Make) -> None:
    app = make_app()
    names = count()

    @given(st.lists(histories(), min_size=1, max_size=5), st.data())
    @settings(max_examples=20)
    def check(lives: list[History], data: st.DataObject) -> None:
        environment = f"e{next(names)}"
        told = [stored(app, history, environment) for history in lives]
        instants = sorted(record.occurred_at for records in told for record in records)
        at = data.draw(st.sampled_from(instants)) - data.draw(st.sampled_from([timedelta(0), MICROSECOND]))
        with database_of(app).snapshot() as tx:
            fleet = travel.fleet(tx, environment, at, 2)
        then = [runs.replay(began) for records in told if (began := up_to(records, at))]
        assert {(queue, status): n for queue, of in fleet.counts.items() for status, n in of.items()} == Counter(
            (run.queue, run.status) for run in then
        )
        assert (fleet.runs, fleet.events) == (len(then), sum(run.sequence for run in then))
        leased = sorted((run.lease.leased_at, run.id) for run in then if run.lease)
        assert [(held.since, held.run_id) for held in fleet.running] == leased[:2]
        assert fleet.running_count == len(leased)
        assert fleet.unreadable_count == 0

    check()


def test_it_says_who_was_at_work(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock, worker_id="w1")
    second, first, _ = (app.trigger(echo, n, priority=n).run for n in (1, 2, 0))  # of which the later one goes first
    session_of(app)
    for _ in range(2):
        clock.advance(SECOND)
        take(app, clock)
    app.runs.cancel(first.id, actor=ANN)
    found = app.audit.as_of(clock())
    assert [(h.run_id, h.task_id, h.worker_id, h.attempt, h.since, h.status) for h in found.running] == [
        (first.id, "echo", "w1", 1, START + SECOND, "cancellation_requested"),
        (second.id, "echo", "w1", 1, START + 2 * SECOND, "running"),
    ]
    assert found.running[0].session_id == session_of(app).holder.session_id
    assert found.counts == {"default": {"cancellation_requested": 1, "running": 1, "queued": 1}}
    assert [h.run_id for h in app.audit.as_of(START + SECOND).running] == [first.id]
    listed = app.audit.as_of(clock(), limit=1)
    assert ([h.run_id for h in listed.running], listed.running_count) == ([first.id], 2)
    assert app.audit.as_of(START).running == ()
    assert app.audit.as_of(START).counts == {"default": {"queued": 3}}
    nothing = app.audit.as_of(START - SECOND)
    assert (nothing.runs, nothing.events, nothing.counts) == (0, 0, {})


def holders(fleet: Fleet, kind: KeyKind) -> dict[str, UUID]:
    found = {held.key: held.run_id for held in fleet.keys if held.kind is kind}
    assert len(found) == fleet.key_counts[kind]
    return found


def test_it_says_who_held_an_idempotency_key(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, hopeless, clock=clock)
    first = app.trigger(echo, 1, idempotency_key="k").run
    brief = app.trigger(echo, 2, idempotency_key="brief", idempotency_ttl="active").run
    doomed = app.trigger(hopeless, 3, idempotency_key="doomed").run
    clock.advance(HOUR)
    for _ in range(3):
        app.execute_next()
    clock.advance(HOUR)
    app.idempotency_keys.reset(echo, "k", actor=ANN)
    clock.advance(HOUR)
    second = app.trigger(echo, 4, idempotency_key="k").run
    app.execute_next()
    clock.advance(timedelta(days=40))

    def at(since: timedelta) -> dict[str, UUID]:
        return holders(app.audit.as_of(START + since), KeyKind.IDEMPOTENCY)

    assert at(-SECOND) == {}
    assert at(timedelta(0)) == {"k": first.id, "brief": brief.id, "doomed": doomed.id}
    listed = app.audit.as_of(START, limit=1)
    assert ([held.key for held in listed.keys], listed.key_counts["idempotency"]) == (["brief"], 3)
    assert at(HOUR) == {"k": first.id}, "an end frees a key that is only for active runs, a failure frees any"
    assert at(2 * HOUR - MICROSECOND) == {"k": first.id}
    assert at(2 * HOUR) == {}, "an operator has freed it"
    assert at(3 * HOUR) == {"k": second.id}
    assert at(timedelta(days=30, hours=3) - MICROSECOND) == {"k": second.id}
    assert at(timedelta(days=30, hours=3)) == {}, "its retention is over"
    assert app.runs.find_current(echo, "k") is None


def test_it_says_who_held_the_other_keys(make_app: Make, clock: SettableClock) -> None:
    narrow = Queue("narrow", default=True, concurrency_limit=1)
    app = make_app(echo, patient, queues=[narrow], clock=clock)
    run = app.trigger(patient, 1, singleton_key="only", concurrency_key="eu").run
    clock.advance(SECOND)
    change = step(app.runs.get(run.id), RunDispatchReserved(None), at=clock())
    assert not database_of(app).transact(lambda tx: log.append_runs(tx, [change]))
    clock.advance(SECOND)
    session_of(app)
    take(app, clock)
    clock.advance(SECOND)
    app.runs.cancel(run.id)
    clock.advance(timedelta(hours=1))
    app.tick()
    at = [app.audit.as_of(START + seconds * SECOND) for seconds in range(4)]
    assert [holders(fleet, KeyKind.SINGLETON) for fleet in at] == [{"only": run.id}] * 4
    assert [holders(fleet, KeyKind.CONCURRENCY) for fleet in at] == [{}] + [{"eu": run.id}] * 3
    since = [held.since - START for fleet in at for held in fleet.keys if held.kind is KeyKind.CONCURRENCY]
    assert since == [SECOND, 2 * SECOND, 2 * SECOND], "first reserved, then leased"
    ended = app.audit.as_of(clock())
    assert ended.keys == ()
    assert ended.counts == {"narrow": {"cancelled": 1}}


def test_it_says_what_was_paused(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    app.queues.pause("default", actor=ANN, reason="night")
    clock.advance(HOUR)
    app.queues.resume("default", actor=BOB)
    (control,) = app.audit.as_of(clock() - MICROSECOND).paused
    assert (control.name, control.actor, control.reason) == ("default", "operator:ann", "night")
    assert control.updated_at == START
    assert app.audit.as_of(clock()).paused == ()
    assert app.audit.as_of(START - MICROSECOND).paused == ()


def test_it_says_how_many_have_been_pruned_since(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    for n in range(3):
        app.run_now(echo, n)
    clock.advance(HOUR)
    assert (app.audit.as_of(START).runs, app.audit.as_of(START).pruned_since) == (3, 0)
    app.runs.prune("1m", limit=2)
    found = app.audit.as_of(START)
    assert (found.runs, found.pruned_since) == (1, 2)
    assert app.audit.as_of(clock()).pruned_since == 0, "what has happened at the instant has happened"


def test_a_fleet_that_cannot_be_asked_for_is_refused(make_app: Make) -> None:
    app = make_app()
    for limit in (0, 10_001, "7"):
        with pytest.raises(ConfigurationInvalid, match="limit must be an integer from 1 to 10000"):
            app.audit.as_of(START, limit=limit)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationInvalid, match="at must be timezone-aware"):
        app.audit.as_of(datetime(2026, 1, 1))


def test_progress_is_told(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    app.trigger_many(echo, range(1001))
    told: list[int] = []
    assert app.audit.as_of(START, progress=told.append).events == 2002
    assert told == [1000, 2000]


# What became of one.


def test_what_changed_between_two_events(make_app: Make, clock: SettableClock) -> None:
    app = make_app(flaky, clock=clock, worker_id="w1")
    run = app.trigger(flaky, 1).run
    clock.advance(SECOND)
    app.execute_next()
    found = app.audit.diff(run.id)
    assert (found.run_id, found.from_sequence, found.to_sequence) == (run.id, 1, 4)
    assert (found.from_at, found.to_at) == (START, START + SECOND)
    told = {change.field: (change.before, change.after, change.sequence) for change in found.changes}
    assert told["status"] == ("queued", "retrying", 4)
    assert told["attempt_count"] == (0, 1, 3)
    assert told["due_at"] == (START, START + 11 * SECOND, 4)
    assert told["failure.code"] == (None, "task_failed", 4)
    assert not [name for name in told if name.startswith("lease.")], "it came and went"
    leased = {change.field: change.after for change in app.audit.diff(run.id, 2, 3).changes}
    assert (leased["lease.worker_id"], leased["lease.attempt"], leased["due_at"]) == ("w1", 1, None)
    assert app.audit.diff(run.id, 3, 3).changes == ()
    assert app.audit.diff(str(run.id), 2).to_sequence == 4


@pytest.mark.parametrize(
    ("sequences", "says"),
    [
        ((0,), "from_sequence must be an integer from 1"),
        ((1, 0), "to_sequence must be an integer from 1"),
        ((2, 1), r"from_sequence \(2\) must not lie behind to_sequence \(1\)"),
        ((3,), "from_sequence is 3, but the last event of run .* is 2"),
        ((1, 3), "to_sequence is 3, but the last event of run .* is 2"),
    ],
)
def test_a_difference_that_cannot_be_is_refused(make_app: Make, sequences: Any, says: str) -> None:
    app = make_app(echo)
    run = app.trigger(echo, 1).run
    with pytest.raises(ConfigurationInvalid, match=says):
        app.audit.diff(run.id, *sequences)
    with pytest.raises(RunNotFound):
        app.audit.diff(new_run_id())


def test_a_timeline_tells_who_stopped_it_and_why(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock, worker_id="w1")
    run = app.trigger(echo, 1, actor=BOB).run
    session_of(app)
    clock.advance(SECOND)
    take(app, clock)
    clock.advance(HOUR)
    app.runs.cancel(run.id, actor=ANN, reason="enough\nof it")
    clock.advance(HOUR)
    app.tick()
    moments = app.audit.timeline(run.id)
    assert [(m.sequence, m.since_last, m.since_start, m.text) for m in moments] == [
        (1, 0 * HOUR, 0 * HOUR, "created for task echo on queue default, triggered by operator:bob"),
        (2, 0 * HOUR, 0 * HOUR, "delivery requested"),
        (3, SECOND, SECOND, "attempt 1 started on w1"),
        (4, HOUR, HOUR + SECOND, "cancellation requested by operator:ann: enough of it"),
        (5, HOUR, 2 * HOUR + SECOND, "cancelled by system:runlane, as asked by operator:ann: enough of it"),
    ]
    assert [(str(m.actor), m.reason) for m in moments[2:4]] == [("worker:w1", None), ("operator:ann", "enough\nof it")]
    with pytest.raises(RunNotFound):
        app.audit.timeline(new_run_id())


def test_a_timeline_tells_who_ran_it_again_and_why(make_app: Make, clock: SettableClock) -> None:
    app = make_app(hopeless, clock=clock)
    first = app.run_now(hopeless, 1, meta={"reason": "none of an operator's"}).run
    asked = [("retry", BOB, None), ("retry", ANN, "repaired"), ("rerun", BOB, None), ("rerun", ANN, "once more")]
    told, source = [], first
    for name, actor, reason in asked:
        source = getattr(app.runs, name)(source.id, actor=actor, reason=reason)
        app.execute_next()
        told.append(app.audit.timeline(source.id)[0].text.partition(f"{source.source.source_run_id} ")[2])
    assert told == [
        "by operator:bob: none of an operator's (as for the run it repeats)",
        "by operator:ann: repaired",
        "by operator:bob: repaired (as for the run it repeats)",
        "by operator:ann: once more",
    ]
    assert app.audit.timeline(first.id)[0].reason is None
    clock.advance(HOUR)
    app.runs.prune("1m", limit=4)
    assert app.audit.timeline(source.id)[0].text.endswith("by operator:ann: once more"), "its source is gone"


def test_the_awaitable_face_tells_the_same(shared_url: str, clock: SettableClock) -> None:
    with Runlane(shared_url, tasks=[echo], clock=clock) as app:
        run = app.run_now(echo, 1, idempotency_key="k").run

        async def main() -> None:
            other = AsyncRunlane(shared_url, tasks=[echo], clock=clock)
            assert await other.runs.get(run.id, at_sequence=2) == app.runs.get(run.id, at_sequence=2)
            assert await other.runs.get(run.id, at=START) == run
            assert await other.audit.as_of(START, limit=1) == app.audit.as_of(START, limit=1)
            assert await other.audit.diff(run.id, 2, 3) == app.audit.diff(run.id, 2, 3)
            assert await other.audit.timeline(run.id) == app.audit.timeline(run.id)
            assert await other.audit.who(key="k", limit=1) == app.audit.who(key="k", limit=1)
            await other.close()

        asyncio.run(main())
