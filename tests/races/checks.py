"""What every environment must satisfy after any race, by the numbers of SPEC section 17.

Numbers 1 and 15 need to know what was accepted and what was read: see test_leases.py and test_log_order.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

from attrs import frozen

from runlane import Runlane
from runlane.events import (
    Recorded,
    RunCancellationRequested,
    RunCancelled,
    RunCreated,
    RunDeliveryRequested,
    RunDispatchReservationExpired,
    RunDispatchReserved,
    RunFailed,
    RunInterrupted,
    RunLeased,
    RunLeaseExpired,
    RunReleased,
    RunRetryScheduled,
    RunSucceeded,
    ScheduleFired,
)
from runlane.projections.runs import Run, replay
from runlane.storage import rows, streams
from tests.support import database_of, named

_ENDS = (RunSucceeded, RunFailed, RunCancelled)
_CLOSES = (RunSucceeded, RunFailed, RunReleased, RunRetryScheduled, RunInterrupted, RunLeaseExpired)

History = Sequence[Recorded]


@frozen
class Stored:
    """Everything that an environment holds."""

    runs: Mapping[UUID, Run]
    histories: Mapping[UUID, History]
    schedules: Mapping[UUID, History]
    keys: Sequence[tuple[str, str, UUID]]
    occurrences: Sequence[tuple[UUID, UUID]]
    outbox: Sequence[tuple[UUID, int, str]]
    limits: Mapping[str, int]

    @classmethod
    def of(cls, app: Runlane) -> Stored:
        """Read it all."""
        database = database_of(app)
        with database.snapshot() as tx:
            histories = {stream.id: stream.records for stream in streams.read_streams(tx, "run.", app.environment)}
            schedules = {stream.id: stream.records for stream in streams.read_streams(tx, "schedule.", app.environment)}

            def read(columns: str, table: str) -> list[tuple[str, ...]]:
                statement = f"select {columns} from {named(database, table)} where environment = '{app.environment}'"
                return [tuple(str(value) for value in row) for row in tx.connection.exec_driver_sql(statement)]

            keys = [(task, key, UUID(owner)) for task, key, owner in read("task_id, key, run_id", "idempotency_keys")]
            fired = [(UUID(id), UUID(run)) for id, run in read("id, run_id", "occurrences")]
            outbox = [(UUID(run), int(n), status) for run, n, status in read("run_id, sequence, status", "outbox")]
        runs = {run.id: run for run in app.runs.list(limit=500).data}
        limits = app.registry.limits()
        return cls(runs, histories, schedules, keys, fired, outbox, limits)


def invariant_2_at_most_one_live_lease_per_run(stored: Stored) -> None:
    for run_id, history in stored.histories.items():
        open_lease = None
        for event in (record.event for record in history):
            if isinstance(event, RunLeased):
                assert open_lease is None, f"{run_id} was leased twice"
                open_lease = (event.session_id, event.attempt)
            elif isinstance(event, (*_CLOSES, RunCancelled)):
                open_lease = None
        row = stored.runs[run_id]
        assert (None if row.lease is None else (row.lease.session_id, row.lease.attempt)) == open_lease


def invariant_3_only_the_holder_of_the_lease_writes(stored: Stored) -> None:
    for run_id, history in stored.histories.items():
        lease = None
        for event in (record.event for record in history):
            if isinstance(event, RunLeased):
                lease = (event.session_id, event.attempt)
            elif isinstance(event, _CLOSES):
                assert (event.session_id, event.attempt) == lease, f"{run_id}: {event} by one that does not hold it"
                lease = None


def invariant_4_one_terminal_event_and_nothing_after_it(stored: Stored) -> None:
    for run_id, history in stored.histories.items():
        ends = [record.sequence for record in history if isinstance(record.event, _ENDS)]
        assert ends == ([len(history)] if stored.runs[run_id].is_terminal else [])


def invariant_5_sequences_have_no_gap(stored: Stored) -> None:
    for stream_id, history in (stored.histories | stored.schedules).items():
        assert [record.sequence for record in history] == list(range(1, len(history) + 1)), stream_id
        times = [record.occurred_at for record in history]
        assert times == sorted(times), stream_id


def invariant_6_what_is_stored_is_the_fold_of_the_log(stored: Stored) -> None:
    """The audit of everything follows once at the end of a race: see Arena.race."""
    assert set(stored.runs) == set(stored.histories)
    for run_id, history in stored.histories.items():
        assert rows.state_values(replay(history)) == rows.state_values(stored.runs[run_id])


def invariant_7_one_active_idempotency_owner_per_key(stored: Stored) -> None:
    active = [run for run in stored.runs.values() if run.is_active and run.idempotency_key is not None]
    owners = Counter((run.task_id, run.idempotency_key) for run in active)
    assert all(number == 1 for number in owners.values()), owners
    held = {(task, key): owner for task, key, owner in stored.keys}
    assert all(held[run.task_id, run.idempotency_key or ""] == run.id for run in active)


def invariant_8_one_active_singleton_owner_per_key(stored: Stored) -> None:
    active = [run for run in stored.runs.values() if run.is_active and run.singleton_key is not None]
    owners = Counter((run.task_id, run.singleton_key) for run in active)
    assert all(number == 1 for number in owners.values()), owners


def invariant_9_limits_are_kept_at_every_position_of_the_log(stored: Stored) -> None:
    """Leases and reservations together; a reservation that becomes a lease keeps its slot."""
    everything = [record for history in stored.histories.values() for record in history]
    held: dict[UUID, tuple[str, str | None]] = {}
    for record in sorted(everything, key=lambda record: record.position or 0):
        event, run_id = record.event, record.stream_id
        if isinstance(event, (RunLeased, RunDispatchReserved)):
            run = stored.runs[run_id]
            held[run_id] = place = (run.queue, run.concurrency_key)
            occupied = sum(other == place for other in held.values())
            assert occupied <= stored.limits.get(run.queue, occupied), f"{occupied} slots of {place} in use"
        elif isinstance(event, (*_CLOSES, RunCancelled, RunDispatchReservationExpired)):
            held.pop(run_id, None)


def invariant_10_an_occurrence_makes_exactly_one_run(stored: Stored) -> None:
    events = [record.event for history in stored.schedules.values() for record in history]
    fired = [(event.occurrence_id, event.run_id) for event in events if isinstance(event, ScheduleFired)]
    assert sorted(fired) == sorted(stored.occurrences)
    assert len({occurrence for occurrence, _ in fired}) == len(fired)
    made = [run.source.occurrence_id for run in stored.runs.values() if run.source.occurrence_id is not None]
    assert len(set(made)) == len(made)
    assert set(made) <= {occurrence for occurrence, _ in fired}


def invariant_11_every_wakeup_asked_for_has_its_row(stored: Stored) -> None:
    """Of a lane that publishes: none is lost before it is published; see test_deliveries.py for what becomes of it."""
    asked = {
        (run_id, record.sequence)
        for run_id, history in stored.histories.items()
        for record in history
        if isinstance(record.event, RunDeliveryRequested)
    }
    assert {(run_id, sequence) for run_id, sequence, _ in stored.outbox} == (asked if stored.outbox else set())


def invariant_12_a_cancellation_is_never_lost_nor_a_success(stored: Stored) -> None:
    for run_id, history in stored.histories.items():
        if any(isinstance(record.event, RunCancellationRequested) for record in history):
            assert stored.runs[run_id].status in ("cancellation_requested", "cancelled", "failed")
            assert not any(isinstance(record.event, RunSucceeded) for record in history)


def invariant_13_a_release_spends_no_retry_budget(stored: Stored) -> None:
    for run_id, history in stored.histories.items():
        kinds = Counter(type(record.event) for record in history)
        row = stored.runs[run_id]
        assert row.release_count == kinds[RunReleased]
        assert row.failure_count == kinds[RunRetryScheduled] + kinds[RunFailed]
        assert row.retry_count == kinds[RunRetryScheduled]
        assert row.attempt_count == kinds[RunLeased]


def invariant_14_no_row_of_a_pruned_run_is_left(stored: Stored) -> None:
    assert {owner for _, _, owner in stored.keys} <= set(stored.runs)
    assert {run_id for run_id, _, _ in stored.outbox} <= set(stored.runs)
    assert all(isinstance(history[0].event, RunCreated) for history in stored.histories.values())


INVARIANTS = (
    invariant_2_at_most_one_live_lease_per_run,
    invariant_3_only_the_holder_of_the_lease_writes,
    invariant_4_one_terminal_event_and_nothing_after_it,
    invariant_5_sequences_have_no_gap,
    invariant_6_what_is_stored_is_the_fold_of_the_log,
    invariant_7_one_active_idempotency_owner_per_key,
    invariant_8_one_active_singleton_owner_per_key,
    invariant_9_limits_are_kept_at_every_position_of_the_log,
    invariant_10_an_occurrence_makes_exactly_one_run,
    invariant_11_every_wakeup_asked_for_has_its_row,
    invariant_12_a_cancellation_is_never_lost_nor_a_success,
    invariant_13_a_release_spends_no_retry_budget,
    invariant_14_no_row_of_a_pruned_run_is_left,
)


def every_invariant(app: Runlane) -> None:
    """Ask all of them of what the environment of a runtime holds now."""
    stored = Stored.of(app)
    for invariant in INVARIANTS:
        invariant(stored)
