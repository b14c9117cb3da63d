"""Commands whose output nobody reads: they do what they do, and end with the exit code that they have anyway.

Where it cannot be written they do so too, but tell it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest
import sqlalchemy

from runlane import Queue, Runlane
from tests.acceptance.test_cli import Shell, shell, sqlite_shell
from tests.acceptance.test_dev import greet, source
from tests.support import PATIENCE

__all__ = ["shell", "sqlite_shell"]


def unread(shell: Shell, *arguments: str, errors: bool = False) -> tuple[int, str]:
    """The exit code of a process whose reader has gone, and what it said on standard error.

    Args:
        errors: nobody reads standard error either.
    """
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as output:
        return _printing(shell, output, *arguments, errors=errors)


def _printing(shell: Shell, output: TextIO, *arguments: str, errors: bool) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "runlane", *arguments],
        cwd=shell.folder,
        env={**os.environ, "RUNLANE_APP": "shop:app"},
        stdout=output,
        stderr=subprocess.STDOUT if errors else subprocess.PIPE,
        text=True,
        timeout=2 * PATIENCE,
    )
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["people", "json"])
def test_work_is_done_to_its_end(sqlite_shell: Shell, json: tuple[str, ...]) -> None:
    assert unread(sqlite_shell, "migrate", *json) == (0, "")
    assert unread(sqlite_shell, "trigger", "emails.welcome", '{"user_id": "u1"}', *json) == (0, "")
    assert unread(sqlite_shell, "worker", "--drain", *json) == (0, "")
    assert [run["status"] for run in sqlite_shell.lines("runs", "list")] == ["succeeded"]
    for command in (("tick",), ("runs", "list"), ("runs", "list", "--status", "running"), ("schedules",), ("--help",)):
        assert unread(sqlite_shell, *command, *json) == (0, ""), command


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["people", "json"])
def test_what_was_found_is_in_the_exit_code(sqlite_shell: Shell, sqlite_url: str, json: tuple[str, ...]) -> None:
    sqlite_shell("trigger", "emails.welcome", '{"user_id": "u1"}')
    assert unread(sqlite_shell, "audit", "verify", *json) == (0, "")
    assert unread(sqlite_shell, "keys", "reset", "emails.welcome", "nothing", *json) == (1, "")
    engine = sqlalchemy.create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("update runs set failure_count = 7")
    engine.dispose()
    assert unread(sqlite_shell, "audit", "verify", *json) == (1, "")
    assert unread(sqlite_shell, "audit", "rebuild", "--dry-run", *json) == (1, "")


def test_an_error_that_nobody_reads_keeps_its_exit_code(sqlite_shell: Shell) -> None:
    assert unread(sqlite_shell, "runs", "get", "nonsense", errors=True) == (2, "")
    assert unread(sqlite_shell, "keys", "reset", "--nonsense", errors=True) == (2, "")


@pytest.mark.parametrize("options", [(), ("--no-reload",)], ids=["reloading", "not reloading"])
def test_dev_goes_on(tmp_path: Path, sqlite_url: str, options: tuple[str, ...]) -> None:
    (tmp_path / "shop.py").write_text(source("hello", sqlite_url))
    reader, writer = os.pipe()
    os.close(reader)
    with Runlane(sqlite_url, queues=[Queue("main", default=True)], tasks=[greet]) as client:
        dev = subprocess.Popen(
            [sys.executable, "-m", "runlane", "dev", *options],
            cwd=tmp_path,
            env={**os.environ, "RUNLANE_APP": "shop:app"},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(writer)
        try:
            for name in ("ann", "ben"):
                run = client.trigger(greet, name).run
                assert client.runs.wait(run.id, timeout=2 * PATIENCE).result == f"hello {name}"
            dev.send_signal(signal.SIGINT)
            assert dev.communicate(timeout=2 * PATIENCE)[1] == ""
        finally:
            dev.kill()
            dev.wait()
    assert dev.returncode == 0


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["people", "json"])
def test_to_follow_ends_and_its_cursor_stays_before_what_nobody_saw(shell: Shell, json: tuple[str, ...]) -> None:
    shell("trigger", "emails.welcome", '{"user_id": "u1"}')
    assert unread(shell, "follow", "--cursor", "name:mine", *json) == (0, "")
    assert [event["type"] for event in shell.lines("follow", "--once", "--cursor", "name:mine")][-2:] == [
        "run.created",
        "run.delivery_requested",
    ]


NO_ROOM = "error: the output could not be written: No space left on device\n"


def written_to_full(shell: Shell, *arguments: str, errors: bool = False) -> tuple[int, str]:
    """The same of a process whose output has no room."""
    with open("/dev/full", "w") as full:
        return _printing(shell, full, *arguments, errors=errors)


@pytest.mark.parametrize("json", [(), ("--json",)], ids=["people", "json"])
def test_output_that_has_no_room_is_told_and_the_work_is_done(sqlite_shell: Shell, json: tuple[str, ...]) -> None:
    assert written_to_full(sqlite_shell, "migrate", *json) == (1, NO_ROOM)
    trigger = ("trigger", "emails.welcome", '{"user_id": "u1"}', *json)
    assert written_to_full(sqlite_shell, *trigger) == (1, NO_ROOM)
    assert written_to_full(sqlite_shell, *trigger, errors=True) == (1, "")
    assert written_to_full(sqlite_shell, "worker", "--drain", *json) == (1, NO_ROOM)
    assert [run["status"] for run in sqlite_shell.lines("runs", "list")] == ["succeeded", "succeeded"]
    for command in (("runs", "list"), ("audit", "verify"), ("--help",), ("--version",)):
        assert written_to_full(sqlite_shell, *command, *json) == (1, NO_ROOM), command
    assert written_to_full(sqlite_shell, "runs", "get", "nonsense")[0] == 2
    assert written_to_full(sqlite_shell, "follow", "--cursor", "name:mine", *json) == (1, NO_ROOM)
    followed = sqlite_shell.lines("follow", "--once", "--cursor", "name:mine")
    assert [event["type"] for event in followed].count("run.created") == 2
