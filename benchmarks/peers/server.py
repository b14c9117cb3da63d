"""The one PostgreSQL that all of them work on, and an empty database for every measurement."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from attrs import define
from psycopg import sql
from sqlalchemy.engine import make_url

from benchmarks.servers import SETTINGS, own_postgres

#: Every ordinary table counts, whatever a peer calls it: nothing that it stores can stay outside.
_SIZE = """
select coalesce(sum(pg_total_relation_size(c.oid)), 0) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm') and n.nspname not in ('pg_catalog', 'information_schema')
"""
_TABLES = """
select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema')
"""
_NAME = f"bench_peer_{os.getpid()}"
_TOLD = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "autovacuum", *SETTINGS)


@define
class Database:
    """An open database of one measurement, watched from outside the peer."""

    url: str
    _connection: psycopg.Connection[Any]

    def value(self, statement: str) -> Any:
        """The one value that a statement selects."""
        row = self._connection.execute(statement.encode()).fetchone()
        assert row is not None
        return row[0]

    def size(self) -> int:
        """Bytes of all tables with their indexes."""
        return int(self.value(_SIZE))

    def rows(self) -> int:
        """Rows in all tables."""
        tables = [name for (name,) in self._connection.execute(_TABLES).fetchall()]
        return sum(int(self.value(f"select count(*) from {name}")) for name in tables)

    def settle(self) -> None:
        """Fresh statistics and an empty checkpoint, so that a drain begins alike for everybody."""
        self._connection.execute("vacuum analyze")
        self._connection.execute("checkpoint")


@define
class Server:
    """A PostgreSQL server with a user who may create databases."""

    admin: str

    @contextmanager
    def fresh(self) -> Iterator[Database]:
        """An empty database that lasts as long as the block."""
        name = sql.Identifier(_NAME)
        with psycopg.connect(self.admin, autocommit=True) as admin:
            admin.execute(sql.SQL("drop database if exists {} with (force)").format(name))
            admin.execute(sql.SQL("create database {}").format(name))
            try:
                url = self._url_of(_NAME)
                with psycopg.connect(url, autocommit=True) as connection:
                    yield Database(url, connection)
            finally:
                admin.execute(sql.SQL("drop database if exists {} with (force)").format(name))

    def process(self) -> int | None:
        """The id of the server's main process; None if it runs elsewhere or its folder is not to be read."""
        with psycopg.connect(self.admin, autocommit=True) as admin:
            folder = admin.execute("show data_directory").fetchone()
        assert folder is not None
        try:
            return int((Path(folder[0]) / "postmaster.pid").read_text().split("\n", 1)[0])
        except OSError:
            return None

    def settings(self) -> dict[str, str]:
        """What of its settings decides the figures."""
        with psycopg.connect(self.admin, autocommit=True) as admin:
            rows = admin.execute(
                "select name, setting from pg_settings where name = any(%s)", (list(_TOLD),)
            ).fetchall()
        return {str(name): str(setting) for name, setting in rows}

    def _url_of(self, database: str) -> str:
        return make_url(self.admin).set(database=database).render_as_string(hide_password=False)


@contextmanager
def own_server() -> Iterator[Server]:
    """A server that lives as long as the block, with the settings of the other benchmarks."""
    with tempfile.TemporaryDirectory(prefix="runlane-peers-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as a user of its own where we are root
        with own_postgres(Path(folder) / "data") as admin:
            yield Server(admin)
