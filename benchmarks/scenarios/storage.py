"""What a finished run takes on the disk."""

from __future__ import annotations

import random

from attrs import frozen

from benchmarks.counting import counted
from benchmarks.databases import Databases
from benchmarks.figures import Figures, Sample
from benchmarks.jobs import BULK, carry, usual_payload
from benchmarks.places import execute
from benchmarks.scenarios.contract import Scenario, option, repeated
from runlane import Runlane, RunStatus

_SIZES = """
    select c.relname, case c.relkind when 'r' then pg_table_size(c.oid) else pg_relation_size(c.oid) end
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = :schema and c.relkind in ('r', 'i')
"""
_UPDATES = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where schemaname = :schema and relname = 'runs'"


@frozen
class Options:
    """How many."""

    runs: int = option(20_000, "Runs with a payload of 178 bytes, triggered 1,000 at a time.")


def once(places: Databases, options: Options, _: random.Random) -> Sample:
    """Trigger and drain, and see what has grown; nothing is vacuumed in between."""
    with places.fresh().app() as app:
        sizes, written = _sizes(app), [_wal(app)]
        for start in range(0, options.runs, BULK):
            numbers = range(start, min(start + BULK, options.runs))
            app.trigger_many(carry, [usual_payload(number) for number in numbers])
        written.append(_wal(app))
        app.worker("drain", concurrency=500).run()
        written.append(_wal(app))
        counted(app, RunStatus.SUCCEEDED, options.runs, events_per_run=4)
        grown = {name: size - sizes.get(name, 0) for name, size in _sizes(app).items()}
        figures: Figures = {"total_bytes_per_run": sum(grown.values()) / options.runs}
        for name, size in sorted(grown.items(), key=lambda one: -one[1]):
            if size >= options.runs:  # what keeps less than a byte of each does not matter
                figures[f"{name}_bytes_per_run"] = size / options.runs
        if places.is_postgres:
            figures["wal_of_trigger_bytes_per_run"] = (written[1] - written[0]) / options.runs
            figures["wal_of_drain_bytes_per_run"] = (written[2] - written[1]) / options.runs
            figures["hot_updates_percent"] = _hot_percent(app)
    return Sample(figures)


def _sizes(app: Runlane) -> dict[str, int]:
    """Bytes of each table, with what it keeps aside, and of each index."""
    if (schema := app.lane.database.schema) is not None:
        return {name: int(size) for name, size in execute(app, _SIZES, schema=schema)}
    return {name: int(size) for name, size in execute(app, "select name, sum(pgsize) from dbstat group by name")}


def _wal(app: Runlane) -> int:
    """Bytes of write-ahead log so far, of the whole server."""
    if app.lane.database.schema is None:
        return 0
    return int(execute(app, "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0][0])


def _hot_percent(app: Runlane) -> float:
    execute(app, "select pg_stat_force_next_flush()")
    updates, hot = execute(app, _UPDATES, schema=app.lane.database.schema)[0]
    return float(100 * hot / max(1, updates))


SCENARIO = Scenario(
    "storage",
    "What a finished run takes on the disk.  Bytes of each table and index, and of write-ahead log (PostgreSQL).",
    Options,
    repeated(once),
    lambda options: "178-byte payload, four events",
    tiny={"runs": 60},
)
