"""Databases to measure on: a given one, a SQLite file, or a PostgreSQL of our own that comes as a package."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from attrs import define, field

from benchmarks.knobs import Knobs
from benchmarks.places import Place, execute
from benchmarks.servers import own_postgres


@define
class Databases:
    """Gives each measurement a place of its own: a fresh database, or a fresh environment in a given one."""

    kind: str
    knobs: Knobs = field(factory=Knobs)
    _given: str | None = None
    _admin: str | None = None
    _folder: Path | None = None
    _numbers: Iterator[int] = field(factory=lambda: count(1))
    _kept: dict[str, Place] = field(factory=dict)

    @property
    def shared(self) -> bool:
        """Whether several processes can work on one of these databases."""
        return self.kind != "memory"

    @property
    def is_postgres(self) -> bool:
        """Whether they are PostgreSQL's."""
        return self.kind.startswith("postgres")

    def fresh(self) -> Place:
        """A migrated database with nothing in it, or in the environment to use."""
        number = next(self._numbers)
        environment = "bench"
        if self._given is not None:
            url, environment = self._given, f"bench-{secrets.token_hex(4)}"
        elif self._admin is not None:
            url = self._create(f"bench_{number}")
        else:
            assert self._folder is not None
            url = f"sqlite:///{self._folder / f'bench-{number}.db'}"
        fillfactor = self.knobs.fillfactor if self.is_postgres else None
        if fillfactor is not None and self._given is not None:
            raise SystemExit("the fillfactor is turned only on a database that is thrown away: --database postgres")
        place = Place(url, environment, self.knobs)
        app = place.app()
        app.migrate()
        if fillfactor is not None:
            execute(app, f"alter table {{runs}} set (fillfactor = {fillfactor})")
        app.close()
        return place

    def kept(self, name: str, fill: Callable[[Place], object]) -> Place:
        """A place that several cases read: `fill` puts something in it for the first of them."""
        if name not in self._kept:
            place = self.fresh()
            fill(place)
            self._kept[name] = place
        return self._kept[name]

    def _create(self, name: str) -> str:
        import psycopg
        from sqlalchemy.engine import make_url

        assert self._admin is not None
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
            connection.execute("checkpoint")
        return make_url(self._admin).set(database=name).render_as_string(hide_password=False)


@contextmanager
def databases(named: str, knobs: Knobs | None = None) -> Iterator[Databases]:
    """What ``--database`` names: ``postgres`` (a server of our own), ``sqlite`` (a file of our own), or a URL."""
    knobs = knobs or Knobs()
    if named not in ("postgres", "sqlite"):
        yield Databases(named.partition(":")[0].partition("+")[0], knobs, given=named)
        return
    with tempfile.TemporaryDirectory(prefix="runlane-bench-", ignore_cleanup_errors=True) as folder:
        if named == "sqlite":
            yield Databases("sqlite", knobs, folder=Path(folder))
            return
        Path(folder).chmod(0o755)
        with own_postgres(Path(folder) / "data") as admin:
            yield Databases("postgresql", knobs, admin=admin)
