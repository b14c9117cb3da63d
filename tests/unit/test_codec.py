"""The stored form of events: names, versions and JSON that old logs already contain."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from runlane import codec
from runlane import events as e
from runlane.errors import InvariantViolation
from runlane.values import Failure, Source, SourceType

# SPEC section 5, word by word.
RUN_NAMES = {
    "run.created", "run.delivery_requested", "run.dispatch_reserved", "run.dispatch_reservation_expired",
    "run.leased", "run.succeeded", "run.retry_scheduled", "run.released", "run.interrupted", "run.lease_expired",
    "run.failed", "run.cancellation_requested", "run.cancelled",
}  # fmt: skip
SCHEDULE_NAMES = {
    "schedule.registered", "schedule.changed", "schedule.paused", "schedule.resumed", "schedule.fired",
    "schedule.removed",
}  # fmt: skip
OTHER_NAMES = {
    "queue.paused", "queue.resumed", "idempotency.reset", "environment.pruned", "environment.repaired",
    "environment.rebuilt", "environment.checkpointed", "environment.subject_erased",
}  # fmt: skip

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ONE, TWO, THREE = (UUID(f"00000000-0000-4000-8000-00000000000{n}") for n in (1, 2, 3))
FULL = Failure("task_failed", "bröke", True, "ValueError", "Traceback", {"a": [1, {"b": None}]})
BARE = Failure("attempt_timeout", "too long", False)
FULL_JSON = (
    '{"code":"task_failed","message":"bröke","retryable":true,"exception_type":"ValueError",'
    '"traceback":"Traceback","meta":{"a":[1,{"b":null}]}}'
)

#: Of events whose form has changed.
VERSIONS = {"environment.pruned": 2}

#: What logs in the field contain.  Never edit a line; when the form of an event changes, its version grows.
GOLDEN = [
    ("run.created", e.RunCreated("t", "q", None), '{"task_id":"t","queue":"q","payload":null}'),
    (
        "run.created",
        e.RunCreated(
            "emails.welcome",
            "emails",
            {"user": "Zoë", "n": 9223372036854775807},
            Source(SourceType.SCHEDULE, ONE, TWO, "nightly", THREE, NOON),
            -5,
            AT,
            "k",
            "30d",
            "s",
            "c",
            "corr",
            {"traceparent": "00-1"},
            {"nested": {"x": [1.5, True]}},
        ),
        (
            '{"task_id":"emails.welcome","queue":"emails","payload":{"user":"Zoë","n":9223372036854775807},'
            '"source":{"type":"schedule","source_run_id":"00000000-0000-4000-8000-000000000001",'
            '"parent_run_id":"00000000-0000-4000-8000-000000000002","schedule_id":"nightly",'
            '"occurrence_id":"00000000-0000-4000-8000-000000000003","scheduled_for":"2026-01-02T12:00:00+00:00"},'
            '"priority":-5,"run_at":"2026-01-02T03:04:05.678901+00:00","idempotency_key":"k","idempotency_ttl":"30d",'
            '"singleton_key":"s","concurrency_key":"c","correlation_id":"corr","trace_carrier":{"traceparent":"00-1"},'
            '"meta":{"nested":{"x":[1.5,true]}}}'
        ),
    ),
    ("run.delivery_requested", e.RunDeliveryRequested(), "{}"),
    ("run.delivery_requested", e.RunDeliveryRequested(AT), '{"available_at":"2026-01-02T03:04:05.678901+00:00"}'),
    ("run.dispatch_reserved", e.RunDispatchReserved(), "{}"),
    ("run.dispatch_reserved", e.RunDispatchReserved(NOON), '{"expires_at":"2026-01-02T12:00:00+00:00"}'),
    ("run.dispatch_reservation_expired", e.RunDispatchReservationExpired(), "{}"),
    (
        "run.leased",
        e.RunLeased(ONE, "w1", 3),
        '{"session_id":"00000000-0000-4000-8000-000000000001","worker_id":"w1","attempt":3}',
    ),
    ("run.succeeded", e.RunSucceeded(ONE, 1), '{"session_id":"00000000-0000-4000-8000-000000000001","attempt":1}'),
    (
        "run.succeeded",
        e.RunSucceeded(ONE, 1, {"sent": [1, 2]}),
        '{"session_id":"00000000-0000-4000-8000-000000000001","attempt":1,"result":{"sent":[1,2]}}',
    ),
    (
        "run.retry_scheduled",
        e.RunRetryScheduled(ONE, 2, FULL, AT, 30000, -12),
        '{"session_id":"00000000-0000-4000-8000-000000000001","attempt":2,"failure":' + FULL_JSON + ","
        '"run_at":"2026-01-02T03:04:05.678901+00:00","delay_ms":30000,"jitter_ms":-12}',
    ),
    (
        "run.released",
        e.RunReleased(ONE, 1, NOON),
        '{"session_id":"00000000-0000-4000-8000-000000000001","attempt":1,"run_at":"2026-01-02T12:00:00+00:00"}',
    ),
    (
        "run.released",
        e.RunReleased(ONE, 1, NOON, "not yet", {"try": 1}),
        (
            '{"session_id":"00000000-0000-4000-8000-000000000001","attempt":1,"run_at":"2026-01-02T12:00:00+00:00",'
            '"reason":"not yet","meta":{"try":1}}'
        ),
    ),
    (
        "run.interrupted",
        e.RunInterrupted(ONE, 1, "worker_stopping"),
        '{"session_id":"00000000-0000-4000-8000-000000000001","attempt":1,"reason":"worker_stopping"}',
    ),
    (
        "run.lease_expired",
        e.RunLeaseExpired(ONE, 9),
        '{"session_id":"00000000-0000-4000-8000-000000000001","attempt":9}',
    ),
    (
        "run.failed",
        e.RunFailed(ONE, 1, BARE),
        (
            '{"session_id":"00000000-0000-4000-8000-000000000001","attempt":1,'
            '"failure":{"code":"attempt_timeout","message":"too long","retryable":false}}'
        ),
    ),
    ("run.cancellation_requested", e.RunCancellationRequested(), "{}"),
    (
        "run.cancellation_requested",
        e.RunCancellationRequested("enough", {"by": "ann"}),
        '{"reason":"enough","meta":{"by":"ann"}}',
    ),
    ("run.cancelled", e.RunCancelled(), "{}"),
    ("run.cancelled", e.RunCancelled("enough", {}), '{"reason":"enough","meta":{}}'),
    (
        "schedule.registered",
        e.ScheduleRegistered("t", "q", {"every_us": 60000000}, None, True, NOON),
        (
            '{"task_id":"t","queue":"q","cadence":{"every_us":60000000},"payload":null,"enabled":true,'
            '"next_at":"2026-01-02T12:00:00+00:00"}'
        ),
    ),
    (
        "schedule.changed",
        e.ScheduleChanged("t", "q", {"once": "2026-01-02T12:00:00+00:00"}, [1], False, None),
        (
            '{"task_id":"t","queue":"q","cadence":{"once":"2026-01-02T12:00:00+00:00"},"payload":[1],"enabled":false,'
            '"next_at":null}'
        ),
    ),
    (
        "schedule.fired",
        e.ScheduleFired(ONE, NOON, TWO, None),
        (
            '{"occurrence_id":"00000000-0000-4000-8000-000000000001","scheduled_for":"2026-01-02T12:00:00+00:00",'
            '"run_id":"00000000-0000-4000-8000-000000000002","next_at":null}'
        ),
    ),
    (
        "schedule.fired",
        e.ScheduleFired(ONE, NOON, TWO, AT, 4, AT),
        (
            '{"occurrence_id":"00000000-0000-4000-8000-000000000001","scheduled_for":"2026-01-02T12:00:00+00:00",'
            '"run_id":"00000000-0000-4000-8000-000000000002","next_at":"2026-01-02T03:04:05.678901+00:00",'
            '"collapsed":4,"collapsed_from":"2026-01-02T03:04:05.678901+00:00"}'
        ),
    ),
    ("schedule.paused", e.SchedulePaused("night"), '{"reason":"night"}'),
    ("schedule.resumed", e.ScheduleResumed(NOON), '{"next_at":"2026-01-02T12:00:00+00:00"}'),
    (
        "schedule.resumed",
        e.ScheduleResumed(None, "day", 2, NOON, NOON),
        (
            '{"next_at":null,"reason":"day","skipped":2,"skipped_from":"2026-01-02T12:00:00+00:00",'
            '"skipped_until":"2026-01-02T12:00:00+00:00"}'
        ),
    ),
    ("schedule.removed", e.ScheduleRemoved(), "{}"),
    (
        "idempotency.reset",
        e.IdempotencyReset("t", "k", UUID(int=7)),
        '{"task_id":"t","key":"k","run_id":"00000000-0000-0000-0000-000000000007"}',
    ),
    (
        "run.leased",
        e.RunLeased(ONE, "w1", 3, 5),
        '{"session_id":"00000000-0000-4000-8000-000000000001","worker_id":"w1","attempt":3,"concurrency_limit":5}',
    ),
    ("queue.paused", e.QueuePaused("emails"), '{"queue":"emails"}'),
    ("queue.paused", e.QueuePaused("emails", "night"), '{"queue":"emails","reason":"night"}'),
    ("queue.resumed", e.QueueResumed("emails", "day"), '{"queue":"emails","reason":"day"}'),
    (
        "environment.pruned",
        e.RunsPruned(2, 9, NOON, ("cancelled", "failed"), "5e0f"),
        (
            '{"runs":2,"events":9,"before":"2026-01-02T12:00:00+00:00","statuses":["cancelled","failed"],'
            '"digest":"5e0f"}'
        ),
    ),
    (
        "environment.pruned",
        e.RunsPruned(1, 4, NOON, ("failed",), "5e0f", (e.Head(ONE, 4, 17, "ab" * 32),), "old", "cd" * 32, "5e0f"),
        (
            '{"runs":1,"events":4,"before":"2026-01-02T12:00:00+00:00","statuses":["failed"],"digest":"5e0f",'
            '"heads":[{"stream_id":"00000000-0000-4000-8000-000000000001","sequence":4,"position":17,"digest":"'
            + "ab" * 32
            + '"}],"reason":"old","archive":"'
            + "cd" * 32
            + '","epoch":"5e0f"}'
        ),
    ),
    (
        "environment.checkpointed",
        e.LogCheckpointed(1, 0, 9, 1, "ab" * 32, (e.Part(ONE, 4, 7, "ab" * 32),), "5e0f"),
        (
            f'{{"number":1,"from_position":0,"to_position":9,"leaves":1,"root":"{"ab" * 32}","parts":[{{"stream_id":'
            f'"00000000-0000-4000-8000-000000000001","sequence":4,"position":7,"root":"{"ab" * 32}"}}],"epoch":"5e0f"}}'
        ),
    ),
    (
        "environment.checkpointed",
        e.LogCheckpointed(2, 9, 12, 1, "ab" * 32, (), "5e0f", "cd" * 32, "ef" * 32, "c2ln"),
        (
            f'{{"number":2,"from_position":9,"to_position":12,"leaves":1,"root":"{"ab" * 32}","parts":[],'
            f'"epoch":"5e0f","previous":"{"cd" * 32}","key":"{"ef" * 32}","signature":"c2ln"}}'
        ),
    ),
    (
        "environment.repaired",
        e.RowRepaired(ONE, ("status", "due_at"), "by hand"),
        '{"run_id":"00000000-0000-4000-8000-000000000001","fields":["status","due_at"],"reason":"by hand"}',
    ),
    (
        "environment.rebuilt",
        e.TablesRebuilt(5, 1, 4, 2, 3, 7, 1),
        '{"runs":5,"schedules":1,"occurrences":4,"queues":2,"keys":3,"differences":7,"version":1}',
    ),
    (
        "environment.subject_erased",
        e.SubjectErased("5f1e", 2, "asked for"),
        '{"fingerprint":"5f1e","keys":2,"reason":"asked for"}',
    ),
]


def test_the_stored_names_of_run_and_schedule_events_are_those_of_the_contract() -> None:
    names = {name for name, _ in codec.STORED_AS.values()}
    assert {name for name in names if name.startswith("run.")} == RUN_NAMES
    assert {name for name in names if name.startswith("schedule.")} == SCHEDULE_NAMES
    assert names <= RUN_NAMES | SCHEDULE_NAMES | OTHER_NAMES


def test_no_two_events_share_a_stored_name() -> None:
    assert len({name for name, _ in codec.STORED_AS.values()}) == len(codec.STORED_AS)


def test_the_golden_lines_cover_every_run_and_schedule_event() -> None:
    assert {name for name, _, _ in GOLDEN} >= RUN_NAMES | SCHEDULE_NAMES
    assert {name for name, _, _ in GOLDEN} >= {name for name, _ in codec.STORED_AS.values()}


@pytest.mark.parametrize(("name", "event", "data"), GOLDEN)
def test_events_are_written_as_they_always_were(name: str, event: e.Event, data: str) -> None:
    assert codec.encode(event) == codec.Stored(name, VERSIONS.get(name, 1), data)


@pytest.mark.parametrize(("name", "event", "data"), GOLDEN)
def test_what_was_ever_written_can_be_read(name: str, event: e.Event, data: str) -> None:
    for version in range(1, VERSIONS.get(name, 1) + 1):
        assert codec.decode(name, version, data) == event


@pytest.mark.parametrize(
    ("name", "version"),
    [("run.teleported", 1), ("", 1), ("RunLeased", 1), ("run.leased", 2), ("run.leased", 0), ("run.leased", -1)],
)
def test_an_unknown_name_or_version_is_one_clear_error(name: str, version: int) -> None:
    with pytest.raises(InvariantViolation, match=f"{name} version {version}.*upgrade"):
        codec.decode(name, version, '{"session_id":"00000000-0000-4000-8000-000000000001","worker_id":"w","attempt":1}')


def test_fields_that_a_newer_writer_added_are_passed_over() -> None:
    assert codec.decode("run.cancelled", 1, '{"reason":"enough","mood":"bad"}') == e.RunCancelled("enough")


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"session_id":"not an id","worker_id":"w","attempt":1}',
        '{"session_id":null,"worker_id":"w","attempt":1}',
        '{"session_id":"00000000-0000-4000-8000-000000000001","worker_id":"w"}',
        '{"session_id":"00000000-0000-4000-8000-000000000001","worker_id":"w","attempt":"one"}',
    ],
)
def test_damaged_data_is_one_clear_error(data: str) -> None:
    with pytest.raises(InvariantViolation, match=r"stored data of a run\.leased event is damaged"):
        codec.decode("run.leased", 1, data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("run.released", '{"session_id":"00000000-0000-4000-8000-000000000001","attempt":1,"run_at":"soon"}'),
        ("run.created", '{"task_id":"t","queue":"q","payload":null,"source":{"type":"telepathy"}}'),
        ("run.failed", '{"session_id":"00000000-0000-4000-8000-000000000001","attempt":1,"failure":null}'),
        ("run.failed", b'{"reason":"\xff"}'),
    ],
)
def test_damage_inside_values_is_one_clear_error(name: str, data: str | bytes) -> None:
    with pytest.raises(InvariantViolation, match=f"{name} event is damaged"):
        codec.decode(name, 1, data)


def test_an_old_version_is_brought_up_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec._CLASS_OF, "run.leased", (e.RunLeased, 3))
    monkeypatch.setitem(codec.UPCASTERS, ("run.leased", 1), lambda old: {**old, "host": old.pop("machine")})
    monkeypatch.setitem(codec.UPCASTERS, ("run.leased", 2), lambda old: {**old, "worker_id": old.pop("host")})
    data = '{"session_id":"00000000-0000-4000-8000-000000000001","machine":"w7","attempt":1}'
    assert codec.decode("run.leased", 1, data) == e.RunLeased(ONE, "w7", 1)
    data = '{"session_id":"00000000-0000-4000-8000-000000000001","host":"w8","attempt":1}'
    assert codec.decode("run.leased", 2, data) == e.RunLeased(ONE, "w8", 1)
    data = '{"session_id":"00000000-0000-4000-8000-000000000001","worker_id":"w9","attempt":1}'
    assert codec.decode("run.leased", 3, data) == e.RunLeased(ONE, "w9", 1)
