"""SQLite: the library, the file and the disk below it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runlane import Check, ConfigurationInvalid, Health, Runlane, RunlaneError, sqlite_lane, task
from runlane.health import Bound
from tests.health.conftest import looked_at
from tests.support import database_of, eventually, raw


@task("work")
def work(payload: str) -> str:
    return payload


@pytest.fixture
def app(sqlite_url: str) -> Iterator[Runlane]:
    with Runlane(sqlite_url, tasks=[work]) as made:
        yield made


def test_a_healthy_file_is_all_ok(app: Runlane) -> None:
    found = app.doctor()
    assert [check for check in found.checks if check.status is not Health.OK] == []
    assert (found.exit_code, len(found.checks)) == (0, 16)


def test_the_memory_lane_says_what_it_is() -> None:
    with closing(Runlane("memory:")) as app:
        found = app.doctor()
    assert [check.name for check in found.checks][:2] == ["lane", "schema"]
    assert (found.exit_code, len(found.checks)) == (0, 8)


@pytest.mark.parametrize(("version", "status"), [("3.51.2", "warning"), ("3.51.3", "ok")])
def test_the_reset_bug_matters_where_several_processes_write(
    app: Runlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, status: str
) -> None:
    """Who only looks does not count himself."""
    monkeypatch.setattr(sqlite3, "sqlite_version", version)
    affected = status == "warning"
    assert looked_at(app, "library").status is Health.OK

    def seen_beside(number: int, by: Runlane) -> Check:
        return eventually(lambda: (found := looked_at(by, "library")).values["processes"] == number and found)

    onlooker = Runlane(f"sqlite:///{tmp_path}/runlane.db")
    others: list[subprocess.Popen[bytes]] = []
    with closing(onlooker), (tmp_path / "runlane.db").open("rb") as file:
        try:
            for number in (1, 2):
                others.append(subprocess.Popen(["sleep", "60"], stdin=file))
                check = seen_beside(number, app)
                assert check.status == status
                assert (check.values["affected"], check.values["version"]) == (affected, version)
                assert (f"(now {number + 1} processes)" in check.found) is affected
                check = seen_beside(number, onlooker)
                assert check.status == ("ok" if number == 1 else status)
                assert ("one process uses the file" in check.found) is (affected and number == 1)
                assert "no second process" not in check.found
        finally:
            for other in others:
                other.kill()
                other.wait()
    check = looked_at(app, "library")
    assert check.status is Health.OK
    assert ("no second process is here" in check.found) is affected


def test_another_journal_mode(app: Runlane) -> None:
    with database_of(app).engine.connect() as connection:
        connection.connection.driver_connection.execute("pragma journal_mode = delete")  # type: ignore[union-attr]
    check = looked_at(app, "journal")
    assert (check.status, check.values["journal_mode"]) == (Health.WARNING, "delete")


def test_how_much_a_loss_of_power_may_take(app: Runlane, tmp_path: Path) -> None:
    assert looked_at(app, "journal").values["synchronous"] == "full"
    with Runlane(sqlite_lane(f"sqlite:///{tmp_path}/quick.db", synchronous_commit=False)) as quick:
        check = looked_at(quick, "journal")
    assert (check.status, check.values["synchronous"]) == (Health.OK, "normal")
    assert "as this program has chosen" in check.found
    with database_of(app).engine.connect() as connection:
        connection.connection.driver_connection.execute("pragma synchronous = off")  # type: ignore[union-attr]
    assert looked_at(app, "journal").status is Health.WARNING


def test_a_reader_keeps_the_log_from_being_taken_over(app: Runlane, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "runlane.db")) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from runs").fetchall()
        for _ in range(6):
            app.trigger(work, "x" * 900_000)
        bounds = Bound(5 << 20, 1 << 30)
        check = looked_at(app, "wal_file", wal_file=bounds)
        assert check.status is Health.WARNING, check
        assert check.values["bytes"] == (tmp_path / "runlane.db-wal").stat().st_size
        assert looked_at(app, "wal_file", wal_file=Bound(0, 5 << 20)).status is Health.CRITICAL
    assert looked_at(app, "wal_file").status is Health.OK


def test_a_disk_that_fills(app: Runlane) -> None:
    for bound, status in ((Bound(0, 0), "ok"), (Bound(1 << 60, 0), "warning"), (Bound(1 << 60, 1 << 60), "critical")):
        check = looked_at(app, "disk", disk=bound)
        assert check.status == status
        assert check.values["free"] > 0


def test_a_network_file_system(app: Runlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text
    for kind, status in (("nfs4", "critical"), ("cifs", "critical"), ("9p", "warning"), ("xfs", "ok")):
        told = f"/dev/vda / ext4 rw 0 0\nserver:/ {tmp_path.resolve()} {kind} rw 0 0\n"
        monkeypatch.setattr(
            Path, "read_text", lambda path, *a, told=told: told if str(path) == "/proc/mounts" else read(path, *a)
        )
        check = looked_at(app, "file_system")
        assert (check.status, check.values["type"]) == (status, kind)


def test_pages_that_hold_nothing(app: Runlane) -> None:
    with raw(database_of(app)) as connection:
        connection.exec_driver_sql("create table mine as select randomblob(500000) as it")
        connection.exec_driver_sql("drop table mine")
    check = looked_at(app, "free_pages", free_pages_least=0)
    assert check.status is Health.WARNING
    assert check.values["free"] > 100
    assert looked_at(app, "free_pages").status is Health.OK  # the file is small


def test_no_file_is_made_or_changed(tmp_path: Path) -> None:
    with closing(Runlane(f"sqlite:///{tmp_path / 'none.db'}")) as app:
        with pytest.raises(ConfigurationInvalid, match="is not there"):
            app.doctor()
    assert list(tmp_path.iterdir()) == []
    with closing(sqlite3.connect(tmp_path / "mine.db")) as mine:
        mine.execute("create table mine (id int)")
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("this is no database, and it is long enough to see that" * 20)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("mine", "empty"):
        with closing(Runlane(f"sqlite:///{tmp_path / name}.db")) as app:
            with pytest.raises(ConfigurationInvalid, match="is not migrated"):
                app.doctor()
    with closing(Runlane(f"sqlite:///{tmp_path / 'text.db'}")) as app:
        with pytest.raises(ConfigurationInvalid, match="is not an SQLite database"):
            app.doctor()
    with closing(Runlane(f"sqlite:///{tmp_path}")) as app, pytest.raises(RunlaneError):
        app.doctor()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_of_an_older_release(app: Runlane) -> None:
    with raw(database_of(app)) as connection:
        connection.exec_driver_sql("delete from schema_version")
        connection.exec_driver_sql("insert into schema_version values (4, '2026-01-01T00:00:00.000000Z')")
        connection.exec_driver_sql("drop table projection_version")
    found = app.doctor()
    tables, schema = found.check("tables"), found.check("schema")
    assert tables is not None
    assert schema is not None
    assert (tables.status, tables.advice) == (Health.CRITICAL, "run `runlane migrate`")
    assert schema.status is Health.WARNING
    with raw(database_of(app)) as connection:  # it has upgraded nothing by itself
        assert connection.exec_driver_sql("select version from schema_version").all() == [(4,)]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_file_that_this_user_may_only_read(app: Runlane, tmp_path: Path) -> None:
    """Or not even that: either way an answer, and no traceback."""
    app.close()
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    secret = tmp_path / "secret.db"
    secret.write_bytes((tmp_path / "runlane.db").read_bytes())
    secret.chmod(0o600)
    program = f"""
import os, sys
from runlane.cli import main
os.setuid(65534)
for file in ('{tmp_path / "runlane.db"}', '{secret}'):
    try:
        main(['--database', 'sqlite:///' + file, 'doctor'])
    except SystemExit as done:
        print('code', done.code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    codes = [line for line in done.stdout.splitlines() if line.startswith("code")]
    assert codes in (["code 0", "code 3"], ["code 3", "code 3"]), done
