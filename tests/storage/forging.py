"""What somebody can do who owns the database: change history, and write every digest behind the change again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from attrs import define
from sqlalchemy import select, update

from runlane import Runlane
from runlane.digests import START
from runlane.storage import streams, tables
from tests.support import database_of, execute

_EVENTS = tables.events


@define
class Forged:
    """An event as it is to be stored; what ``streams.digest_of`` reads."""

    stream_id: UUID
    sequence: int
    type: str
    version: int
    data: str
    occurred_at: Any
    environment: str
    actor: str
    position: int
    digest: bytes


def unguard(app: Runlane) -> None:
    """Take the guards of the log away."""
    if database_of(app).schema is None:
        for guard in ("update", "delete", "replace"):
            execute(database_of(app), f"drop trigger if exists events_refuse_{guard}")
    else:
        execute(database_of(app), "alter table {events} disable trigger user")


def stream_of(app: Runlane, stream_id: UUID) -> list[Forged]:
    """The events of a stream as they are stored."""
    with database_of(app).read() as tx:
        found = tx.execute(select(*streams.ENVELOPE).where(_EVENTS.c.stream_id == stream_id).order_by("sequence"))
        return [Forged(*row) for row in found]


def write(app: Runlane, events: list[Forged]) -> None:
    """Store a stream like this, with right digests, also in the row of the run; its sequences are there already."""
    before = START
    with database_of(app).write() as tx:
        for event in events:
            event.digest = before = streams.digest_of(before, event)
            values = {
                "type": event.type,
                "version": event.version,
                "occurred_at": event.occurred_at,
                "environment": event.environment,
                "actor": event.actor,
                "digest": event.digest,
            }
            place = (_EVENTS.c.stream_id == event.stream_id) & (_EVENTS.c.sequence == event.sequence)
            assert tx.execute(update(_EVENTS).where(place).values(**values)).rowcount == 1
            name = "events" if tx.schema is None else f"{tx.schema}.events"
            mark = "?" if tx.schema is None else "%s"
            id = str(event.stream_id) if tx.schema is None else event.stream_id
            tx.connection.exec_driver_sql(
                f"update {name} set data = {mark} where stream_id = {mark} and sequence = {mark}",
                (event.data, id, event.sequence),
            )
        tx.execute(update(tables.runs).where(tables.runs.c.id == events[0].stream_id).values(digest=before))


def rewrite(app: Runlane, stream_id: UUID, change: Callable[[list[Forged]], None]) -> None:
    """Change a history so that its chain of digests holds."""
    events = stream_of(app, stream_id)
    change(events)
    write(app, events)
