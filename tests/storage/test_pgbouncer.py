"""Behind a real PgBouncer in transaction mode: everything works, or says at once what is wrong and what would be right.

Each transaction may be on another session of the server there, and other clients' come in between.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from runlane import ConfigurationInvalid, Fixed, Queue, Retry, Runlane, RunStatus, Schedule, postgres_lane, task
from runlane.storage import poolers
from runlane.transport.notify import NotifyTransport, channel_of
from tests.bouncer import Bouncer, bouncer, needs_pgbouncer, version
from tests.chaos.proxy import Proxy
from tests.conftest import PostgresServer
from tests.faults.driver import Call, engines_of, struck
from tests.support import PATIENCE, at_once, database_of, eventually

pytestmark = needs_pgbouncer

keeps_statements = pytest.mark.skipif(version() < (1, 21), reason="this PgBouncer keeps no prepared statements")

NEVER = 3600.0
DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
plenty, narrow = Queue("plenty", default=True), Queue("narrow", concurrency_limit=2)


@task("bounced.echo", queue=plenty)
def echo(payload: Any) -> Any:
    return payload


@task("bounced.narrow", queue=narrow, retry=Retry(max_attempts=3, backoff=Fixed("10ms")))
def at_second(payload: int, context: Any) -> int:
    if context.attempt == 1:
        raise ValueError("not at once")
    return payload


@task("bounced.often", queue=plenty, schedules=[Schedule("bounced-often", every="1s")])
def often() -> None:
    pass


@pytest.fixture
def three(postgres: PostgresServer) -> Iterator[Bouncer]:
    """Three sessions of the server for all clients."""
    with bouncer(postgres.admin_url, **({"max_prepared_statements": 200} if version() >= (1, 21) else {})) as running:
        yield running


@pytest.fixture
def one(postgres: PostgresServer) -> Iterator[Bouncer]:
    """A single one, so that whatever is left on it is found."""
    with bouncer(postgres.admin_url, default_pool_size=1) as running:
        yield running


def app_on(url: str, **options: Any) -> Runlane:
    return Runlane(postgres_lane(url, **options), queues=[plenty, narrow], tasks=[echo, at_second, often])


def warnings_of(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == logger and one.levelno >= logging.WARNING]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("query", [{}, pytest.param({"prepare_threshold": "2"}, marks=keeps_statements)])
def test_workers_with_fewer_sessions_than_clients(three: Bouncer, postgres_url: str, query: dict[str, str]) -> None:
    """Twelve slots of four runtimes, on three sessions: every run ends as it should, and the tables are the log's."""
    url = three.url(postgres_url, **query)
    apps = [app_on(url).start() for _ in range(4)]
    triggering = apps[0]
    runs = [triggered.run for triggered in triggering.trigger_many(echo, list(range(200)))]

    def work(app: Runlane) -> None:
        runs.extend(app.trigger(echo, n, idempotency_key=f"k{n}").run for n in range(50))
        runs.extend(app.trigger(at_second, n).run for n in range(10))
        app.worker("drain", concurrency=3, poll_interval=0.05).run()

    at_once([lambda app=app: work(app) for app in apps])  # type: ignore[misc]
    triggering.worker("drain").run()  # what was scheduled for a moment after the others had gone
    for run in runs:
        assert triggering.runs.get(run.id).status is RunStatus.SUCCEEDED
    assert len({run.id for run in runs}) == 200 + 50 + 4 * 10
    pools = [pool for pool in three.asked("show pools") if pool["database"] == make_url(postgres_url).database]
    assert sum(pool["sv_active"] + pool["sv_idle"] + pool["sv_used"] for pool in pools) <= 3
    assert sum(pool["cl_active"] + pool["cl_waiting"] for pool in pools) > 6
    assert triggering.audit.verify().differences == ()
    for app in apps:
        app.close()


def test_settings_of_a_url_are_taken(three: Bouncer, postgres_url: str) -> None:
    with app_on(three.url(postgres_url)).start() as app, database_of(app).engine.connect() as connection:
        assert connection.info["pooled"]
        assert connection.connection.driver_connection.prepare_threshold is None
    with app_on(postgres_url).start() as app, database_of(app).engine.connect() as connection:
        assert not connection.info["pooled"]
        assert connection.connection.driver_connection.prepare_threshold == 2
    for given, meant in (("none", None), ("0", 1), ("1", 1), ("7", 7)):
        app = app_on(make_url(postgres_url).update_query_dict({"prepare_threshold": given}).render_as_string(False))
        with app.start(), database_of(app).engine.connect() as connection:
            assert connection.connection.driver_connection.prepare_threshold == meant
    for given in ("-1", "often"):
        with pytest.raises(ConfigurationInvalid, match="prepare_threshold"):
            app_on(make_url(postgres_url).update_query_dict({"prepare_threshold": given}).render_as_string(False))


def prepared_by_all(url: str) -> None:
    """Statements that are prepared, by clients that use one session one after the other."""
    with app_on(url).start() as first, app_on(url).start() as second:
        for n in range(5):
            first.trigger(echo, n)
            second.trigger(echo, n)


@pytest.mark.skipif(version() >= (1, 21), reason="this PgBouncer keeps prepared statements")
def test_prepared_statements_that_are_asked_for_and_lost(one: Bouncer, postgres_url: str) -> None:
    with pytest.raises(ConfigurationInvalid, match="leave prepare_threshold out of the URL"):
        prepared_by_all(one.url(postgres_url, prepare_threshold="2"))


@keeps_statements
def test_prepared_statements_that_are_asked_for_and_kept(postgres: PostgresServer, postgres_url: str) -> None:
    with bouncer(postgres.admin_url, default_pool_size=1, max_prepared_statements=200) as running:
        prepared_by_all(running.url(postgres_url, prepare_threshold="2"))


def test_a_pooler_that_refuses_our_settings_is_told_none(
    postgres: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with bouncer(postgres.admin_url, ignore_startup_parameters="") as running:
        with app_on(running.url(postgres_url)).start() as app:
            assert app.run_now(echo, 1).run.result == 1
        (told,) = warnings_of(caplog, "runlane.storage")
        assert "alter role postgres set enable_seqscan = 'off'" in told
        refused = closing(app_on(running.url(postgres_url, options="-c lock_timeout=1s")))
        with refused as app, pytest.raises(ConfigurationInvalid, match="takes no options="):
            app.start()


@pytest.fixture
def role(postgres: PostgresServer) -> Iterator[str]:
    """A role of its own, that may do what it likes."""
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        connection.execute("create role shop superuser login")
        yield "shop"
        connection.execute("drop role shop")


def test_a_role_with_the_documented_settings_lacks_none(
    postgres: PostgresServer, postgres_url: str, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    section = DEPLOYMENT.read_text("utf-8").split("## Behind PgBouncer")[1].split("\n## ")[0]
    documented = re.findall(r"alter role shop set [^;]+;", section)
    assert len(documented) > 5
    admin = make_url(postgres.admin_url).set(username=role).render_as_string(False)
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        for statement in documented:
            connection.execute(statement.encode())
    with bouncer(admin) as running, app_on(running.url(postgres_url)).start():
        assert warnings_of(caplog, "runlane.storage") == []
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        connection.execute("alter role shop set timezone = 'Asia/Tokyo'")
    with bouncer(admin) as running, app_on(running.url(postgres_url)).start() as app:
        with database_of(app).engine.begin() as first, database_of(app).engine.begin() as second:  # two sessions
            for one in (first, second):
                assert one.exec_driver_sql("show timezone").scalar_one() == "UTC"
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        connection.execute("alter role shop set default_transaction_isolation = 'serializable'")
    with bouncer(admin) as running, closing(app_on(running.url(postgres_url))) as app:
        with pytest.raises(ConfigurationInvalid, match="not read committed: alter role shop set"):
            app.start()


def test_nothing_is_left_on_sessions_that_others_use(one: Bouncer, postgres_url: str) -> None:
    with app_on(one.url(postgres_url)).start() as app:
        transport = app.lane.transport
        assert isinstance(transport, NotifyTransport)
        rings = threading.Event()
        transport.listen(app.environment, ["plenty"], rings.set)
        assert transport.is_deaf.wait(PATIENCE)
        with psycopg.connect(postgres_url, autocommit=True) as witness:
            witness.execute(f"listen {channel_of('runlane')}".encode())
            app.trigger(echo, 1)
            assert any(witness.notifies(timeout=PATIENCE, stop_after=1)), "no ring went out"
        with psycopg.connect(one.url(postgres_url), autocommit=True, prepare_threshold=None) as other:
            assert other.execute("show synchronous_commit").fetchone() == ("on",)
            assert other.execute("select * from pg_listening_channels()").fetchall() == []
            locks = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
            assert other.execute(locks).fetchone() == (0,)
        transport.unlisten(rings.set)


def test_a_deaf_worker_says_so_once_and_polls(
    three: Bouncer, postgres_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runlane.transport.notify._DEAF", 0.01)
    monkeypatch.setattr(poolers, "_PATIENCE", 0.1)
    tries: list[int] = []
    really = poolers.keeps_sessions

    def counted(*given: Any) -> bool:
        tries.append(1)
        return really(*given)

    monkeypatch.setattr(poolers, "keeps_sessions", counted)
    with app_on(three.url(postgres_url)).start() as app:
        worker = app.worker(poll_interval=0.05, maintenance=False)
        worker.start()
        eventually(lambda: len(tries) > 3, "another try")
        run = app.trigger(echo, 1).run
        assert app.runs.wait(run.id, timeout=PATIENCE).status is RunStatus.SUCCEEDED
        worker.stop()
    (told,) = warnings_of(caplog, "runlane.transport")
    assert "listen_url" in told
    assert "transaction mode" in told


@pytest.mark.parametrize("mode", ["past it", "session"])
def test_a_worker_hears_where_a_session_is_its_own(postgres: PostgresServer, postgres_url: str, mode: str) -> None:
    """The ring itself goes through the pooler."""
    pool_mode = "session" if mode == "session" else "transaction"
    with bouncer(postgres.admin_url, pool_mode=pool_mode, default_pool_size=20) as running:
        url = running.url(postgres_url)
        listen = {} if mode == "session" else {"listen_url": postgres_url}
        with app_on(url).start() as elsewhere, app_on(url, **listen).start() as app:
            worker = app.worker(poll_interval=NEVER, maintenance=False)
            worker.start()
            transport = app.lane.transport
            assert isinstance(transport, NotifyTransport)
            assert transport.hears.wait(PATIENCE)
            run = elsewhere.trigger(echo, 1).run
            assert app.runs.wait(run.id, timeout=PATIENCE).status is RunStatus.SUCCEEDED
            worker.stop()


def test_a_rebuild_is_refused_before_it_leaves_its_lock_behind(three: Bouncer, postgres_url: str) -> None:
    with app_on(three.url(postgres_url)).start() as app:
        app.run_now(echo, 1)
        with pytest.raises(ConfigurationInvalid, match="a URL that leads to PostgreSQL itself"):
            app.audit.rebuild()
    with app_on(postgres_url).start() as direct:
        assert direct.audit.rebuild().identical


def test_a_rebuild_through_a_pooler_in_session_mode(postgres: PostgresServer, postgres_url: str) -> None:
    with bouncer(postgres.admin_url, pool_mode="session", default_pool_size=20) as running:
        with app_on(running.url(postgres_url)).start() as app:
            app.run_now(echo, 1)
            assert app.audit.rebuild().identical


def test_a_verification_by_several_processes(three: Bouncer, postgres_url: str) -> None:
    """Their snapshot belongs to a transaction, which keeps its session."""
    with app_on(three.url(postgres_url)).start() as app:
        app.trigger_many(echo, list(range(20)))
        app.worker("drain").run()
        assert app.audit.verify(processes=2).differences == ()


def test_eight_migrators_at_once(three: Bouncer, postgres: PostgresServer) -> None:
    url = three.url(postgres.empty())
    apps = [app_on(url) for _ in range(8)]
    assert len(set(at_once([app.migrate for app in apps]))) == 1
    for app in apps:
        app.close()


@pytest.mark.parametrize("what", ["trigger", "trigger_many", "cancel", "run_now"])
def test_an_answer_that_is_lost_behind_the_pooler(postgres: PostgresServer, postgres_url: str, what: str) -> None:
    """The server has committed, and the pooler has not heard of it: its error is no refusal."""
    place = make_url(postgres.admin_url)
    proxy = Proxy(Path(str(place.query["host"])) / f".s.PGSQL.{place.port or 5432}")
    lost: list[str] = []

    def lose(call: Call, real: Any) -> None:
        """What ends the first transaction that writes, or is one."""
        if not call.reads and not lost and call.kind == ("commit" if what in ("cancel", "run_now") else "execute"):
            lost.append(call.kind)
            assert proxy.strike("swallow", 0.2)
        real()

    try:
        with bouncer(postgres.admin_url, host="127.0.0.1", port=proxy.port, default_pool_size=1) as running:
            with app_on(running.url(postgres_url)).start() as app:
                run = app.trigger(echo, 0).run
                with struck(lose, *engines_of(database_of(app))):
                    {
                        "trigger": lambda: app.trigger(echo, 1),
                        "trigger_many": lambda: app.trigger_many(echo, [1, 2, 3]),
                        "cancel": lambda: app.runs.cancel(run.id),
                        "run_now": lambda: app.run_now(echo, 1),
                    }[what]()
                assert lost
                assert len(app.runs.list().data) == {"trigger": 2, "trigger_many": 4, "cancel": 1, "run_now": 2}[what]
                assert app.runs.get(run.id).status == ("cancelled" if what == "cancel" else "queued")
                assert app.audit.verify().differences == ()
    finally:
        proxy.close()
