"""From one version of the tables to the next, for databases that an earlier Runlane has made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection, insert

from runlane.storage import backfill, script, sqlite_ddl, tables


def _to_2(connection: Connection, schema: str | None) -> None:
    """Wakeups that are published, slots reserved for them, maintenance by one of many, what a worker process knows."""
    of = "" if schema is None else f'"{schema}".'
    connection.exec_driver_sql(f"drop index {of}runs_occupied")
    next(index for index in tables.runs.indexes if index.name == "runs_occupied").create(connection)
    for table in (tables.maintainers, tables.outbox):
        table.create(connection)
    # Last: while it waits for its lock no heartbeat gets through, and it must not wait for readers of `runs` meanwhile.
    connection.exec_driver_sql(f"alter table {of}sessions add column tasks {'text' if schema is None else 'json'}")


def _to_3(connection: Connection, schema: str | None) -> None:
    """Room on the pages for what a run is going to need; pages that are there already stay as they are."""
    if schema is not None:
        connection.exec_driver_sql(f'alter index "{schema}".events_pkey set (fillfactor = 45)')
        connection.exec_driver_sql(f'alter table "{schema}".runs set (fillfactor = 50)')


def _to_4(connection: Connection, schema: str | None) -> None:
    """An index of failed runs; on SQLite lists of statuses are compared one by one, in checks and indexes."""
    if schema is not None:
        next(index for index in tables.runs.indexes if index.name == "runs_failed").create(connection)
    else:
        sqlite_ddl.renew(connection, tables.outbox)  # `runs` as well, with version 5


def _to_5(connection: Connection, schema: str | None) -> None:
    """Everything that version 5 brings, part by part."""
    _digests(connection, schema)
    _followers(connection, schema)
    for table in (tables.subject_keys, tables.inline_projections):
        table.create(connection)
    # It is there already where the table was made on the way here.
    next(index for index in tables.outbox.indexes if index.name == "outbox_given_up").create(
        connection, checkfirst=True
    )
    if schema is not None:
        _functions(connection, schema)
    # By which version of the folds the tables were made: up to here there has been only the first.
    tables.projection_version.create(connection)
    connection.execute(insert(tables.projection_version).values(version=1, folded_at=datetime.now(UTC)))


def _digests(connection: Connection, schema: str | None) -> None:
    if schema is not None:
        backfill.on_postgres(connection, schema, script.function("event_digest"))
    else:
        backfill.on_sqlite(connection)


def _followers(connection: Connection, schema: str | None) -> None:
    """Followers of the log: epochs, named cursors, and on PostgreSQL the bounds of positions on each few pages."""
    for table in (tables.log_epochs, tables.cursors):
        table.create(connection)
    if schema is not None:
        connection.exec_driver_sql(
            f'create index events_position on "{schema}".events using brin (position)'
            " with (pages_per_range = 16, autosummarize = on)"
        )


def _functions(connection: Connection, schema: str) -> None:
    """What prunes with the rights of the tables' owner, for who may execute it; PUBLIC may execute nothing any more."""
    run = connection.exec_driver_sql
    run(f'set local search_path to "{schema}", pg_temp')
    for name in ("lock_for_pruning", "prune_runs", "require_inline"):
        run(script.function(name), execution_options={"no_parameters": True})
    private = ("event_digest", "refuse_change", "refuse_untold_deletion", "lock_for_pruning", "prune_runs")
    for name in (*private, "require_inline"):
        run(f"revoke all on function {name} from public")
    run("reset search_path")


#: What leads to each version from the one before, in the transaction of the migration.
STEPS: Mapping[int, Callable[[Connection, str | None], None]] = {2: _to_2, 3: _to_3, 4: _to_4, 5: _to_5}
