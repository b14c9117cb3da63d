"""A plain payload leaves no trace in files, tables, notices, logs or exports; nor does a key that was destroyed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runlane import (
    AesGcm,
    Context,
    Runlane,
    RunlaneError,
    Schedule,
    Sealed,
    SealedReason,
    SettableClock,
    postgres_lane,
    task,
)
from runlane.export import import_events, replay
from runlane.lanes import Lane
from runlane.storage import subject_keys
from runlane.storage.database import Database
from runlane.transport.notify import channel_of
from tests.support import SECOND, database_of, execute, named

MASTER = bytes(range(32))
CANARY, SUBJECT = "a-canary-in-a-cage", "ann@example.org"


@task("sing", subject=SUBJECT, schedules=[Schedule("s", every="1s", payload={"text": CANARY})])
def sing(payload: dict[str, Any], context: Context) -> Any:
    context.log.info("attempt %d", context.attempt)
    return context.release("1s", meta=payload) if context.attempt == 1 else payload


def live(app: Runlane, clock: SettableClock) -> None:
    """A bit of everything that is stored."""
    payload = {"text": CANARY}
    app.trigger(sing, payload)
    app.trigger_many(sing, [payload] * 3)
    done = app.run_now(sing, payload, subject="bob").run
    app.tick()
    for _ in range(3):
        clock.advance(2 * SECOND)
        app.worker("drain").run()
    app.runs.rerun(done.id)
    app.runs.cancel(app.trigger(sing, payload, delay="1h").run.id)
    with pytest.raises(RunlaneError):
        app.runs.retry(done.id)


def test_nothing_plain_is_in_a_file_or_in_the_logs(
    sqlite_url: str, tmp_path: Path, clock: SettableClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Runlane(sqlite_url, tasks=[sing], payload_codec=AesGcm(MASTER), clock=clock) as app:
        live(app, clock)
        files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        app.audit.export(tmp_path / "log.jsonl")
    assert any(path.name.endswith("-wal") and len(data) > 4096 for path, data in files.items())
    files |= {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for path, data in files.items():
        for secret in (CANARY, SUBJECT, "bob"):
            assert secret.encode() not in data, path
    assert caplog.text
    assert CANARY not in caplog.text


def test_nothing_plain_is_in_the_tables_or_goes_over_the_wire_to_listeners(
    postgres_url: str, clock: SettableClock
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as listener:
        listener.execute(f"listen {channel_of('runlane')}".encode())
        with Runlane(postgres_lane(postgres_url), tasks=[sing], payload_codec=AesGcm(MASTER), clock=clock) as app:
            live(app, clock)
            of_schema = "select relname from pg_class where relnamespace = 'runlane'::regnamespace and relkind = 'r'"
            dump = ""
            for (table,) in execute(database_of(app), of_schema):
                rows = execute(database_of(app), f"select t::text from runlane.{table} t")
                dump += "".join(text for (text,) in rows)
        notices = "".join(notice.payload for notice in listener.notifies(timeout=0.2))
    assert "aes-gcm" in dump
    for secret in (CANARY, SUBJECT, "bob"):
        assert secret not in dump
        assert secret not in notices


def test_a_destroyed_key_leaves_no_trace_in_a_file(sqlite_url: str, tmp_path: Path) -> None:
    with Runlane(sqlite_url, tasks=[sing], payload_codec=AesGcm(MASTER)) as app:
        app.trigger(sing, {})
        keys = named(database_of(app), "subject_keys")
        ((wrapped,),) = execute(database_of(app), f"select wrapped from {keys} where subject <> ''")

        def places() -> list[str]:
            return [path.name for path in tmp_path.iterdir() if path.is_file() and wrapped in path.read_bytes()]

        assert places()
        app.audit.erase(SUBJECT)
        assert places() == []


def test_pages_of_erased_keys_are_scrubbed_unless_somebody_is_in_the_way(
    shared_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runlane.keys")
    with Runlane(shared_url, tasks=[sing], payload_codec=AesGcm(MASTER)) as app:
        app.trigger(sing, {})
        assert app.audit.erase(SUBJECT).keys == 1
        assert caplog.text == ""
        app.trigger(sing, {})
        if database_of(app).schema is not None:
            execute(database_of(app), "alter table runlane.subject_keys rename to kept")
            subject_keys.scrub(database_of(app))
            assert "not scrubbed" in caplog.text


def test_an_export_is_checked_and_imported_without_keys(lane_url: str, tmp_path: Path, clock: SettableClock) -> None:
    with Runlane(lane_url, tasks=[sing], payload_codec=AesGcm(MASTER), clock=clock) as app:
        live(app, clock)
        app.audit.erase("bob")
        app.audit.export(tmp_path / "log.jsonl")
    assert replay(tmp_path / "log.jsonl").clean
    target = Lane(Database(f"sqlite:///{tmp_path / 'incident.db'}"))
    import_events(tmp_path / "log.jsonl", target)
    with Runlane(target, clock=clock) as incident:
        assert incident.audit.verify().identical
        shown = [run.payload for run in incident.runs.list().data]
        assert shown == [Sealed(SealedReason.NO_KEY)] * len(shown)
    with Runlane(target, tasks=[task("sing")(lambda payload: payload)], clock=clock) as incident:
        incident.worker("drain", maintenance=False).run()
        waiting = incident.runs.list(statuses=["queued", "released"]).data
        assert [(run.status, run.failure) for run in waiting] == [("released", None)] * len(waiting)
        assert waiting
