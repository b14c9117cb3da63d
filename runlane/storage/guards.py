"""SQLite: the triggers that keep the log append-only; on PostgreSQL they stand in ``schema.sql``.

SQLite has no statement triggers that could look at everything a DELETE has removed.  There the runs to go are named in
a table of their own, which takes only ended runs, and only right behind the event that tells of them; a row left in it
by a stranger is worth nothing once anything else is appended.
"""

from __future__ import annotations

from sqlalchemy import DDL, MetaData, event

_TOLD = "(select type from events order by position desc limit 1) = 'environment.pruned'"
_UNTOLD = "raise(abort, 'the event log is append-only: only ended runs are pruned, and the log tells of it')"
_GUARDS = (
    """
    create trigger events_refuse_update before update on events begin
      select raise(abort, 'the event log is append-only'); end""",
    f"""
    create trigger events_refuse_delete before delete on events
    when not ({_TOLD} and exists (select 1 from pruning where run_id = old.stream_id)) begin
      select raise(abort, 'the event log is append-only'); end""",
    "create table pruning (run_id text not null primary key) without rowid",
    f"""
    create trigger pruning_refuse_insert before insert on pruning
    when not ({_TOLD} and exists (select 1 from runs where id = new.run_id
      and status in ('succeeded', 'failed', 'cancelled'))) begin select {_UNTOLD}; end""",
    f"create trigger pruning_refuse_update before update on pruning begin select {_UNTOLD}; end",
    # REPLACE deletes without asking the trigger above, unless the connection wants recursive triggers.
    """
    create trigger events_refuse_replace before insert on events when exists (select 1 from events
      where stream_id = new.stream_id and sequence = new.sequence or position = new.position) begin
      select raise(abort, 'the event log is append-only: this event exists'); end""",
)


def attach(metadata: MetaData) -> None:
    """Have them made behind the tables."""
    for guard in _GUARDS:
        event.listen(metadata, "after_create", DDL(guard).execute_if(dialect="sqlite"))  # type: ignore[no-untyped-call]
