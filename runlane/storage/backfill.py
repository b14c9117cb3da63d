"""Digests for a log that was written without: each event and each run gets the one it would have been given."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection

from runlane.digests import START, digest, microseconds
from runlane.storage import sqlite_ddl, tables

_AT_ONCE = 5000
_FACTS = "stream_id, sequence, type, version, occurred_at, environment, actor, data"
_FILL = f"""
do $fill$
declare
  e record;
  stream uuid;
  head bytea;
begin
  for e in select {_FACTS} from events order by stream_id, sequence loop
    if stream is distinct from e.stream_id then
      stream := e.stream_id;
      head := '';
    end if;
    head := event_digest(head, e.stream_id, e.sequence, e.type, e.version, e.occurred_at, e.environment, e.actor,
      e.data::text);
    update events set digest = head where stream_id = e.stream_id and sequence = e.sequence;
  end loop;
end $fill$"""
_OF_RUNS = "(select digest from {events} e where e.stream_id = {runs}.id and e.sequence = {runs}.sequence)"


def on_postgres(connection: Connection, schema: str, function: str) -> None:
    """Add the columns and fill them; `function` is the statement that creates ``event_digest``."""
    run = connection.exec_driver_sql
    run(f'set local search_path to "{schema}", pg_temp')
    for statement in (
        function,
        "alter table events add column digest bytea",
        "alter table events disable trigger events_append_only",
        _FILL,
        "alter table events enable always trigger events_append_only",
        "alter table events alter column digest set not null",
        "alter table runs add column digest bytea",
        # A row without history is for `audit verify` to find.
        f"update runs set digest = coalesce({_OF_RUNS.format(events='events', runs='runs')}, '')",
        "alter table runs alter column digest set not null",
    ):
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    run("reset search_path")


def on_sqlite(connection: Connection) -> None:
    """The same for a file; both tables are made anew, as SQLite adds no column that must not be empty."""
    run = connection.exec_driver_sql
    guard = "events_refuse_update"
    refuse = run("select sql from sqlite_master where name = ?", (guard,)).scalar_one()
    highest = run("select seq from sqlite_sequence where name = 'events'").scalar()
    run("alter table events add column digest blob")
    run(f"drop trigger {guard}")
    rows = _digested(run(f"select position, {_FACTS} from events order by stream_id, sequence").all())
    while batch := list(islice(rows, _AT_ONCE)):
        run("update events set digest = ? where position = ?", batch)
    run(refuse)
    sqlite_ddl.renew(connection, tables.events)
    if highest is not None:  # positions of events that were pruned are not given again
        run("delete from sqlite_sequence where name = 'events'")
        run("insert into sqlite_sequence (name, seq) values ('events', ?)", (highest,))
    run("alter table runs add column digest blob")
    run(f"update runs set digest = coalesce({_OF_RUNS.format(events='events', runs='runs')}, x'')")
    sqlite_ddl.renew(connection, tables.runs)


def _digested(events: Any) -> Iterator[tuple[bytes, int]]:
    stream, head = None, START
    for position, stream_id, sequence, type_, version, at, environment, actor, data in events:
        if stream_id != stream:
            stream, head = stream_id, START
        since = microseconds(datetime.fromisoformat(at))
        head = digest(head, stream_id, sequence, type_, version, since, environment, actor, data)
        yield head, position
