"""Wrong definitions and options: refused when they are made, naming what is wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from runlane import AesGcm, ConfigurationInvalid, Exponential, Fixed, Queue, Retry, Runlane, Schedule, task


def handler(payload: Any) -> None:
    """Of the definitions below."""


def scheduled(**options: Any) -> Any:
    return task("t", schedules=[Schedule("s", every="1h", payload={})], **options)(handler)


DEFINITIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "task id with a colon": (lambda: task("a:b")(handler), "task id must not contain ':'"),
    "empty task id": (lambda: task("")(handler), "task id must have 1 to 255 characters"),
    "task id too long": (lambda: task("t" * 256)(handler), "task id must have 1 to 255 characters; it has 256"),
    "task id number": (lambda: task(7)(handler), "task id must be a string, not int"),
    "task id surrogate": (lambda: task("\ud800")(handler), "task id must not contain control characters or lone"),
    "queue name": (lambda: Queue("a:b"), "queue name must not contain ':'"),
    "queue name NUL": (lambda: Queue("a\x00"), "queue name must not contain control characters"),
    "schedule id": (lambda: Schedule("a:b", every="1h"), "schedule id must not contain ':'"),
    "schedule without a time": (lambda: Schedule("s"), "schedule s needs exactly one of run_at, every and cron"),
    "schedule with both": (
        lambda: Schedule("s", every="1h", run_at=datetime.now().astimezone()),
        "schedule s needs exactly one of run_at, every and cron",
    ),
    "schedule interval": (lambda: Schedule("s", every="fast"), "every of schedule s must be a timedelta or text"),
    "schedule too fast": (lambda: Schedule("s", every="10ms"), "every of schedule s must be at least 1s"),
    "environment": (lambda: Runlane("memory:", environment="a:b"), "environment must not contain ':'"),
    "worker_id": (lambda: Runlane("memory:", worker_id="a:b"), "worker_id must not contain ':'"),
    "dispatch": (lambda: Runlane("memory:", dispatch="lazy"), "dispatch must be 'eager' or 'deferred'; got 'lazy'"),
    "heartbeat": (lambda: Runlane("memory:", heartbeat="often"), "heartbeat must be a timedelta or text"),
    "lease_duration": (lambda: Runlane("memory:", lease_duration="15s"), "must be at least twice the heartbeat"),
    "max_events": (lambda: Runlane("memory:", max_events=3), "max_events must be at least 10; got 3"),
    "two tasks": (
        lambda: Runlane("memory:", tasks=[task("t")(handler), task("t")(handler)]),
        "two tasks are called 't'",
    ),
    "two queues": (lambda: Runlane("memory:", queues=[Queue("q"), Queue("q")]), "two queues are called 'q'"),
    "two defaults": (
        lambda: Runlane("memory:", queues=[Queue("q", default=True), Queue("r", default=True)]),
        "at most one queue may be the default: ['q', 'r']",
    ),
    "two schedules": (
        lambda: Runlane(
            "memory:", tasks=[task(id, schedules=[Schedule("s", every="1h")])(handler) for id in ("t", "u")]
        ),
        "schedule id 's' is used by tasks t and u",
    ),
    "a key that does not take a schedule's payload": (
        lambda: Runlane("memory:", tasks=[scheduled(idempotency_key=lambda p: p["tenant"])]),
        "schedule s: idempotency_key of task t does not take its payload: KeyError: 'tenant'",
    ),
    "a subject that does not take a schedule's payload": (
        lambda: Runlane("memory:", payload_codec=AesGcm(b"k" * 32), tasks=[scheduled(subject=lambda p: p["user"])]),
        "schedule s: subject of task t does not take its payload: KeyError: 'user'",
    ),
    "a key of a schedule that is none": (
        lambda: Runlane("memory:", tasks=[scheduled(singleton_key=lambda p: "")]),
        "schedule s: singleton_key of task t does not take its payload: singleton_key must have 1 to 255 characters",
    ),
    "a plain function": (lambda: Runlane("memory:", tasks=[handler]), "decorate the function with @task"),
    "a queue by name": (lambda: Runlane("memory:", queues=["q"]), "queues must hold Queue definitions, not 'q'"),
    "a task's unknown queue": (
        lambda: Runlane("memory:", tasks=[task("t", queue=Queue("q"))(handler)]),
        "queue 'q' is not registered",
    ),
    "no default": (
        lambda: Runlane("memory:", queues=[Queue("q")], tasks=[task("t")(handler)]),
        "task t has no queue and no queue is the default",
    ),
    "a task's priority": (
        lambda: task("t", priority=2**15)(handler),
        "priority must be an integer from -32768 to 32767",
    ),
    "a task's retry": (lambda: task("t", retry=3)(handler), "retry of task t must be Retry"),
    "a ttl without a key": (lambda: task("t", idempotency_ttl="1h")(handler), "task t has an idempotency_ttl but no"),
    "three parameters": (lambda: task("t")(lambda a, b, c: None), "takes (payload) or (payload, context)"),
    "max_attempts": (lambda: Retry(0), "Retry max_attempts must be an integer from 1"),
    "max_lost": (lambda: Retry(1, max_lost=0), "Retry max_lost must be an integer from 1"),
    "jitter": (lambda: Retry(1, jitter=1.5), "Retry jitter must be from 0 to 1"),
    "backoff": (lambda: Retry(1, "10s"), "Retry backoff must be Fixed"),
    "backoff delay": (lambda: Fixed("0s"), "backoff delay must be a timedelta or text"),
    "factor": (lambda: Exponential("1s", factor=0.5), "Exponential factor must be from 1 to 1000"),
    "give_up_on": (lambda: Retry(1, give_up_on="ValueError"), "take exception classes; got 'ValueError'"),
    "mysql": (
        lambda: Runlane("mysql://ann:pw-7@host/db"),
        "unknown database 'mysql' in URL 'mysql://…host/db'; use memory:",
    ),
    "unknown scheme": (lambda: Runlane("mongodb://host/db"), "unknown database 'mongodb' in URL 'mongodb://host/db';"),
    "another driver": (lambda: Runlane("postgresql+asyncpg://host/db"), "unknown database 'postgresql'"),
    "no URL": (
        lambda: Runlane("nonsense"),
        "unknown database URL 'nonsense'; use memory:, sqlite:///file.db or postgr",
    ),
    "an option that would not count": (
        lambda: Runlane("sqlite:///app.db?mode=ro&password=pw-7"),
        "database URL 'sqlite:///app.db?…' has options that would not count: 'mode', 'password'; SQLite's own need the",
    ),
    "an option of a URI without one": (
        lambda: Runlane("sqlite:////a.db?mode=ro&uri=true"),
        "would not count: 'mode'; SQLite's own need",
    ),
    "a URI without being one": (
        lambda: Runlane("sqlite:///file:a.db?mode=ro&uri=false"),
        "would not count: 'mode'; SQLite's own need",
    ),
    "an option of the memory lane": (lambda: Runlane("sqlite://?cache=shared"), "would not count: 'cache'"),
    "an option that is no number": (
        lambda: Runlane("sqlite:///app.db?timeout=soon"),
        "an option in database URL 'sqlite:///app.db?…' is not valid: could not convert string to float: 'soon'",
    ),
    "an option twice": (lambda: Runlane("sqlite:///a.db?timeout=1&timeout=2"), "an option in database URL"),
    "two slashes": (
        lambda: Runlane("sqlite://app.db"),
        "'sqlite://app.db' names a host; write sqlite:///file.db",
    ),
    "empty URL": (lambda: Runlane(""), "the database must be a URL such as memory:"),
    "a lane that is none": (lambda: Runlane(7), "lane must be a Lane or a database URL, not int"),
}


@pytest.mark.parametrize("options", ["timeout=5", "cached_statements=7&check_same_thread=false", "uri=true"])
def test_what_the_driver_of_sqlite_takes_is_accepted(tmp_path: Path, options: str) -> None:
    with Runlane(f"sqlite:///{tmp_path}/app.db?{options}") as app:
        assert app.runs.list().data == ()
    assert (tmp_path / "app.db").exists()


@pytest.mark.parametrize(("options", "kept"), [("", 1000), ("?cached_statements=7", 7)])
def test_how_many_statements_the_driver_keeps_prepared(
    tmp_path: Path, options: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, seen = sqlite3.dbapi2.connect, set()

    def watched(*arguments: Any, **given: Any) -> Any:
        seen.add(given.get("cached_statements"))
        return connect(*arguments, **given)

    monkeypatch.setattr(sqlite3.dbapi2, "connect", watched)
    with Runlane(f"sqlite:///{tmp_path}/app.db{options}") as app:
        assert app.runs.list().data == ()
    assert seen == {kept}


@pytest.mark.parametrize(("make", "text"), DEFINITIONS.values(), ids=DEFINITIONS)
def test_a_wrong_definition_is_refused_before_there_is_a_database(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        make()
    assert text in str(caught.value)
    assert "pw-7" not in str(caught.value)
