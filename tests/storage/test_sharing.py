"""A check shared by several processes finds what one would."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from runlane import ConfigurationInvalid, InternalError, Runlane, SettableClock, StorageUnavailable
from runlane.storage import engines, sharing
from tests.engine.tasks import echo, hopeless
from tests.storage.test_rebuild import TASKS, lived
from tests.support import PATIENCE, database_of, execute


@pytest.fixture
def app(shared_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with Runlane(shared_url, tasks=[*TASKS, hopeless], clock=clock) as made:
        lived(made, clock)
        made.trigger_many(echo, range(40))
        yield made


def test_all_is_counted_once_and_progress_is_told(app: Runlane) -> None:
    told: list[int] = []
    alone, shared = app.audit.verify(), app.audit.verify(processes=2, progress=told.append)
    assert alone.identical
    assert shared == alone
    assert told == sorted(told)
    assert told[-1] == alone.events
    assert len(told) > 2, "there was more than one range"


def test_the_others_may_take_their_time(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who shares a check out asks the database for nothing meanwhile, and is not thrown out for that."""
    monkeypatch.setattr(engines, "IDLE", 50)
    monkeypatch.setattr(engines, "IDLE_READING", 50)
    assert app.audit.verify(processes=2).identical


def test_every_difference_is_found_wherever_it_is(app: Runlane) -> None:
    runs = app.runs.list(limit=200, order="oldest").data
    for run in (runs[0], runs[len(runs) // 2], runs[-1]):
        execute(database_of(app), f"update {{runs}} set priority = 99 where id = '{run.id}'")
    execute(database_of(app), f"delete from {{runs}} where id = '{runs[3].id}'")
    alone, shared = app.audit.verify(), app.audit.verify(processes=3)
    assert len(alone.differences) >= 4

    def by_id(one: Any) -> Any:
        return str(one.stream_id), one.field

    assert sorted(shared.differences, key=by_id) == sorted(alone.differences, key=by_id)
    assert (shared.runs, shared.events) == (alone.runs, alone.events)


def test_what_moved_since_then(app: Runlane, clock: SettableClock) -> None:
    since = clock()
    app.trigger(echo, 1)
    assert app.audit.verify(since=since, processes=2) == app.audit.verify(since=since)


def test_a_process_that_fails_is_told_of(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_SERVE", "raise SystemExit(3)")
    with pytest.raises(InternalError, match="ended with code"):
        app.audit.verify(processes=2)


def test_a_process_that_cannot_reach_the_database_says_so(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = (
        "sqlite:////nowhere/at/all.db" if database_of(app).schema is None else "postgresql://nobody@127.0.0.1:1/nothing"
    )
    monkeypatch.setattr(sharing, "_url", lambda database: lost)
    with pytest.raises((StorageUnavailable, ConfigurationInvalid)):
        app.audit.verify(processes=2)


def test_ctrl_c_is_heard_by_the_caller_alone(app: Runlane) -> None:
    """As a terminal sends it, to the whole group of the program, which heeds it even where these tests may not."""
    url = database_of(app).url.render_as_string(hide_password=False)
    program = f"""
import os, signal
from runlane import Runlane
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupt = lambda _: os.killpg(0, signal.SIGINT)
Runlane({url!r}).start().audit.verify(processes=2, progress=interrupt)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], start_new_session=True, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.stderr.count("Traceback"), done.stderr.splitlines()[-1]) == (1, "KeyboardInterrupt"), done.stderr


def test_who_is_interrupted_does_not_wait_for_the_others(app: Runlane, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sharing, "_SERVE", "import sys; sys.stdin.read()")
    monkeypatch.setattr(sharing, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        app.audit.verify(processes=2)


def test_a_database_in_memory_is_read_alone() -> None:
    with Runlane("memory:", tasks=[echo]) as made:
        made.trigger(echo, 1)
        assert made.audit.verify(processes=2).identical


@pytest.mark.parametrize("processes", [0, 65, "2", True])
def test_a_bad_number_is_named(app: Runlane, processes: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="processes must be"):
        app.audit.verify(processes=processes)
