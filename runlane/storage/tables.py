"""The tables as SQLAlchemy sees them; ``schema.sql`` is the truth for PostgreSQL, and a test compares the two.

SQLite's DDL comes from here: times as RFC 3339 text with six digits (they sort as text), ids as text, JSON as text.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from runlane.storage import guards
from runlane.storage.choices import OneOf
from runlane.storage.column_types import SCHEMA as SCHEMA
from runlane.storage.column_types import Guid as Guid
from runlane.storage.column_types import Instant as Instant
from runlane.storage.column_types import Json as Json
from runlane.storage.column_types import Status as Status
from runlane.storage.column_types import instant_to_text as instant_to_text
from runlane.storage.column_types import metadata as metadata

VERSION = 5
#: The statuses of runs that wait for their time.
WAITING = ("scheduled", "released", "retrying")


def _not_null(name: str, kind: Any, **options: Any) -> Column[Any]:
    return Column(name, kind, nullable=False, **options)


schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    _not_null("applied_at", Instant),
)

projection_version = Table(
    "projection_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    _not_null("folded_at", Instant),
)

# On SQLite `position` is the rowid, and the single writer makes it commit order; PostgreSQL has an index of its own
# kind on it.
events = Table(
    "events",
    metadata,
    _not_null("stream_id", Guid),
    _not_null("sequence", Integer),
    _not_null("type", Text),
    _not_null("version", SmallInteger),
    _not_null("occurred_at", Instant),
    _not_null("environment", Text),
    _not_null("actor", Text),
    _not_null("data", Json),
    Column("position", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    _not_null("digest", LargeBinary),
    UniqueConstraint("stream_id", "sequence", name="events_pkey"),
    CheckConstraint("sequence >= 1", name="events_sequence_from_one"),
    sqlite_autoincrement=True,
)

runs = Table(
    "runs",
    metadata,
    _not_null("id", Guid),
    _not_null("environment", Text),
    _not_null("task_id", Text),
    _not_null("queue", Text),
    _not_null("status", Status),
    _not_null("sequence", Integer),
    _not_null("priority", SmallInteger),
    Column("due_at", Instant),
    Column("run_at", Instant),
    _not_null("created_at", Instant),
    _not_null("updated_at", Instant),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    _not_null("attempt_count", Integer),
    _not_null("failure_count", Integer),
    _not_null("retry_count", Integer),
    _not_null("release_count", Integer),
    _not_null("lost_count", Integer),
    Column("lease_session_id", Guid),
    Column("lease_worker_id", Text),
    Column("leased_at", Instant),
    Column("failure", Json),
    Column("reservation", Json),
    Column("cancellation", Json),
    Column("source_run_id", Guid),
    Column("parent_run_id", Guid),
    Column("schedule_id", Text),
    Column("idempotency_key", Text),
    Column("singleton_key", Text),
    Column("concurrency_key", Text),
    Column("correlation_id", Text),
    _not_null("digest", LargeBinary),
    PrimaryKeyConstraint("id", name="runs_pkey"),
    CheckConstraint(
        OneOf("status", "running", "cancellation_requested") == text("(lease_session_id is not null)"),
        name="runs_leased_iff_running",
    ),
    CheckConstraint(
        OneOf("status", "succeeded", "failed", "cancelled") == text("(finished_at is not null)"),
        name="runs_finished_iff_terminal",
    ),
    CheckConstraint(
        OneOf("status", "queued", *WAITING) == text("(due_at is not null)"),
        name="runs_due_iff_claimable",
    ),
)
_READY = text("status = 'queued'")
_WAITING = OneOf("status", *WAITING)
Index(
    "runs_ready",
    runs.c.environment,
    runs.c.queue,
    runs.c.priority.desc(),
    runs.c.due_at,
    runs.c.id,
    runs.c.concurrency_key,
    postgresql_where=_READY,
    sqlite_where=_READY,
)
Index(
    "runs_waiting",
    runs.c.environment,
    runs.c.queue,
    runs.c.priority.desc(),
    runs.c.due_at,
    runs.c.id,
    runs.c.concurrency_key,
    postgresql_where=_WAITING,
    sqlite_where=_WAITING,
)
_SINGLETON = text("singleton_key is not null and finished_at is null")
Index(
    "runs_singleton",
    runs.c.environment,
    runs.c.task_id,
    runs.c.singleton_key,
    unique=True,
    postgresql_where=_SINGLETON,
    sqlite_where=_SINGLETON,
)
_KEYED = text("due_at is not null and concurrency_key is not null")
Index(
    "runs_keyed",
    runs.c.environment,
    runs.c.queue,
    runs.c.concurrency_key,
    runs.c.priority.desc(),
    runs.c.due_at,
    runs.c.id,
    postgresql_where=_KEYED,
    sqlite_where=_KEYED,
)
_OCCUPIED = text("lease_session_id is not null or reservation is not null")
Index(
    "runs_occupied",
    runs.c.environment,
    runs.c.queue,
    runs.c.concurrency_key,
    postgresql_where=_OCCUPIED,
    sqlite_where=_OCCUPIED,
)
_LEASED = text("lease_session_id is not null")
Index("runs_leased", runs.c.lease_session_id, postgresql_where=_LEASED, sqlite_where=_LEASED)
_FAILED = text("status = 'failed'")
Index("runs_failed", runs.c.environment, runs.c.id, postgresql_where=_FAILED, sqlite_where=_FAILED)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    _not_null("environment", Text),
    _not_null("task_id", Text),
    _not_null("key", Text),
    _not_null("run_id", Guid),
    Column("reset_at", Instant),
    PrimaryKeyConstraint("environment", "task_id", "key", name="idempotency_keys_pkey"),
)

sessions = Table(
    "sessions",
    metadata,
    _not_null("id", Guid),
    _not_null("environment", Text),
    _not_null("worker_id", Text),
    _not_null("started_at", Instant),
    _not_null("expires_at", Instant),
    Column("tasks", Json),
    PrimaryKeyConstraint("id", name="sessions_pkey"),
)

maintainers = Table(
    "maintainers",
    metadata,
    _not_null("environment", Text),
    _not_null("definitions", Text),
    _not_null("session_id", Guid),
    _not_null("expires_at", Instant),
    PrimaryKeyConstraint("environment", "definitions", name="maintainers_pkey"),
    postgresql_with={"fillfactor": "50"},
)

outbox = Table(
    "outbox",
    metadata,
    _not_null("run_id", Guid),
    _not_null("sequence", Integer),
    _not_null("environment", Text),
    _not_null("queue", Text),
    _not_null("requested_at", Instant),
    _not_null("status", Text),
    Column("due_at", Instant),
    _not_null("attempts", Integer),
    Column("claimed_by", Guid),
    Column("detail", Text),
    PrimaryKeyConstraint("run_id", "sequence", name="outbox_pkey"),
    CheckConstraint(
        OneOf("status", "pending", "claimed", "published", "failed", "dead_lettered"), name="outbox_status_known"
    ),
    postgresql_with={"fillfactor": "70", "autovacuum_vacuum_scale_factor": "0.02"},
)
_OPEN = OneOf("status", "pending", "claimed", "failed")
Index("outbox_due", outbox.c.environment, outbox.c.due_at, postgresql_where=_OPEN, sqlite_where=_OPEN)
_PUBLISHED = text("status = 'published' and due_at is not null")
Index("outbox_published", outbox.c.environment, outbox.c.due_at, postgresql_where=_PUBLISHED, sqlite_where=_PUBLISHED)
_GIVEN_UP = text("status = 'dead_lettered'")
Index(
    "outbox_given_up", outbox.c.environment, outbox.c.requested_at, postgresql_where=_GIVEN_UP, sqlite_where=_GIVEN_UP
)

queues = Table(
    "queues",
    metadata,
    _not_null("stream_id", Guid),
    _not_null("environment", Text),
    _not_null("name", Text),
    _not_null("sequence", Integer),
    _not_null("paused", Boolean),
    _not_null("updated_at", Instant),
    _not_null("actor", Text),
    Column("reason", Text),
    PrimaryKeyConstraint("environment", "name", name="queues_pkey"),
)

log_epochs = Table(
    "log_epochs",
    metadata,
    _not_null("epoch", Integer, autoincrement=False),
    _not_null("token", Text),
    _not_null("identity", Text),
    _not_null("since", BigInteger),
    _not_null("opened_at", Instant),
    PrimaryKeyConstraint("epoch", name="log_epochs_pkey"),
)

cursors = Table(
    "cursors",
    metadata,
    _not_null("environment", Text),
    _not_null("name", Text),
    _not_null("cursor", Text),
    _not_null("version", BigInteger),
    _not_null("moved_by", Guid),
    _not_null("updated_at", Instant),
    PrimaryKeyConstraint("environment", "name", name="cursors_pkey"),
    postgresql_with={"fillfactor": "50"},
)

inline_projections = Table(
    "inline_projections",
    metadata,
    _not_null("environment", Text),
    _not_null("name", Text),
    _not_null("version", BigInteger),
    _not_null("since", Instant),
    PrimaryKeyConstraint("environment", "name", name="inline_projections_pkey"),
)

subject_keys = Table(
    "subject_keys",
    metadata,
    _not_null("id", Guid),
    _not_null("environment", Text),
    _not_null("subject", Text),
    _not_null("master", Text),
    Column("wrapped", LargeBinary),
    _not_null("created_at", Instant),
    Column("erased_at", Instant),
    PrimaryKeyConstraint("id", name="subject_keys_pkey"),
    CheckConstraint("(wrapped is null) = (erased_at is not null)", name="subject_keys_wrapped_or_erased"),
)
_CURRENT = text("erased_at is null")
Index(
    "subject_keys_current",
    subject_keys.c.environment,
    subject_keys.c.subject,
    unique=True,
    postgresql_where=_CURRENT,
    sqlite_where=_CURRENT,
)

schedules = Table(
    "schedules",
    metadata,
    _not_null("stream_id", Guid),
    _not_null("environment", Text),
    _not_null("schedule_id", Text),
    _not_null("task_id", Text),
    _not_null("queue", Text),
    _not_null("cadence", Json),
    _not_null("payload", Json(null_is_json=True)),
    _not_null("enabled", Boolean),
    _not_null("registered_at", Instant),
    _not_null("sequence", Integer),
    _not_null("updated_at", Instant),
    Column("next_at", Instant),
    Column("last_at", Instant),
    _not_null("fired_count", Integer),
    _not_null("paused", Boolean),
    _not_null("removed", Boolean),
    PrimaryKeyConstraint("stream_id", name="schedules_pkey"),
)
_DUE = text("next_at is not null and not paused")
Index("schedules_due", schedules.c.environment, schedules.c.next_at, postgresql_where=_DUE, sqlite_where=_DUE)

occurrences = Table(
    "occurrences",
    metadata,
    _not_null("environment", Text),
    _not_null("schedule_id", Text),
    _not_null("scheduled_for", Instant),
    _not_null("id", Guid),
    _not_null("run_id", Guid),
    PrimaryKeyConstraint("environment", "schedule_id", "scheduled_for", name="occurrences_pkey"),
)

guards.attach(metadata)
