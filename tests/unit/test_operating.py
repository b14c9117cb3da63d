"""What operators ask of runs: to cancel, run again, retry, free a key; and the ids of streams of events."""

from __future__ import annotations

import hashlib
from uuid import UUID

import pytest
from attrs import evolve

from runlane import decisions
from runlane import events as e
from runlane.errors import RunStateInvalid
from runlane.events import Head
from runlane.projections.runs import Run
from runlane.values import SYSTEM, RunStatus, Source, SourceType
from tests.unit.lives import ACTIVE, CREATED, HELD, HOUR, LATER, OTHER_SESSION, RUN_ID, STATUSES, T0, TERMINAL, run_in

FULL = e.RunCreated(
    "t", "q", {"a": 1}, Source(SourceType.SCHEDULE, schedule_id="nightly", parent_run_id=OTHER_SESSION), 7, T0 + HOUR,
    "key", "30d", "single", "eu", "c", {"traceparent": "00"}, {"m": 1},
)  # fmt: skip


@pytest.mark.parametrize("status", [status for status in ACTIVE if status not in HELD])
def test_a_waiting_run_is_cancelled_at_once(status: str) -> None:
    assert decisions.cancel(run_in(status), "enough", {"a": 1}) == (e.RunCancelled("enough", {"a": 1}),)


def test_a_running_one_is_asked_to_stop() -> None:
    asked = decisions.cancel(run_in("running"), "enough", {"a": 1})
    assert asked == (e.RunCancellationRequested("enough", {"a": 1}),)


def test_asking_twice_changes_nothing() -> None:
    assert decisions.cancel(run_in("cancellation_requested"), "again", None) == ()


@pytest.mark.parametrize("status", TERMINAL)
def test_an_ended_run_cannot_be_cancelled(status: str) -> None:
    with pytest.raises(RunStateInvalid, match=f"has ended as {status}"):
        decisions.cancel(run_in(status), None, None)


@pytest.mark.parametrize("kind", [SourceType.RERUN, SourceType.MANUAL_RETRY])
def test_a_repeated_run_is_the_same_without_its_time_and_its_key(kind: SourceType) -> None:
    source = evolve(run_in("failed"), created=FULL)
    assert decisions.again(source, kind) == evolve(
        FULL,
        source=Source(kind, source_run_id=RUN_ID, parent_run_id=OTHER_SESSION),
        run_at=None,
        idempotency_key=None,
        idempotency_ttl=None,
    )


@pytest.mark.parametrize("status", STATUSES)
def test_only_an_ended_run_is_run_again(status: str) -> None:
    if status in TERMINAL:
        assert decisions.again(run_in(status), SourceType.RERUN).source.source_run_id == RUN_ID
    else:
        with pytest.raises(RunStateInvalid, match="is still"):
            decisions.again(run_in(status), SourceType.RERUN)


@pytest.mark.parametrize("status", STATUSES)
def test_only_a_failed_run_is_retried(status: str) -> None:
    if status == "failed":
        assert decisions.again(run_in(status), SourceType.MANUAL_RETRY).source.type == "manual_retry"
    else:
        with pytest.raises(RunStateInvalid, match="only a failed run"):
            decisions.again(run_in(status), SourceType.MANUAL_RETRY)


def owner(status: str, key: str | None = "k") -> Run:
    return evolve(run_in(status), created=evolve(CREATED, idempotency_key=key))


@pytest.mark.parametrize("status", STATUSES)
def test_only_the_key_of_an_ended_run_is_freed(status: str) -> None:
    if status in TERMINAL:
        freed = decisions.reset_key(owner(status), "wrong")
        assert freed == e.IdempotencyReset("emails.welcome", "k", RUN_ID, "wrong")
    else:
        with pytest.raises(RunStateInvalid, match="owns the key"):
            decisions.reset_key(owner(status), None)


def test_an_owner_without_a_key_frees_the_empty_one() -> None:
    assert decisions.reset_key(owner("failed", None), None).key == ""


@pytest.mark.parametrize("status", ["succeeded", "cancelled"])
def test_an_owner_without_a_retention_keeps_nothing_after_its_end(status: str) -> None:
    assert not decisions.keeps_key(owner(status), T0)


def test_ids_of_streams_are_the_same_in_every_process() -> None:
    # They are in the log of every database there is.
    assert decisions.key_stream("default", "emails.welcome", "k") == UUID("a3347a03-6aa6-5399-acca-1ef89354f5fb")
    assert decisions.environment_stream("default") == UUID("c1f7e115-fee5-5720-a61e-e325734a3a9e")


def test_each_key_of_each_task_and_environment_has_a_stream_of_its_own() -> None:
    made = {
        decisions.key_stream(*parts) for parts in [("a", "b", "c"), ("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x")]
    }
    assert len(made | {decisions.environment_stream(name) for name in "ab"}) == 6


def test_what_is_pruned_is_counted_and_digested_in_the_order_of_ids() -> None:
    first, second = UUID(int=1), UUID(int=2)
    heads = [Head(first, 4, 9, "ab")]
    told = decisions.pruned(
        {second: 7, first: 4}, LATER, [RunStatus.SUCCEEDED, RunStatus.FAILED], heads, "old", "archive", "ab12"
    )
    digest = hashlib.sha256(f"{first}:4\n{second}:7".encode()).hexdigest()
    assert told == e.RunsPruned(2, 11, LATER, ("failed", "succeeded"), digest, tuple(heads), "old", "archive", "ab12")


def test_pruning_need_not_say_why_nor_keep_anything() -> None:
    told = decisions.pruned({}, LATER, [RunStatus.FAILED])
    assert told == e.RunsPruned(0, 0, LATER, ("failed",), hashlib.sha256(b"").hexdigest(), (), None, None)


def test_several_events_of_one_change_follow_each_other() -> None:
    run = run_in("queued")
    change = decisions.advance(run, (e.RunDeliveryRequested(), e.RunCancelled("enough")), LATER, SYSTEM)
    assert [(r.sequence, r.occurred_at, r.actor) for r in change.records] == [(2, LATER, SYSTEM), (3, LATER, SYSTEM)]
    assert (change.after.status, change.after.sequence) == ("cancelled", 3)
