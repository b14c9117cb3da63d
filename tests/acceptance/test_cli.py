"""The command line as its users meet it: output, errors, exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from attrs import frozen

from runlane import Runlane
from runlane.cli import main

PROGRAM = """
import attrs, time, runlane
from runlane import Fixed, Queue, Retry, Schedule, task

emails = Queue("emails", default=True)
slow = Queue("slow")

@attrs.frozen
class Welcome:
    user_id: str

@task("emails.welcome", queue=emails, retry=Retry(2, Fixed("1h")))
def send_welcome(payload: Welcome, context: runlane.Context) -> dict:
    if payload.user_id == "bad":
        raise ValueError("no such user")
    return {"sent_to": payload.user_id}

@task("stock.count", schedules=[Schedule("stock-hourly", every="1h")])
async def count_stock() -> int:
    return 42

@task("slow.wait", queue=slow)
def wait(payload: None, context: runlane.Context) -> None:
    print("waiting", flush=True)
    context.signal.wait(60)
    context.signal.raise_if_set()

app = runlane.Runlane(URL, queues=[emails, slow], tasks=[send_welcome, count_stock, wait])

def make() -> runlane.AsyncRunlane:
    return runlane.AsyncRunlane(URL, queues=[emails, slow], tasks=[send_welcome, count_stock, wait])
"""


@frozen
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


class Shell:
    """A folder with a program, and ``runlane`` in it."""

    def __init__(self, folder: Path, url: str, patch: pytest.MonkeyPatch, streams: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._patch = patch
        self._streams = streams
        (folder / "shop.py").write_text(PROGRAM.replace("URL", repr(url)))
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))

    def __call__(self, *arguments: str, input: str | None = None, app: str | None = "shop:app") -> Done:
        if app is None:
            self._patch.delenv("RUNLANE_APP", raising=False)
        else:
            self._patch.setenv("RUNLANE_APP", app)
        if input is not None:
            self._patch.setattr(sys, "stdin", io.StringIO(input))
        for module in ("shop", "broken"):
            sys.modules.pop(module, None)
        self._streams.readouterr()
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        out, err = self._streams.readouterr()
        assert "Traceback" not in err
        return Done(int(exit.value.code or 0), out, err)

    def lines(self, *arguments: str) -> list[Any]:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def shell(
    tmp_path: Path, shared_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    return Shell(tmp_path, shared_url, monkeypatch, capsys)


@pytest.fixture
def sqlite_shell(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    return Shell(tmp_path, sqlite_url, monkeypatch, capsys)


def test_the_whole_road(shell: Shell) -> None:
    assert shell.lines("migrate")[0]["schema_version"] >= 1
    (good,) = shell.lines("trigger", "emails.welcome", '{"user_id": "u1"}', "--correlation-id", "c-1")
    assert (good["outcome"], good["run"]["status"]) == ("created", "queued")
    (bad,) = shell.lines("trigger", "emails.welcome", '{"user_id": "bad"}', "--idempotency-key", "k1")
    assert shell.lines("trigger", "emails.welcome", '{"user_id": "bad"}', "--idempotency-key", "k1")[0] == {
        "outcome": "reused_idempotent",
        "run": bad["run"],
    }
    assert shell.lines("worker", "--drain") == [{"attempts": 2}]

    (run,) = shell.lines("runs", "get", good["run"]["id"])
    assert (run["status"], run["result"], run["correlation_id"]) == ("succeeded", {"sent_to": "u1"}, "c-1")
    assert [run["id"] for run in shell.lines("runs", "list", "--status", "retrying")] == [bad["run"]["id"]]
    assert [run["id"] for run in shell.lines("runs", "list", "--correlation-id", "c-1")] == [good["run"]["id"]]
    events = shell.lines("runs", "events", bad["run"]["id"])
    assert [event["type"] for event in events] == [
        "run.created",
        "run.delivery_requested",
        "run.leased",
        "run.retry_scheduled",
    ]
    assert [event["sequence"] for event in events] == [1, 2, 3, 4]
    assert events[0]["actor"] == "operator:cli"
    (attempt,) = shell.lines("runs", "attempts", bad["run"]["id"])
    assert (attempt["outcome"], attempt["failure"]["message"]) == ("retried", "no such user")
    (schedule,) = shell.lines("schedules")
    assert (schedule["id"], schedule["task_id"]) == ("stock-hourly", "stock.count")
    queues = shell.lines("queues")
    assert queues == [{"queue": "emails", "succeeded": 1, "retrying": 1}, {"queue": "slow"}]
    assert shell.lines("tick")[0]["schedules_changed"] == 0
    assert shell.lines("audit", "verify")[-1]["differences"] == 0


def test_tables_are_for_people(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    shell("trigger", "emails.welcome", '{"user_id": "bad"}')
    shell("worker", "--drain")
    (run,) = shell.lines("runs", "list")
    listed = shell("runs", "list").stdout
    assert listed.splitlines()[0].split()[:3] == ["ID", "TASK", "STATUS"]
    assert run["id"] in listed
    assert "no such user" in listed
    assert "attempt 1 failed (task_failed: no such user); next one at" in shell("runs", "events", run["id"]).stdout
    assert "ValueError: no such user" in shell("runs", "get", run["id"]).stdout
    assert "every 1 h" in shell("schedules").stdout
    assert "replay identical: 5 events, 1 run, 1 schedule" in shell("audit", "verify").stdout
    assert "\x1b" not in listed, "no colours in a pipe"


def test_pages_go_on_at_the_cursor(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    for number in range(3):
        shell("trigger", "emails.welcome", json.dumps({"user_id": str(number)}))
    first, second, cursor = shell.lines("runs", "list", "--limit", "2", "--oldest")
    (third,) = shell.lines("runs", "list", "--limit", "2", "--oldest", "--cursor", cursor["next_cursor"])
    assert [run["payload"]["user_id"] for run in (first, second, third)] == ["0", "1", "2"]


def test_verify_finds_what_was_altered(sqlite_shell: Shell, sqlite_url: str) -> None:
    shell = sqlite_shell
    (made,) = shell.lines("trigger", "emails.welcome", '{"user_id": "u1"}')
    engine = sqlalchemy.create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("update runs set failure_count = 7")
    engine.dispose()
    done = shell("audit", "verify")
    assert done.returncode == 1
    assert made["run"]["id"] in done.stdout
    assert "failure" in done.stdout
    found = [json.loads(line) for line in shell("audit", "verify", "--json").stdout.splitlines()]
    assert any("failure" in d.get("field", "") and d["stored"] == 7 for d in found)


def test_what_verify_could_not_check_is_no_finding(sqlite_shell: Shell, sqlite_url: str) -> None:
    shell = sqlite_shell
    shell("trigger", "emails.welcome", '{"user_id": "u1"}')
    assert shell("audit", "verify", "--since", "1h").returncode == 0
    done = shell("audit", "verify", "--run", "00000000-0000-0000-0000-000000000000")
    assert done.returncode == 2
    assert "could not be checked: no run has the id" in done.stderr
    engine = sqlalchemy.create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("alter table events rename to elsewhere")
    engine.dispose()
    done = shell("audit", "verify")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_app_may_be_named_in_four_ways(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    assert shell("--app", "shop:app", "tick", app=None).returncode == 0
    assert shell("tick", "--app", "shop:make", app=None).returncode == 0, "after the command, and a factory"
    assert shell("tick", app="shop:app").returncode == 0
    (shell.folder / "pyproject.toml").write_text('[tool.runlane]\napp = "shop:app"\n')
    assert shell("tick", app=None).returncode == 0


def test_payloads_come_from_standard_input_too(sqlite_shell: Shell) -> None:
    done = sqlite_shell("trigger", "emails.welcome", "-", "--json", input='{"user_id": "u9"}')
    assert json.loads(done.stdout)["run"]["payload"] == {"user_id": "u9"}


def test_a_worker_stops_gracefully_on_sigterm(shell: Shell) -> None:
    shell("migrate")
    (made,) = shell.lines("trigger", "slow.wait")
    worker = subprocess.Popen(
        [sys.executable, "-m", "runlane", "worker", "--queue", "slow"],
        cwd=shell.folder,
        env={**os.environ, "RUNLANE_APP": "shop:app"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "waiting\n"
        worker.send_signal(signal.SIGTERM)
        out, _ = worker.communicate(timeout=40)
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == 0
    assert out == "0 attempts\n"  # it was given back
    (run,) = shell.lines("runs", "get", made["run"]["id"])
    assert run["status"] == "queued"
    assert shell.lines("runs", "events", made["run"]["id"])[-1]["type"] == "run.interrupted"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nope"], 2, "No such command"),
        (["runs", "list", "--status", "foo"], 2, "'foo' is not one of"),
        (["runs", "list", "--limit", "0"], 2, "limit must be an integer from 1 to 500"),
        (["runs", "list", "--after", "soon"], 2, "neither an instant"),
        (["runs", "list", "--cursor", "xx"], 2, "not one that runs.list returned"),
        (["runs", "get", "xx"], 2, "a run id must be a UUID"),
        (["runs", "get", "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f"], 1, "no run has the id"),
        (["runs", "events", "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f"], 1, "no run has the id"),
        (["trigger", "nope"], 1, "task 'nope' is not registered"),
        (["trigger", "emails.welcome", "{"], 1, "the payload is no JSON"),
        (["trigger", "emails.welcome", '{"user_id": 5}'], 1, "payload.user_id"),
        (["trigger", "emails.welcome", '{"user_id": "u"}', "--queue", "x"], 2, "no queue 'x'; known are emails, slow"),
        (["trigger", "emails.welcome", '{"user_id": "u"}', "--idempotency-key", "a:b"], 2, "must not contain ':'"),
        (["worker", "--concurrency", "0"], 2, "concurrency must be an integer from 1 to 10000"),
        (["--app", "nope:app", "tick"], 2, "there is no module 'nope'"),
        (["--app", "shop:nope", "tick"], 2, "shop has no 'nope'"),
        (["--app", "shop", "tick"], 2, "must look like module:name"),
        (["--app", "shop:Welcome", "tick"], 2, "not a Runlane"),
        (["--app", "shop:app", "--database", "sqlite:///x.db", "tick"], 2, "not both"),
        (["--app", "shop:app", "--environment", "other", "tick"], 2, "works in 'default'"),
        (["--database", "sqlite:///x.db", "worker"], 2, "give --app module:name"),
        (["--database", "mysql://x", "runs", "list"], 2, "unknown database 'mysql'"),
        (["--database", "postgresql://localhost:1/x", "runs", "list"], 1, "cannot be reached"),
    ],
)
def test_mistakes_get_one_clear_line(sqlite_shell: Shell, arguments: list[str], code: int, says: str) -> None:
    done = sqlite_shell(*arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_nothing_named_says_what_to_name(sqlite_shell: Shell) -> None:
    done = sqlite_shell("runs", "list", app=None)
    assert done.returncode == 2
    assert "--app module:name" in done.stderr
    assert "--database URL" in done.stderr


def test_a_program_that_cannot_be_imported_is_named(sqlite_shell: Shell) -> None:
    (sqlite_shell.folder / "broken.py").write_text("1 / 0\n")
    done = sqlite_shell("tick", app="broken:app")
    assert done.returncode == 2
    assert "importing broken failed: ZeroDivisionError" in done.stderr


def test_a_database_without_tables_says_how_to_get_them(sqlite_shell: Shell, postgres: Any) -> None:
    url = postgres.empty()
    done = sqlite_shell("--database", url, "runs", "list")
    assert done.returncode == 2
    assert "runlane migrate" in done.stderr
    assert sqlite_shell("--database", url, "migrate").returncode == 0
    assert "no run matches" in sqlite_shell("--database", url, "runs", "list").stdout
    postgres.drop(url)


def test_an_environment_is_chosen_with_the_database(sqlite_shell: Shell, sqlite_url: str) -> None:
    with Runlane(sqlite_url, environment="other") as app:
        app.start()
    done = sqlite_shell("--database", sqlite_url, "--environment", "other", "queues")
    assert (done.returncode, done.stdout) == (0, "no run is stored\n")


def test_it_is_a_program_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-m", "runlane", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "runlane 0.1.0\n")


def test_help_names_every_command(sqlite_shell: Shell) -> None:
    text = sqlite_shell("--help").stdout
    for command in (
        "audit",
        "completion",
        "demo",
        "keys",
        "migrate",
        "queues",
        "runs",
        "schedules",
        "tick",
        "trigger",
        "worker",
    ):
        assert f"\n  {command} " in text


def test_pruning_in_batches(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["runlane.cli.prune"], "BATCH", 2)
    shell.lines("migrate")
    for n in range(7):
        shell.lines("trigger", "emails.welcome", f'{{"user_id": "u{n}"}}', "--idempotency-key", f"k{n}")
    shell.lines("worker", "--drain")
    assert len(shell.lines("runs", "list", "--status", "succeeded")) == 7

    def prune(*options: str) -> dict[str, Any]:
        (told,) = shell.lines("runs", "prune", "--older-than", "1ms", *options)
        counts: dict[str, Any] = {name: told[name] for name in ("runs", "events", "keys", "more", "dry_run")}
        return counts

    assert shell("runs", "prune", "--older-than", "1h").stdout == "removed 0 runs, 0 events, 0 idempotency keys\n"
    seven = {"runs": 7, "events": 28, "keys": 7, "more": False, "dry_run": True}
    assert prune("--dry-run") == seven
    assert prune("--dry-run", "--limit", "3") == seven | {"runs": 3, "events": 12, "keys": 3, "more": True}
    assert prune("--status", "failed", "--status", "cancelled")["runs"] == 0
    assert prune("--limit", "1") == {"runs": 1, "events": 4, "keys": 1, "more": True, "dry_run": False}
    done = shell("runs", "prune", "--older-than", "1ms", "--limit", "2", "--actor", "ann")
    assert done.stdout.splitlines()[0] == "removed 2 runs, 8 events, 2 idempotency keys"
    assert done.stdout.splitlines()[1].startswith("more are older than 2")
    assert prune() == {"runs": 4, "events": 16, "keys": 4, "more": False, "dry_run": False}
    assert shell.lines("runs", "list") == []
    assert shell.lines("audit", "verify")[-1]["events"] == 4 + 1  # the prunes, and the schedule that was registered


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--older-than"),
        (("--older-than", "soon"), "neither an instant"),
        (("--older-than", "1d", "--status", "running"), "running"),
        (("--older-than", "1d", "--limit", "0"), "--limit"),
        (("--older-than", "2999-01-01T00:00:00Z"), "must not lie in the future"),
    ],
)
def test_a_prune_that_is_not_valid_is_a_usage_error(
    sqlite_shell: Shell, options: tuple[str, ...], message: str
) -> None:
    done = sqlite_shell("runs", "prune", *options)
    assert done.returncode in (1, 2)
    assert message in done.stderr
