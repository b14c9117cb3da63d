"""Choosing, counting and waiting for runs on the command line, and every option of a trigger."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.acceptance.test_cli import Shell, shell, sqlite_shell
from tests.support import PATIENCE

__all__ = ["shell", "sqlite_shell"]

WELCOME = ("trigger", "emails.welcome")


def user(name: str) -> str:
    return json.dumps({"user_id": name})


def test_a_trigger_takes_every_option(shell: Shell) -> None:
    shell("migrate")
    (made,) = shell.lines(
        *(*WELCOME, user("u1"), "--queue", "slow", "--idempotency-key", "i", "--idempotency-ttl", "active"),
        *("--singleton-key", "s", "--concurrency-key", "c", "--priority", "7", "--run-at", "2099-01-02T03:04:05Z"),
        *("--run-id", "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f", "--correlation-id", "visit", "--meta", '{"a": [1]}'),
        *("--actor", "ann"),
    )
    run = made["run"]
    expected: dict[str, Any] = {
        "id": "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f",
        "queue": "slow",
        "status": "scheduled",
        "priority": 7,
        "run_at": "2099-01-02T03:04:05+00:00",
        "idempotency_key": "i",
        "idempotency_ttl": "active",
        "singleton_key": "s",
        "concurrency_key": "c",
        "correlation_id": "visit",
        "meta": {"a": [1]},
    }
    assert {name: run[name] for name in expected} == expected
    assert shell.lines("runs", "events", run["id"])[0]["actor"] == "operator:ann"
    told = shell("runs", "get", run["id"]).stdout
    for line in ("singleton key", "concurrency key", "correlation id", "idempotency key"):
        assert re.search(rf"^{line} ", told, re.MULTILINE), line
    assert shell.lines(*WELCOME, user("u2"), "--singleton-key", "s")[0]["outcome"] == "reused_singleton"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--run-at", "soon"], "no instant like"),
        (["--run-at", "2h"], "no instant like"),
        (["--run-id", "7"], "must be a UUID"),
        (["--meta", "{"], "the meta is no JSON"),
        (["--meta", "7"], "meta must be a mapping"),
        (["--singleton-key", "a:b"], "singleton_key"),
        (["--run-at", "2099-01-01", "--delay", "1h"], "not both"),
    ],
)
def test_an_option_that_is_not_valid_is_named(sqlite_shell: Shell, options: list[str], says: str) -> None:
    done = sqlite_shell(*WELCOME, user("u"), *options)
    assert (done.returncode, done.stdout, says in done.stderr) == (2, "", True), done.stderr
    assert sqlite_shell.lines("runs", "list") == []


def test_runs_are_chosen_by_their_keys(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    shell(*WELCOME, user("a"), "--singleton-key", "s", "--concurrency-key", "c")
    shell(*WELCOME, user("b"), "--concurrency-key", "c")
    shell(*WELCOME, user("c"))

    def users(*options: str) -> list[str]:
        return [run["payload"]["user_id"] for run in shell.lines("runs", "list", "--oldest", *options)]

    assert users("--singleton-key", "s") == ["a"]
    assert users("--concurrency-key", "c") == ["a", "b"]
    assert users("--concurrency-key", "c", "--singleton-key", "x") == []
    assert len(shell.lines("runs", "cancel", "--concurrency-key", "c")) == 2
    assert users("--status", "queued") == ["c"]


def test_counting(shell: Shell) -> None:
    shell("migrate")
    assert shell("runs", "count").stdout == "no run matches\n"
    for name in ("a", "b", "bad"):
        shell(*WELCOME, user(name), "--correlation-id", name)
    shell("worker", "--drain")
    assert shell.lines("runs", "count") == [{"retrying": 1, "succeeded": 2}]
    assert shell.lines("runs", "count", "--correlation-id", "bad") == [{"retrying": 1}]
    assert shell("runs", "count").stdout == "retrying   1\nsucceeded  2\n"


def test_waiting_tells_how_it_ended(shell: Shell) -> None:
    shell("migrate")
    good, gone = (shell.lines(*WELCOME, user(name))[0]["run"]["id"] for name in ("a", "b"))
    early = shell("runs", "wait", good, "--timeout", "20ms")
    assert (early.returncode, early.stdout) == (1, "")
    assert "is still queued after 0.02 s" in early.stderr
    shell("runs", "cancel", gone, "--actor", "ann", "--reason", "no need")
    shell("worker", "--drain")
    done = shell("runs", "wait", good)
    assert (done.returncode, done.stdout) == (0, f"{good}  succeeded\n")
    assert shell.lines("runs", "wait", good)[0]["result"] == {"sent_to": "a"}
    done = shell("runs", "wait", gone, "--timeout", "1s")
    assert (done.returncode, done.stdout) == (1, f"{gone}  cancelled  by operator:ann: no need\n")
    assert shell("runs", "wait", good, "--timeout", "soon").returncode == 2


def test_a_listed_run_says_what_is_most_worth_knowing(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    shell(*WELCOME, user("bad"))
    shell("worker", "--drain")
    shell(*WELCOME, user("later"), "--run-at", "2099-01-02")
    (stopped,) = shell.lines(*WELCOME, user("stopped"))
    shell("runs", "cancel", stopped["run"]["id"], "--reason", "too late")
    newest, later, bad = shell("runs", "list").stdout.splitlines()[1:]
    assert newest.endswith("by operator:cli: too late")
    assert later.endswith("due 2099-01-02 00:00:00Z")
    assert re.search(r"retrying .* due \S+ \S+Z: no such user$", bad)


def test_a_rerun_says_of_which_run(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    (made,) = shell.lines(*WELCOME, user("a"))
    shell("worker", "--drain")
    (again,) = shell.lines("runs", "rerun", made["run"]["id"])
    assert f"rerun of run {made['run']['id']}" in shell("runs", "get", again["id"]).stdout


def test_shared_options_may_stand_anywhere(sqlite_shell: Shell) -> None:
    sqlite_shell(*WELCOME, user("a"))
    for arguments in (("--json", "runs", "list"), ("runs", "--json", "list"), ("runs", "list", "--json")):
        (run,) = [json.loads(line) for line in sqlite_shell(*arguments).stdout.splitlines()]
        assert run["payload"] == {"user_id": "a"}


def on_a_terminal(folder: Any, width: int, *arguments: str) -> list[str]:
    """The lines that a command prints on a terminal of that width, without colours."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "RUNLANE_APP": "shop:app", "COLUMNS": str(width), "TERM": "xterm"}
    command = [sys.executable, "-m", "runlane", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 65_536):
                said += piece
        except OSError:  # how Linux says that nobody holds the other end any more
            pass
        process.wait(PATIENCE)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()


def test_a_narrow_terminal_gets_fewer_columns_rather_than_broken_ones(sqlite_shell: Shell) -> None:
    (made,) = sqlite_shell.lines(*WELCOME, user("a"))
    header, run, note = on_a_terminal(sqlite_shell.folder, 80, "runs", "list")
    assert header.split() == ["ID", "TASK", "STATUS", "NOTE"]
    assert run.split()[:3] == [made["run"]["id"], "emails.welcome", "queued"]
    assert note.startswith("(the terminal is too narrow for: queue, attempts, created;")
    header, run = on_a_terminal(sqlite_shell.folder, 160, "runs", "list")
    assert header.split() == ["ID", "TASK", "STATUS", "QUEUE", "ATTEMPTS", "CREATED", "NOTE"]
