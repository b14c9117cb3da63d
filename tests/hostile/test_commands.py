"""The command line with arguments from anywhere: an exit code, one line on standard error, and no traceback."""

from __future__ import annotations

from typing import Any

import pytest

from runlane import ConfigurationInvalid, Runlane
from tests.acceptance.test_cli import Shell, sqlite_shell
from tests.engine.tasks import echo
from tests.hostile.corpus import CONTROLS, JSON, SQL, TEXTS, TRICKS

__all__ = ["sqlite_shell"]

COMMANDS: dict[str, tuple[str, ...]] = {
    "a command": (),
    "runs get": ("runs", "get"),
    "runs list --correlation-id": ("runs", "list", "--correlation-id"),
    "runs list --cursor": ("runs", "list", "--cursor"),
    "runs cancel": ("runs", "cancel"),
    "trigger": ("trigger",),
    "audit who --actor": ("audit", "who", "--actor"),
    "audit verify --since": ("audit", "verify", "--since"),
    "follow --once --cursor": ("follow", "--once", "--cursor"),
    "schedules get": ("schedules", "get"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_any_text_as_an_argument(sqlite_shell: Shell, command: str) -> None:
    for text in [*SQL.values(), *TRICKS.values(), *CONTROLS.values(), "99999999d", ""]:
        done = sqlite_shell(*COMMANDS[command], text)
        assert done.returncode in (0, 1, 2), text
        assert "internal error" not in done.stderr, (text, done.stderr)
        assert all(line.isprintable() for line in done.stderr.splitlines()), (text, done.stderr)


def test_json_keeps_its_value_or_is_refused(sqlite_shell: Shell) -> None:
    for name, text in JSON.items():
        done = sqlite_shell("trigger", "emails.welcome", text)
        assert done.returncode in (1, 2), (name, done)
        assert "internal error" not in done.stderr, (name, done.stderr)
    assert sqlite_shell.lines("runs", "list") == []


def test_what_is_stored_is_shown_without_what_a_terminal_obeys(sqlite_shell: Shell, sqlite_url: str) -> None:
    with Runlane(sqlite_url, tasks=[echo]) as app:
        for text in (*TRICKS.values(), *CONTROLS.values()):
            if "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                continue
            run = app.trigger(echo, {"a": text}, correlation_id=text).run
            app.runs.cancel(run.id, reason=text)
    for command in (("runs", "list"), ("runs", "get", str(run.id)), ("audit", "timeline", str(run.id))):
        done = sqlite_shell(*command)
        assert done.returncode == 0
        for letter in ("\x1b", "\x07", "\x9b", "\r", "\u202e", "\b"):
            assert letter not in done.stdout, command


@pytest.mark.parametrize(
    "url",
    [
        *("host=h password=hunter2 dbname=d", "ann:hunter2@host/db", "mysql://ann@h/db?password=hunter2"),
        *(
            "mysql://ann:hunter2?a@h/db",
            "mysql://ann:a?hunter2@h/db",
            "mysql://h/db?password=x@hunter2",
            "mysql://ann:a://hunter2@h/db",
        ),
        "postgresql://h/db?password=hunter2&no_such_option=1",
    ],
)
def test_no_error_shows_the_password_of_a_connection(url: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        Runlane(url)
    assert "hunter2" not in str(caught.value)


def test_no_text_of_a_caller_stands_in_a_statement(shared_url: str) -> None:
    """All statements go through the dialect on their way to the driver, the short ways of our own too."""
    with Runlane(shared_url, tasks=[echo]) as app:
        seen: list[str] = []
        for engine in {app.lane.database.engine, app.lane.database.beat_engine}:
            watch(engine.dialect, seen)
        for text in (*SQL.values(), "x\u202ey"):
            key = text.replace(":", "")
            run = app.trigger(echo, {text: text}, correlation_id=text, idempotency_key=key, meta={text: text}).run
            app.trigger(echo, text, singleton_key=key, concurrency_key=key)
            app.runs.list(correlation_id=text, tasks=[text], queues=[text], idempotency_key=text)
            app.runs.find_current(echo, text)
            app.runs.cancel(run.id, reason=text)
            app.idempotency_keys.reset(echo, key, reason=text)
            app.queues.pause(key, reason=text)
            app.audit.who(key=key)
            app.run_now(echo, text)
        app.worker("drain", maintenance=False).run()
        assert app.audit.verify().identical
        assert len(seen) > 100
        for text in SQL.values():
            if len(text) > 3:
                assert not [one for one in seen if text in one]
    assert TEXTS


def watch(dialect: Any, seen: list[str]) -> None:
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        real = getattr(dialect, name)

        def execute(cursor: Any, statement: str, *rest: Any, real: Any = real, **named: Any) -> Any:
            seen.append(statement)
            return real(cursor, statement, *rest, **named)

        setattr(dialect, name, execute)
