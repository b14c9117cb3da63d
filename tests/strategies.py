"""Hypothesis strategies: JSON values, every event, and legal histories of runs by a lifecycle of the tests' own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from attrs import evolve, frozen
from hypothesis import strategies as st

from runlane import events as e
from runlane.values import Actor, ActorType, Failure, Source, SourceType

#: SPEC section 5, word by word and on purpose not taken from the fold: event, statuses before, status after.
LIFECYCLE: dict[str, tuple[str, str]] = {
    "run.delivery_requested": ("queued scheduled released retrying", "queued if due, else unchanged"),
    "run.dispatch_reserved": ("queued", "queued"),
    "run.dispatch_reservation_expired": ("queued", "queued"),
    "run.leased": ("queued scheduled released retrying", "running"),
    "run.succeeded": ("running", "succeeded"),
    "run.retry_scheduled": ("running", "retrying"),
    "run.released": ("running", "released"),
    "run.interrupted": ("running", "queued"),
    "run.lease_expired": ("running", "queued"),
    "run.failed": ("running cancellation_requested", "failed"),
    "run.cancellation_requested": ("running", "cancellation_requested"),
    "run.cancelled": ("queued scheduled running released retrying cancellation_requested", "cancelled"),
}
TERMINAL = ("succeeded", "failed", "cancelled")

START = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
identifiers = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=":"), min_size=1, max_size=12)
instants = st.datetimes(timezones=st.just(UTC))
integers = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(text, json_values, max_size=4)

actors = st.builds(Actor, st.sampled_from(ActorType), identifiers)
failures = st.builds(Failure, identifiers, text, st.booleans(), st.none() | identifiers, st.none() | text, json_objects)
sources = st.builds(
    Source,
    st.sampled_from(SourceType),
    st.none() | st.uuids(),
    st.none() | st.uuids(),
    st.none() | identifiers,
    st.none() | st.uuids(),
    st.none() | instants,
)

_attempts = st.integers(1, 2**31 - 1)
_maybe_text = st.none() | text
_maybe_instant = st.none() | instants
_maybe_meta = st.none() | json_objects
_definition = (identifiers, identifiers, json_objects, json_values, st.booleans(), _maybe_instant)

#: How to draw each event, all fields included.
_heads = st.builds(e.Head, st.uuids(), st.integers(1, 2**31 - 1), st.integers(1, 2**63 - 1), text)
_parts = st.builds(e.Part, st.uuids(), st.integers(1, 2**31 - 1), st.integers(1, 2**63 - 1), text)
EVENTS: dict[type, st.SearchStrategy[e.Event]] = {
    e.RunCreated: st.builds(
        e.RunCreated,
        identifiers,
        identifiers,
        json_values,
        sources,
        st.integers(-32768, 32767),
        _maybe_instant,
        st.none() | identifiers,
        st.none() | st.sampled_from(["active", "30d", "500ms"]),
        st.none() | identifiers,
        st.none() | identifiers,
        _maybe_text,
        st.none() | st.dictionaries(text, text, max_size=3),
        _maybe_meta,
    ),
    e.RunDeliveryRequested: st.builds(e.RunDeliveryRequested, _maybe_instant),
    e.RunDispatchReserved: st.builds(e.RunDispatchReserved, _maybe_instant),
    e.RunDispatchReservationExpired: st.builds(e.RunDispatchReservationExpired),
    e.RunLeased: st.builds(e.RunLeased, st.uuids(), identifiers, _attempts, st.none() | _attempts),
    e.RunSucceeded: st.builds(e.RunSucceeded, st.uuids(), _attempts, json_values),
    e.RunRetryScheduled: st.builds(
        e.RunRetryScheduled,
        st.uuids(),
        _attempts,
        failures,
        instants,
        st.integers(0, 2**40),
        st.integers(-(2**40), 2**40),
    ),
    e.RunReleased: st.builds(e.RunReleased, st.uuids(), _attempts, instants, _maybe_text, _maybe_meta),
    e.RunInterrupted: st.builds(e.RunInterrupted, st.uuids(), _attempts, text),
    e.RunLeaseExpired: st.builds(e.RunLeaseExpired, st.uuids(), _attempts),
    e.RunFailed: st.builds(e.RunFailed, st.uuids(), _attempts, failures),
    e.RunCancellationRequested: st.builds(e.RunCancellationRequested, _maybe_text, _maybe_meta),
    e.RunCancelled: st.builds(e.RunCancelled, _maybe_text, _maybe_meta),
    e.ScheduleRegistered: st.builds(e.ScheduleRegistered, *_definition),
    e.ScheduleChanged: st.builds(e.ScheduleChanged, *_definition),
    e.ScheduleFired: st.builds(
        e.ScheduleFired, st.uuids(), instants, st.uuids(), _maybe_instant, st.integers(0, 2**31), _maybe_instant
    ),
    e.SchedulePaused: st.builds(e.SchedulePaused, _maybe_text),
    e.ScheduleResumed: st.builds(e.ScheduleResumed, _maybe_instant, _maybe_text),
    e.ScheduleRemoved: st.builds(e.ScheduleRemoved),
    e.IdempotencyReset: st.builds(e.IdempotencyReset, identifiers, identifiers, st.uuids(), _maybe_text),
    e.QueuePaused: st.builds(e.QueuePaused, identifiers, _maybe_text),
    e.QueueResumed: st.builds(e.QueueResumed, identifiers, _maybe_text),
    e.RunsPruned: st.builds(
        e.RunsPruned,
        st.integers(1, 2**31),
        st.integers(1, 2**31),
        instants,
        st.lists(text, max_size=3).map(tuple),
        text,
        st.lists(_heads, max_size=3).map(tuple),
        _maybe_text,
        _maybe_text,
    ),
    e.LogCheckpointed: st.builds(
        e.LogCheckpointed,
        *[st.integers(0, 2**63 - 1)] * 4,
        text,
        st.lists(_parts, max_size=3).map(tuple),
        text,
        *[_maybe_text] * 3,
    ),
    e.RowRepaired: st.builds(e.RowRepaired, st.uuids(), st.lists(text, max_size=3).map(tuple), _maybe_text),
    e.TablesRebuilt: st.builds(e.TablesRebuilt, *[st.integers(0, 2**31)] * 7, _maybe_text),
}
events = st.one_of(*EVENTS.values())


@frozen
class History:
    """A legal history of one run, and the status it must have after each event."""

    records: tuple[e.Recorded, ...]
    statuses: tuple[str, ...]


_offsets = st.integers(0, 3_600_000_000)
_labels = st.sampled_from(["default", "w1", "Ünïcode \U0001f680", "a.b-c_d"])
_actors = st.sampled_from([Actor(kind, "somebody") for kind in ActorType])
_payloads = st.sampled_from([None, {"user": 1}, [1, 2.5, "x"], "Ünïcode", {"deep": [{"er": [True, None]}]}])
_reasons = st.sampled_from([None, "", "not yet", "Ünïcode \U0001f680"])
_sessions = st.integers(1, 2**128 - 1).map(lambda number: UUID(int=number))
_failures = st.sampled_from(
    [
        Failure("task_failed", "it broke", True, "ValueError", "Traceback …", {"at": [1, 2]}),
        Failure("task_failed", "Ünicode \U0001f680", False),
        Failure("attempt_timeout", "", True, meta={"limit": 2**62}),
    ]
)


@st.composite
def histories(draw: st.DrawFn, min_steps: int = 0, max_steps: int = 12, ended: bool = False) -> History:
    """Legal histories by ``LIFECYCLE``; with `ended`, only those that reach a terminal status."""
    stream = draw(_sessions)
    environment, actor = draw(_labels), draw(_actors)
    at = START + draw(_offsets) * MICROSECOND
    run_at = draw(st.none() | st.integers(-3_600, 3_600))
    created = e.RunCreated(
        draw(_labels),
        draw(_labels),
        draw(_payloads),
        run_at=None if run_at is None else at + timedelta(seconds=run_at),
        meta=draw(st.sampled_from([None, {}, {"a": 1}])),
    )
    due = max(at, created.run_at or at)
    status, attempt, session = ("scheduled" if due > at else "queued"), 0, UUID(int=0)
    records = [e.Recorded(stream, 1, created, at, environment, actor)]
    statuses = [status]

    for _ in range(draw(st.integers(min_steps, max_steps))):
        if status in TERMINAL:
            break
        at += draw(_offsets) * MICROSECOND
        name = draw(st.sampled_from(_next_names(status, len(records) < min_steps)))
        if name == "run.leased":
            at, attempt, session = max(at, due), attempt + 1, draw(_sessions)
        event = _step(draw, name, session, attempt, at)
        if name in ("run.retry_scheduled", "run.released"):
            due = event.run_at  # type: ignore[union-attr]
        elif name in ("run.interrupted", "run.lease_expired"):
            due = at
        after = LIFECYCLE[name][1]
        if name == "run.delivery_requested":
            after = "queued" if due <= at else status
        status = after
        records.append(e.Recorded(stream, len(records) + 1, event, at, environment, actor))
        statuses.append(status)
    if ended and status not in TERMINAL:
        records.append(e.Recorded(stream, len(records) + 1, e.RunCancelled(), at, environment, actor))
        statuses.append("cancelled")
    return History(tuple(records), tuple(statuses))


@st.composite
def running_histories(draw: st.DrawFn) -> History:
    """Legal histories whose run is leased and running at their end."""
    history = draw(histories())
    ends = [n for n, status in enumerate(history.statuses, 1) if status == "running"]
    if ends:
        end = draw(st.sampled_from(ends))
        return History(history.records[:end], history.statuses[:end])
    created = history.records[0]
    at = max(created.occurred_at, created.event.run_at or created.occurred_at)  # type: ignore[union-attr]
    lease = evolve(created, sequence=2, event=e.RunLeased(draw(_sessions), "w1", 1), occurred_at=at)
    return History((created, lease), (history.statuses[0], "running"))


def _next_names(status: str, on: bool) -> list[str]:
    """What may follow `status`, without an end if it has to go `on`; ends come seldom, so that histories grow."""
    possible = [name for name, (before, _) in LIFECYCLE.items() if status in before.split()]
    going = [name for name in possible if LIFECYCLE[name][1] not in TERMINAL]
    return going if on and going else going * 3 + possible


def _step(draw: st.DrawFn, name: str, session: UUID, attempt: int, at: datetime) -> e.RunStep:
    match name:
        case "run.delivery_requested":
            return e.RunDeliveryRequested()
        case "run.dispatch_reserved":
            return e.RunDispatchReserved(at + draw(_offsets) * MICROSECOND)
        case "run.dispatch_reservation_expired":
            return e.RunDispatchReservationExpired()
        case "run.leased":
            return e.RunLeased(session, draw(_labels), attempt)
        case "run.succeeded":
            return e.RunSucceeded(session, attempt, draw(_payloads))
        case "run.retry_scheduled":
            delay = draw(st.integers(-1_000, 60_000))
            run_at = at + timedelta(milliseconds=delay)
            return e.RunRetryScheduled(session, attempt, draw(_failures), run_at, max(delay, 0), min(delay, 0))
        case "run.released":
            return e.RunReleased(session, attempt, at + draw(_offsets) * MICROSECOND, draw(_reasons))
        case "run.interrupted":
            return e.RunInterrupted(session, attempt, "worker_stopping")
        case "run.lease_expired":
            return e.RunLeaseExpired(session, attempt)
        case "run.failed":
            return e.RunFailed(session, attempt, draw(_failures))
        case "run.cancellation_requested":
            return e.RunCancellationRequested(draw(_reasons))
        case "run.cancelled":
            return e.RunCancelled(draw(_reasons))
        case _:
            raise ValueError(name)
