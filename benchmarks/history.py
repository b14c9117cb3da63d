"""A long history made quickly: real runs, copied by the database itself under new ids."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from attrs import evolve
from sqlalchemy import event, text

from benchmarks.counting import counted
from benchmarks.jobs import noop
from benchmarks.places import Place, execute
from runlane import Runlane, RunStatus
from runlane.digests import digest, microseconds
from runlane.storage import tables
from runlane.storage.database import Database

_AT_ONCE = 50_000
_SAMPLE = 20
#: Ids of version 7, one in each millisecond from :base on, as text; `i` counts the copies.
_NEW_ID = {
    "postgresql": "(lpad(to_hex(:base + i), 12, '0') || '7' || lpad(to_hex(i % 4096), 3, '0') || '8'"
    " || substr(md5(cast(:salt as text) || i), 1, 15))::uuid",
    "sqlite": "printf('%08x-%04x-7%03x-8%03x-%012x', (:base + i) >> 16, (:base + i) & 65535, i % 4096,"
    " (i * 7919) % 4096, (i * 2654435761 + :salt) % 281474976710656)",
}
_COUNTER = {
    "postgresql": "generate_series(cast(:first as bigint), :last) as n(i)",
    "sqlite": "(with recursive n(i) as (select :first union all select i + 1 from n where i < :last)"
    " select i from n) n",
}


_NOTHING = {"postgresql": "''::bytea", "sqlite": "x''"}


def _digest_of_texts(before: bytes, *facts: Any) -> bytes:
    """What a SQLite connection calls ``event_digest``."""
    stream_id, sequence, type_, version, at, *rest = facts
    since = microseconds(datetime.fromisoformat(at))
    return digest(before, stream_id, sequence, type_, version, since, *rest)


@contextmanager
def _able_to_digest(database: Database) -> Iterator[None]:
    """PostgreSQL has the function; connections to SQLite are given it for as long as this lasts."""
    if database.schema is not None:
        yield
        return

    def taken(raw: Any, *_: Any) -> None:
        raw.create_function("event_digest", 9, _digest_of_texts)

    event.listen(database.engine, "checkout", taken)
    try:
        yield
    finally:
        event.remove(database.engine, "checkout", taken)


class History:
    """Copies of one run, as many as are wanted.

    Args:
        place: where the run is that is copied: in an environment beside this one, so that nobody works on it.
        app: the runtime that gets the copies.
        finished: whether they have ended; else they wait.
    """

    def __init__(self, place: Place, app: Runlane, *, finished: bool) -> None:
        self._app = app
        self._made = 0
        template = f"{place.environment}-{'finished' if finished else 'waiting'}"
        with evolve(place, environment=template).app() as beside:
            self._template = beside.trigger(noop, 0).run
            if finished:
                beside.worker("drain", concurrency=1).run()
                self._template = beside.runs.get(self._template.id)
            status = RunStatus.SUCCEEDED if finished else RunStatus.QUEUED
            counted(beside, status, 1, events_per_run=4 if finished else 2)

    def add(self, copies: int) -> None:
        """Make so many more, let the database tidy up as it would in time, and verify a sample.

        Raises:
            SystemExit: the copies are not what the engine itself would have written.
        """
        first, self._made = self._made + 1, self._made + copies
        with _able_to_digest(self._app.lane.database):
            for start in range(first, self._made + 1, _AT_ONCE):
                self._copy(start, min(start + _AT_ONCE - 1, self._made))
        self._tidy()
        drawn = random.Random(copies)
        for number in sorted({drawn.randint(first, self._made) for _ in range(_SAMPLE)}):
            if (found := self._app.audit.verify(self._id(number))).differences:
                raise SystemExit(f"a copied history does not verify: {found.differences[0]}")

    def _copy(self, first: int, last: int) -> None:
        dialect = self._app.lane.database.dialect.name
        values = {
            **self._named(first, last),
            "template": self._as_stored(self._template.id),
            "environment": self._app.environment,
        }
        ids, counter = _NEW_ID[dialect], _COUNTER[dialect]
        columns = [column.name for column in tables.events.columns if column.name not in ("position", "digest")]
        others = ", ".join(name for name in columns if name not in ("stream_id", "environment"))
        # Each event behind the digest of the one before it: one statement for each place in a history.
        for sequence in range(1, self._template.sequence + 1):
            before = "select p.digest from {events} p where p.stream_id = c.id and p.sequence = c.sequence - 1"
            copies = (
                f"(select {ids} as id, t.* from {counter} cross join"
                " (select * from {events} where stream_id = :template and sequence = :sequence) t) c"
            )
            facts = "c.id, c.sequence, c.type, c.version, c.occurred_at, cast(:environment as text), c.actor"
            execute(
                self._app,
                f"insert into {{events}} (stream_id, environment, {others}, digest) select c.id, :environment, "
                + ", ".join(f"c.{name}" for name in others.split(", "))
                + f", {{event_digest}}(coalesce(({before}), {_NOTHING[dialect]}), {facts}, cast(c.data as text))"
                + f" from {copies} order by c.id",
                **values,
                sequence=sequence,
            )
        named = [column.name for column in tables.runs.columns if column.name not in ("id", "environment", "digest")]
        others = ", ".join(named)
        execute(
            self._app,
            f"insert into {{runs}} (id, environment, {others}, digest) select c.id, :environment, {others}, "
            "(select e.digest from {events} e where e.stream_id = c.id and e.sequence = c.sequence)"
            f" from (select {ids} as id, {others} from {counter} cross join"
            " (select * from {runs} where id = :template) t) c order by c.id",
            **values,
        )

    def _named(self, first: int, last: int) -> dict[str, object]:
        """What their ids are made of: as if they had been made ten days before the one that is copied."""
        base = int((self._template.created_at - timedelta(days=10)).timestamp() * 1000)
        return {"first": first, "last": last, "base": base, "salt": self._template.id.int % 2**31}

    def _as_stored(self, id: UUID) -> object:
        return id if self._app.lane.database.dialect.name == "postgresql" else str(id)

    def _id(self, number: int) -> UUID:
        dialect = self._app.lane.database.dialect.name
        statement = f"select {_NEW_ID[dialect]} from {_COUNTER[dialect]}"
        return UUID(str(execute(self._app, statement, **self._named(number, number))[0][0]))

    def _tidy(self) -> None:
        database = self._app.lane.database
        if database.schema is None:
            execute(self._app, "analyze")
            return
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in ("runs", "events"):
                connection.execute(text(f"vacuum analyze {database.schema}.{table}"))
