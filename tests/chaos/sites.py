"""The database of a soak, as whoever watches it needs it: what it holds, how it is, and how to reach it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

import psycopg

from tests.chaos import gauges
from tests.chaos.growth import Bound
from tests.chaos.history import Event, Evidence, read_postgres, read_sqlite
from tests.chaos.history.evidence import events_of_postgres, events_of_sqlite
from tests.chaos.proxy import Proxy
from tests.chaos.server import OwnPostgres

#: What there was, and what of it has ended.
_COUNTS = "select count(*), count(finished_at) from {}runs"
_UNFINISHED = "select count(*) from {}runs where finished_at is null and {} < {}"


class Site(Protocol):
    """One database, and the URLs that lead to it."""

    kind: str
    urls: list[str]
    bounds: Mapping[str, Bound]
    name: str

    @property
    def server(self) -> OwnPostgres | None:
        """Which may be killed."""

    @property
    def proxy(self) -> Proxy | None:
        """Which may be struck."""

    def gauges(self) -> dict[str, float]:
        """What it says of itself."""

    def counts(self) -> tuple[int, int]:
        """How many runs there are, and how many of them have ended."""

    def unfinished(self, before: float) -> int:
        """How many runs were made before a moment, in seconds since 1970, and have not ended."""

    def events(self, after: int) -> list[Event]:
        """The log behind a position."""

    def evidence(self) -> Evidence:
        """The log and the tables."""

    def close(self) -> None:
        """Nobody needs it any more."""


class SqliteSite:
    """A new file."""

    kind = "sqlite"
    bounds = gauges.ON_SQLITE
    server = None
    proxy = None
    name = ""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "soak.db"
        self.urls = [f"sqlite:///{self._file}"]

    def gauges(self) -> dict[str, float]:
        return gauges.of_sqlite(self._file)

    def counts(self) -> tuple[int, int]:
        with self._open() as connection:
            created, finished = connection.execute(_COUNTS.format("")).fetchone()
        return int(created), int(finished)

    def unfinished(self, before: float) -> int:
        with self._open() as connection:
            (found,) = connection.execute(_UNFINISHED.format("", "unixepoch(created_at)", before)).fetchone()
        return int(found)

    def events(self, after: int) -> list[Event]:
        with self._open() as connection:
            return events_of_sqlite(connection, after)

    def evidence(self) -> Evidence:
        return read_sqlite(self._file)

    def close(self) -> None:
        pass

    def _open(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=30))


class PostgresSite:
    """A new database on a server that may be killed, with a proxy before it."""

    kind = "postgres"
    bounds = gauges.ON_POSTGRES
    name = "soak"

    def __init__(self, server: OwnPostgres) -> None:
        self.server = server
        server.start()
        server.execute(f"create database {self.name}")
        self.proxy = Proxy(server.socket)
        through = f"postgresql://postgres@127.0.0.1:{self.proxy.port}/{self.name}"
        self.urls = [server.url(self.name), through]

    def gauges(self) -> dict[str, float]:
        return gauges.of_postgres(self.server.conninfo(self.name))

    def counts(self) -> tuple[int, int]:
        ((created, finished),) = self.server.execute(_COUNTS.format("runlane."), self.name)
        return int(created), int(finished)

    def unfinished(self, before: float) -> int:
        asked = _UNFINISHED.format("runlane.", "created_at", f"to_timestamp({before})")
        return int(self.server.execute(asked, self.name)[0][0])

    def events(self, after: int) -> list[Event]:
        with psycopg.connect(self.server.conninfo(self.name)) as connection:
            return events_of_postgres(connection, after=after)

    def evidence(self) -> Evidence:
        return read_postgres(self.server.conninfo(self.name))

    def close(self) -> None:
        self.proxy.close()
