"""Every event: a frozen fact in the past tense.  An event records a decision, so a replay needs nothing else.

The class says what happened; the envelope (``Recorded``) says to which stream, as which step, when and by whom.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from runlane.structs import struct
from runlane.values import Actor, Failure, Source


@struct
class RunCreated:
    """A run came into being: its identity, for good."""

    task_id: str
    queue: str
    payload: Any
    source: Source = Source()
    priority: int = 0
    run_at: datetime | None = None
    idempotency_key: str | None = None
    idempotency_ttl: str | None = None
    singleton_key: str | None = None
    concurrency_key: str | None = None
    correlation_id: str | None = None
    trace_carrier: Mapping[str, str] | None = None
    meta: Mapping[str, Any] | None = None


@struct
class RunDeliveryRequested:
    """A wakeup was asked for; `available_at` says from when it may be delivered, if not at once."""

    available_at: datetime | None = None


@struct
class RunDispatchReserved:
    """A slot of a bounded queue was set aside."""

    expires_at: datetime | None = None


@struct
class RunDispatchReservationExpired:
    """An unclaimed slot was given back."""


@struct
class RunLeased:
    """A worker session took the run for one attempt; on a bounded queue, under the limit that it keeps to."""

    session_id: UUID
    worker_id: str
    attempt: int
    concurrency_limit: int | None = None


@struct
class RunSucceeded:
    """The handler returned."""

    session_id: UUID
    attempt: int
    result: Any = None


@struct
class RunRetryScheduled:
    """The attempt failed and another follows at `run_at`: `delay_ms` by the policy, moved by the drawn `jitter_ms`."""

    session_id: UUID
    attempt: int
    failure: Failure
    run_at: datetime
    delay_ms: int
    jitter_ms: int


@struct
class RunReleased:
    """The handler asked to continue later; no failure."""

    session_id: UUID
    attempt: int
    run_at: datetime
    reason: str | None = None
    meta: Mapping[str, Any] | None = None


@struct
class RunInterrupted:
    """The worker gave the attempt back before it had an outcome."""

    session_id: UUID
    attempt: int
    reason: str


@struct
class RunLeaseExpired:
    """The owner vanished without a word."""

    session_id: UUID
    attempt: int


@struct
class RunFailed:
    """The run ended in failure."""

    session_id: UUID
    attempt: int
    failure: Failure


@struct
class RunCancellationRequested:
    """Somebody asked a leased run to stop."""

    reason: str | None = None
    meta: Mapping[str, Any] | None = None


@struct
class RunCancelled:
    """The run ended because somebody asked."""

    reason: str | None = None
    meta: Mapping[str, Any] | None = None


@struct
class ScheduleRegistered:
    """A schedule was seen for the first time; only occurrences after now are its business."""

    task_id: str
    queue: str
    cadence: Mapping[str, Any]
    payload: Any
    enabled: bool
    next_at: datetime | None


@struct
class ScheduleChanged:
    """A deployment changed a schedule's definition."""

    task_id: str
    queue: str
    cadence: Mapping[str, Any]
    payload: Any
    enabled: bool
    next_at: datetime | None


@struct
class ScheduleFired:
    """An occurrence made a run; `collapsed` earlier ones, the first due at `collapsed_from`, were missed before it."""

    occurrence_id: UUID
    scheduled_for: datetime
    run_id: UUID
    next_at: datetime | None
    collapsed: int = 0
    collapsed_from: datetime | None = None


@struct
class SchedulePaused:
    """An operator stopped a schedule for a while."""

    reason: str | None = None


@struct
class ScheduleResumed:
    """An operator let a schedule go on; `skipped` occurrences, `skipped_from` to `skipped_until`, were left out."""

    next_at: datetime | None
    reason: str | None = None
    skipped: int = 0
    skipped_from: datetime | None = None
    skipped_until: datetime | None = None


@struct
class ScheduleRemoved:
    """A deployment took a schedule off its task."""


@struct
class IdempotencyReset:
    """An operator freed an idempotency key from the ended run that kept it."""

    task_id: str
    key: str
    run_id: UUID
    reason: str | None = None


@struct
class QueuePaused:
    """An operator stopped the claims from a queue for a while."""

    queue: str
    reason: str | None = None


@struct
class QueueResumed:
    """An operator let a queue go on."""

    queue: str
    reason: str | None = None


@struct
class Head:
    """The last event of a stream within a stretch of the log; `digest` is its digest in hex."""

    stream_id: UUID
    sequence: int
    position: int
    digest: str


@struct
class RunsPruned:
    """Ended runs were removed with their histories, in the environment's own stream.

    `digest` is the SHA-256, in hex, of the lines ``id:sequence`` of the removed runs (their last sequence) in the order
    of their ids, joined by newlines: whoever holds a copy of those histories can prove which ones it speaks of.

    `heads` are what is left of them: of each run its last event in each stretch between two checkpoints that it has
    events in, and its last one of all.  Events of version 1 have none.  `archive` is the SHA-256, in hex, of what they
    were kept in, if anything.  `epoch` is the token of the history that positions belong to; older events have none.
    """

    runs: int
    events: int
    before: datetime
    statuses: tuple[str, ...]
    digest: str
    heads: tuple[Head, ...] = ()
    reason: str | None = None
    archive: str | None = None
    epoch: str | None = None


@struct
class Part:
    """A subtree of a checkpoint's tree; the place of its last leaf."""

    stream_id: UUID
    sequence: int
    position: int
    root: str


@struct
class LogCheckpointed:
    """A stretch of the log was sealed, in the environment's own stream: all behind `from_position` up to `to_position`.

    `root` is that of a Merkle tree (in hex) over the last event that each stream of the environment has there, in the
    order of positions; `parts` are its subtrees of one size (the last one may be smaller), one for each leaf where they
    are few, so that a change can be found.  `previous` is the digest of the event of the checkpoint before, `epoch` the
    token of the history that positions belong to.  `signature` is that of the key with the fingerprint `key`.
    """

    number: int
    from_position: int
    to_position: int
    leaves: int
    root: str
    parts: tuple[Part, ...]
    epoch: str
    previous: str | None = None
    key: str | None = None
    signature: str | None = None


@struct
class RowRepaired:
    """The row of one run was made again from its events, in the environment's own stream.

    `fields` are those that were different, ``row`` if there was none or none belonged there.
    """

    run_id: UUID
    fields: tuple[str, ...]
    reason: str | None = None


@struct
class TablesRebuilt:
    """All rows of an environment were made again from the log, by this version of the folds, in its own stream.

    How many rows there are of each kind, and how many were missing, too many or different before.
    """

    runs: int
    schedules: int
    occurrences: int
    queues: int
    keys: int
    differences: int
    version: int
    reason: str | None = None


@struct
class SubjectErased:
    """The data keys of a subject were destroyed, in the environment's own stream: what they encrypted is gone for good.

    `fingerprint` names the subject to whoever knows its name and has the environment's key; `keys` is how many went.
    """

    fingerprint: str
    keys: int
    reason: str | None = None


RunStep = (
    RunDeliveryRequested
    | RunDispatchReserved
    | RunDispatchReservationExpired
    | RunLeased
    | RunSucceeded
    | RunRetryScheduled
    | RunReleased
    | RunInterrupted
    | RunLeaseExpired
    | RunFailed
    | RunCancellationRequested
    | RunCancelled
)
RunEvent = RunCreated | RunStep
ScheduleStep = ScheduleChanged | ScheduleFired | SchedulePaused | ScheduleResumed | ScheduleRemoved
ScheduleEvent = ScheduleRegistered | ScheduleStep
KeyEvent = IdempotencyReset
QueueEvent = QueuePaused | QueueResumed
EnvironmentEvent = RunsPruned | LogCheckpointed | RowRepaired | TablesRebuilt | SubjectErased
Event = RunEvent | ScheduleEvent | QueueEvent | KeyEvent | EnvironmentEvent


@struct
class Recorded:
    """An event in its envelope; `position` is known once it has been read back from the log."""

    stream_id: UUID
    sequence: int
    event: Event
    occurred_at: datetime
    environment: str
    actor: Actor
    position: int | None = None
