"""What a soak measures every few seconds: processes by /proc, and the database by plain SQL."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

import psycopg

from tests.chaos.growth import Bound

#: Rewritten or emptied all the time: what is dead in them has to be cleaned up as fast as it comes to be.
HOT = ("runs", "sessions", "outbox", "maintainers", "idempotency_keys")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MB = 1024 * 1024

OF_PROCESSES: Mapping[str, Bound] = {
    "rss_mb": Bound(1.1, 10.0),
    "open_files": Bound(1.0, 8.0),
    "threads": Bound(1.0, 6.0),
}
_OF_WORK: Mapping[str, Bound] = {
    "oldest_unfinished_seconds": Bound(1.5, 15.0),
    "oldest_due_seconds": Bound(1.5, 10.0),
    "oldest_in_outbox_seconds": Bound(1.5, 15.0),
    "unfinished_runs": Bound(1.5, 60.0),
    "sessions": Bound(1.3, 5.0),
}
ON_POSTGRES: Mapping[str, Bound] = {
    **_OF_WORK,
    "connections": Bound(1.2, 10.0),
    **{f"{table}_dead_rows": Bound(1.5, 5_000.0) for table in HOT},
    **{f"{table}_mb": Bound(1.3, 4.0) for table in HOT},
    # What was pruned leaves some 170 bytes a run in the log for good.
    "events_mb": Bound(1.3, 16.0),
}
ON_SQLITE: Mapping[str, Bound] = {**_OF_WORK, "file_mb": Bound(1.3, 16.0), "wal_mb": Bound(1.5, 16.0)}

_WORK = """
select {since}min(case when finished_at is null then created_at end){until},
  {since}min(case when due_at <= {now} then due_at end){until},
  (select {since}min(requested_at){until} from {schema}outbox where status in ('pending', 'claimed', 'failed')),
  sum(case when finished_at is null then 1 else 0 end),
  (select count(*) from {schema}sessions)
from {schema}runs
"""
_POSTGRES = _WORK.format(
    since="extract(epoch from clock_timestamp() - ", until=")", schema="runlane.", now="clock_timestamp()"
)
_SQLITE = _WORK.format(
    since="86400 * (julianday('now') - julianday(",
    until="))",
    schema="",
    now="strftime('%Y-%m-%dT%H:%M:%fZ')",
)


def of_process(name: str, pid: int) -> dict[str, float]:
    """Memory, open files and threads of a process; nothing if it has ended."""
    place = Path("/proc") / str(pid)
    try:
        return {
            f"{name}_rss_mb": int((place / "statm").read_text().split()[1]) * _PAGE / _MB,
            f"{name}_open_files": float(len(os.listdir(place / "fd"))),
            f"{name}_threads": float(len(os.listdir(place / "task"))),
        }
    except OSError:
        return {}


def of_postgres(conninfo: str) -> dict[str, float]:
    """What the database says of itself; nothing while it is away."""
    found: dict[str, float] = {}
    with suppress(psycopg.Error), psycopg.connect(conninfo, autocommit=True) as connection:
        found |= _work(connection.execute(_POSTGRES.encode()).fetchone())
        asked = (
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        for (number,) in connection.execute(asked):
            found["connections"] = float(number)
        asked = (
            "select relname, n_dead_tup, pg_total_relation_size(relid) from pg_stat_user_tables"
            " where schemaname = 'runlane'"
        )
        for table, dead, size in connection.execute(asked):
            if table in (*HOT, "events"):
                found[f"{table}_mb"] = size / _MB
            if table in HOT:
                found[f"{table}_dead_rows"] = float(dead)
    return found


def of_sqlite(file: Path) -> dict[str, float]:
    """What the file and its tables say; nothing of the tables while they are locked."""
    wal = file.with_name(f"{file.name}-wal")
    found = {"file_mb": file.stat().st_size / _MB, "wal_mb": (wal.stat().st_size if wal.exists() else 0) / _MB}
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        found |= _work(connection.execute(_SQLITE).fetchone())
    return found


def _work(row: tuple[object, ...] | None) -> dict[str, float]:
    """Nothing waits: then nothing is old."""
    return {
        name: float(str(value)) if value is not None else 0.0 for name, value in zip(_OF_WORK, row or (), strict=True)
    }
