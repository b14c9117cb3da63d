"""The invariants of SPEC section 17, by their numbers, asked of all that an environment holds."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from attrs import frozen

from runlane import Runlane
from runlane.events import (
    Recorded,
    RunCancelled,
    RunFailed,
    RunInterrupted,
    RunLeased,
    RunLeaseExpired,
    RunReleased,
    RunRetryScheduled,
    RunSucceeded,
)
from runlane.projections.runs import Run
from runlane.storage import streams
from runlane.storage.findings import Verification
from tests.stateful.terms import TERMINAL

ENDS = (RunSucceeded, RunFailed, RunCancelled)
CLOSES = (RunSucceeded, RunFailed, RunReleased, RunRetryScheduled, RunInterrupted, RunLeaseExpired)


@frozen
class Stored:
    """Everything an environment holds: rows, histories, and what the audit says of both."""

    runs: dict[UUID, Run]
    histories: dict[UUID, list[Recorded]]
    verification: Verification

    @classmethod
    def of(cls, app: Runlane) -> Stored:
        """Read it all."""
        rows: list[Run] = []
        cursor = None
        while cursor is not None or not rows:
            page = app.runs.list(limit=500, cursor=cursor)
            rows.extend(page.data)
            if (cursor := page.next_cursor) is None:
                break
        with app.lane.database.snapshot() as tx:
            histories = {stream.id: stream.records for stream in streams.read_streams(tx, "run.", app.environment)}
        return cls({run.id: run for run in rows}, histories, app.audit.verify())


def invariants_2_and_3_one_live_lease_and_only_its_holder_writes(stored: Stored) -> None:
    for run_id, history in stored.histories.items():
        open_lease = None
        for record in history:
            event = record.event
            if isinstance(event, RunLeased):
                assert open_lease is None, f"{run_id} was leased twice"
                open_lease = (event.session_id, event.attempt)
            elif isinstance(event, CLOSES):
                assert (event.session_id, event.attempt) == open_lease, f"{run_id}: written without the lease"
                open_lease = None
            elif isinstance(event, RunCancelled):  # by its holder, or by maintenance after its time
                open_lease = None
        row = stored.runs[run_id]
        assert (None if row.lease is None else (row.lease.session_id, row.lease.attempt)) == open_lease


def invariant_4_one_terminal_event_and_nothing_after_it(stored: Stored) -> None:
    for run_id, history in stored.histories.items():
        ends = [record.sequence for record in history if isinstance(record.event, ENDS)]
        ended = stored.runs[run_id].status in TERMINAL
        assert ends == ([len(history)] if ended else [])


def invariant_5_sequences_have_no_gap(stored: Stored) -> None:
    for run_id, history in stored.histories.items():
        assert [record.sequence for record in history] == list(range(1, len(history) + 1))
        assert stored.runs[run_id].sequence == len(history)
        times = [record.occurred_at for record in history]
        assert times == sorted(times)


def invariant_6_what_is_stored_is_the_fold_of_the_log(stored: Stored) -> None:
    assert stored.verification.differences == ()
    assert stored.verification.runs == len(stored.runs)
    assert stored.verification.events == sum(len(history) for history in stored.histories.values())


def invariant_7_one_active_owner_per_key(stored: Stored) -> None:
    active = Counter(
        (run.task_id, run.idempotency_key)
        for run in stored.runs.values()
        if run.idempotency_key is not None and run.status not in TERMINAL
    )
    assert not active or max(active.values()) == 1


def invariant_13_a_release_spends_no_retry_budget(stored: Stored) -> None:
    for run_id, history in stored.histories.items():
        kinds = Counter(type(record.event) for record in history)
        row = stored.runs[run_id]
        assert row.release_count == kinds[RunReleased]
        assert row.failure_count == kinds[RunRetryScheduled] + kinds[RunFailed]
        assert row.retry_count == kinds[RunRetryScheduled]
        assert row.attempt_count == kinds[RunLeased]


#: What every environment must satisfy at any time, whoever wrote it.
HISTORIES = (
    invariants_2_and_3_one_live_lease_and_only_its_holder_writes,
    invariant_4_one_terminal_event_and_nothing_after_it,
    invariant_5_sequences_have_no_gap,
    invariant_6_what_is_stored_is_the_fold_of_the_log,
    invariant_7_one_active_owner_per_key,
    invariant_13_a_release_spends_no_retry_budget,
)
