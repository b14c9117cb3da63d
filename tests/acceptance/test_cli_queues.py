"""``runlane queues``: listing, pausing and resuming, for people and for programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from runlane import Queue, Runlane, task
from tests.acceptance.test_cli import Shell

PROGRAM = """
import runlane
from runlane import Queue, task

emails = Queue("emails", default=True)
printer = Queue("printer", concurrency_limit=1)

@task("send")
def send(payload: int) -> int:
    return payload

@task("print", queue=printer, concurrency_key=lambda n: f"tray-{n}")
def printing(payload: int) -> int:
    return payload

app = runlane.Runlane(URL, queues=[emails, printer], tasks=[send, printing])
"""


@pytest.fixture
def shell(
    tmp_path: Path, shared_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    made = Shell(tmp_path, shared_url, monkeypatch, capsys)
    (tmp_path / "shop.py").write_text(PROGRAM.replace("URL", repr(shared_url)))
    return made


def test_the_bare_command_lists(shell: Shell) -> None:
    shell("migrate")
    shell("trigger", "send", "1")
    both = [
        {"queue": "emails", "queued": 1},
        {"queue": "printer", "concurrency_limit": 1, "occupied": 0, "reserved": 0},
    ]
    assert shell.lines("queues") == shell.lines("queues", "list") == both
    table = shell("queues").stdout
    assert table == shell("queues", "list").stdout
    assert "QUEUED" in table
    assert "0 (limit 1)" in table
    assert "PAUSED" not in table


def test_a_paused_queue_is_left_alone_until_it_is_resumed(shell: Shell) -> None:
    shell("migrate")
    shell("trigger", "send", "1")
    shell("trigger", "print", "1")
    assert shell.lines("queues", "pause", "emails", "--reason", "the relay is down") == [
        {"queue": "emails", "paused": True}
    ]
    assert shell("queues", "pause", "emails").stdout == "queue emails is paused\n"
    assert shell.lines("worker", "--drain") == [{"attempts": 1}]
    emails, _ = shell.lines("queues")
    assert {name: emails[name] for name in emails if name != "since"} == {
        "queue": "emails",
        "queued": 1,
        "paused": True,
        "actor": "operator:cli",
        "reason": "the relay is down",
    }
    table = shell("queues").stdout
    assert "PAUSED" in table
    assert "the relay is down" in table
    assert shell("queues", "resume", "emails").stdout == "queue emails is open\n"
    shell("queues", "pause", "emails", "--actor", "ann")
    assert shell.lines("queues")[0]["actor"] == "operator:ann"
    assert shell.lines("queues", "resume", "emails", "--actor", "ann") == [{"queue": "emails", "paused": False}]
    assert shell.lines("worker", "--drain") == [{"attempts": 1}]
    assert shell.lines("audit", "verify")[-1]["queues"] == 1
    assert "1 queue" in shell("audit", "verify").stdout


def test_a_queue_that_nobody_knows_is_an_error_of_usage(shell: Shell) -> None:
    shell("migrate")
    done = shell("queues", "pause", "emial")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no queue 'emial'; known are emails, printer" in done.stderr


def test_with_a_bare_database_any_queue_may_be_paused(shell: Shell, shared_url: str) -> None:
    shell("migrate")
    assert shell("--database", shared_url, "queues", "pause", "printer", app=None).returncode == 0
    (row,) = shell.lines("queues", "list", "--database", shared_url)
    assert (row["queue"], row["paused"]) == ("printer", True)

    @task("t")
    def nothing(payload: int) -> None:
        """Has nothing to do."""

    with Runlane(shared_url, queues=[Queue("printer", default=True)], tasks=[nothing]) as app:
        app.trigger(nothing, 1)
        assert app.execute_next() is None


@pytest.mark.parametrize("arguments", [["pause"], ["resume"], ["pause", "a:b"], ["halt", "emails"]])
def test_wrong_usage_is_one_line_and_code_2(shell: Shell, arguments: list[str]) -> None:
    shell("migrate")
    done = shell("queues", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_help_names_the_commands(shell: Shell) -> None:
    text = shell("queues", "--help").stdout
    for command in ("list", "pause", "resume"):
        assert f"\n  {command} " in text
