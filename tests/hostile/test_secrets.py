"""What is in a payload, a key, an exception or a connection string is in no log, and goes to no listener."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from runlane import AesGcm, AsyncRunlane, Context, Retry, Runlane, RunlaneError, task
from runlane.transport.notify import channel_of
from tests.acceptance.test_cli import Shell, shell
from tests.hostile.faces import awaited
from tests.sqs.conftest import client, make_queue, make_sqs_app, sqs, sqs_client, sqs_server, url
from tests.sqs.server import SqsServer
from tests.support import execute

__all__ = ["client", "make_queue", "make_sqs_app", "shell", "sqs", "sqs_client", "sqs_server", "url"]

CANARY = "a-canary-in-a-cage"


@task("spills", retry=Retry(2))
def spills(payload: Any) -> Any:
    raise ValueError(f"cannot send {payload}")


@task("returns")
def returns(payload: Any) -> Any:
    return payload


@task("logs")
def logs(payload: Any, context: Context) -> None:
    context.log.warning("what I got: %s", payload)


FACES: dict[str, Callable[..., Any]] = {
    "sync": Runlane,
    "async": lambda *arguments, **options: awaited(AsyncRunlane(*arguments, **options)),
}


def all_of(caplog: pytest.LogCaptureFixture) -> str:
    """Everything that is in a log, as formatters have it that write out all that a record carries."""
    return caplog.text + "".join(json.dumps(vars(record), default=repr) for record in caplog.records)


def words_of(error: BaseException) -> str:
    """An error with all that is behind it, as it stands in a log when a program ends by it."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("face", FACES)
def test_logs_and_listeners_hear_of_ids_and_codes_only(
    postgres_url: str, caplog: pytest.LogCaptureFixture, face: str
) -> None:
    caplog.set_level(logging.DEBUG, "runlane")
    with psycopg.connect(postgres_url, autocommit=True) as listener:
        listener.execute(f"listen {channel_of('runlane')}".encode())
        with FACES[face](postgres_url, tasks=[spills, returns]) as app:
            for one in (spills, returns):
                app.trigger(one, CANARY, idempotency_key=CANARY, singleton_key=CANARY, correlation_id=CANARY)
                app.trigger(one, {"a": CANARY}, concurrency_key=CANARY, meta={"a": CANARY})
            app.run_now(spills, CANARY)
            app.worker("drain").run()
            assert "runlane.attempts" in {record.name for record in caplog.records}
            app.runs.cancel(app.trigger(returns, CANARY, delay="1h").run.id, reason=CANARY)
            with pytest.raises(RunlaneError) as caught:
                app.trigger(spills, {"a": CANARY, "b": object()})
            assert CANARY not in words_of(caught.value)
        notices = "".join(notice.payload for notice in listener.notifies(timeout=0.2))
    assert notices
    assert caplog.records
    assert CANARY not in notices
    assert CANARY not in all_of(caplog)


#: So that the database refuses to store an event.
REFUSING = {
    "sqlite": "create trigger refusing before insert on {{events}} when new.type = '{0}' "
    "begin select raise(abort, 'not this one'); end",
    "postgresql": "create function runlane.refuse() returns trigger language plpgsql as "
    "$$ begin raise exception 'not this one'; end $$; create trigger refusing before insert on {{events}} "
    "for each row when (new.type = '{0}') execute function runlane.refuse()",
}


@pytest.mark.parametrize("face", FACES)
def test_what_the_database_refuses_to_store_is_not_told(
    shared_url: str, caplog: pytest.LogCaptureFixture, face: str
) -> None:
    """Neither by the error and its causes, nor by the log, nor in what is stored instead of it."""
    caplog.set_level(logging.DEBUG, "runlane")
    with FACES[face](shared_url, tasks=[spills, returns]) as app:
        run = app.trigger(returns, CANARY).run
        refuse(app, "run.succeeded")
        app.worker("drain").run()
        failed = app.runs.get(run.id)
        assert (failed.status, failed.failure.code) == ("failed", "internal_error")
        assert CANARY not in repr(failed.failure)
    with FACES[face](shared_url, tasks=[spills, returns]) as app:
        execute(app.lane.database, "drop trigger refusing" + ("" if "sqlite" in shared_url else " on {events}"))
        refuse(app, "run.created", made="sqlite" not in shared_url)
        for call in (app.trigger, app.run_now, lambda task, value, **more: app.trigger_many(task, [value])):
            with pytest.raises(RunlaneError, match="not this one") as caught:
                call(returns, {"a": CANARY}, idempotency_key=CANARY, meta={"a": CANARY})
            assert CANARY not in words_of(caught.value)
    assert "not this one" in caplog.text
    assert CANARY not in all_of(caplog)


#: Rows that a constraint refuses: the server quotes them in what it adds to its message.
CONSTRAINTS = {"events": "check (type not in ('run.succeeded', 'run.created'))", "idempotency_keys": "check (key = '')"}


@pytest.mark.parametrize("table", CONSTRAINTS)
def test_what_postgresql_quotes_of_a_row_is_not_told(
    postgres_url: str, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    caplog.set_level(logging.DEBUG, "runlane")
    with Runlane(postgres_url, tasks=[returns]) as app:
        run = app.trigger(returns, CANARY).run
        execute(app.lane.database, f"alter table {{{table}}} add constraint refusing {CONSTRAINTS[table]} not valid")
        app.worker("drain").run()
        assert app.runs.get(run.id).status == ("failed" if table == "events" else "succeeded")
        for call in (app.trigger, app.run_now):
            with pytest.raises(RunlaneError, match="violates check constraint") as caught:
                call(returns, CANARY, idempotency_key=CANARY)
            assert CANARY not in words_of(caught.value)
        execute(app.lane.database, f"alter table {{{table}}} drop constraint refusing")
    assert CANARY not in all_of(caplog)


def refuse(app: Any, kind: str, made: bool = False) -> None:
    """From now on an event of this kind cannot be stored."""
    for statement in REFUSING[app.lane.database.engine.dialect.name].format(kind).split("; create")[made:]:
        execute(app.lane.database, statement if statement.startswith("create") else "create" + statement)


def test_what_cannot_be_decoded_is_not_told(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The master key is a secret as well."""
    caplog.set_level(logging.DEBUG, "runlane")
    key, other = (CANARY + "!" * 14).encode(), bytes(32)
    with Runlane(sqlite_url, tasks=[returns], payload_codec=AesGcm(key)) as app:
        run = app.trigger(returns, CANARY).run
        assert CANARY not in repr(app.lane)
        (row,) = execute(app.lane.database, "select * from {runs}")
        assert CANARY not in str(row)
    stranger = Runlane(sqlite_url, tasks=[returns], payload_codec=AesGcm(other))
    with pytest.raises(RunlaneError, match="wrapped by master key") as caught:
        stranger.start()
    stranger.close()
    with Runlane(sqlite_url, tasks=[returns]) as reader:
        assert CANARY not in repr(reader.runs.get(run.id))
        with pytest.raises(RunlaneError) as refused:
            reader.execute_next()
    assert CANARY not in words_of(caught.value) + words_of(refused.value) + repr(AesGcm(key)) + all_of(caplog)


def test_messages_say_which_run_and_nothing_of_it(
    make_sqs_app: Callable[..., Runlane], sqlite_url: str, url: str, sqs: SqsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "runlane")
    app = make_sqs_app(sqlite_url, url, spills, returns)
    for one in (spills, returns):
        app.trigger(one, CANARY, idempotency_key=CANARY, singleton_key=CANARY, correlation_id=CANARY)
        app.trigger_many(one, [{"a": CANARY}])
    assert len(sqs.made("SendMessageBatch")) == 4
    assert CANARY not in json.dumps(sqs.calls)
    assert CANARY not in all_of(caplog)


@pytest.mark.parametrize("reached", ["reached", "not reached"])
def test_the_doctor_measures_and_tells_no_secret(
    shell: Shell, shared_url: str, caplog: pytest.LogCaptureFixture, reached: str
) -> None:
    """Nor does any command that cannot reach its database."""
    with Runlane(shared_url, tasks=[spills, returns]) as app:
        for one in (spills, returns):
            app.trigger(one, CANARY, idempotency_key=CANARY, singleton_key=CANARY, correlation_id=CANARY)
        app.worker("drain").run()
        assert CANARY not in repr(app.doctor())
    place = make_url(shared_url)
    if "postgresql" in shared_url:
        place = place.set(password=CANARY)  # which the server does not ask for
    if reached != "reached":
        away = Path("no", "such", "folder")
        place = place.update_query_dict({"host": str(away)}) if place.password else place.set(database=str(away / "db"))
    at = ("--database", place.render_as_string(hide_password=False))
    commands = [("doctor",), ("doctor", "--json"), ("audit", "verify")]
    commands += [("runs", "list"), ("migrate",), ("follow", "--once")] if reached != "reached" else []
    for command in commands:
        done = shell(*at, *command, app=None)
        assert (done.stderr == "") == (reached == "reached"), done
        assert CANARY not in done.stdout + done.stderr
        assert done.stdout + done.stderr
    assert CANARY not in all_of(caplog)


def test_what_is_asked_for_is_told(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The canary would be heard: who reads a run gets all of it, and a handler's own log is its own."""
    with Runlane(sqlite_url, tasks=[spills, logs]) as app:
        run = app.run_now(spills, CANARY).run
        assert CANARY in str(run.payload)
        assert CANARY in run.failure.message
        app.run_now(logs, CANARY)
    assert CANARY in all_of(caplog)


def test_a_password_is_in_no_error_and_in_no_log(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "runlane")
    url = make_url(postgres_url).set(password=CANARY)
    wrong = [url.set(database="no_such_database"), url.update_query_dict({"host": "/no/such/socket"})]
    for one in wrong:
        app = Runlane(one.render_as_string(hide_password=False), tasks=[returns])
        with pytest.raises(RunlaneError) as caught:
            app.start()
        assert CANARY not in words_of(caught.value)
        assert CANARY not in repr(app.lane)
        assert CANARY not in repr(vars(app.lane.database))
        app.close()
    assert CANARY not in all_of(caplog)
