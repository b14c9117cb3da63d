"""What if, on the command line."""

from __future__ import annotations

import json
import re

import click
import pytest

from runlane import Exponential, Fixed, Retry
from runlane.cli.simulate import LimitOf, RetryOf
from tests.acceptance.test_cli import Shell, shell, sqlite_shell
from tests.acceptance.test_cli_runs import on_a_terminal

__all__ = ["shell", "sqlite_shell"]


def worked(shell: Shell) -> None:
    """Three runs of two queues, one of which has failed once."""
    shell("migrate")
    for user in ("a", "b", "bad"):
        shell("trigger", "emails.welcome", json.dumps({"user_id": user}))
    shell("trigger", "stock.count")
    shell("worker", "--drain")


def test_side_by_side(shell: Shell) -> None:
    worked(shell)
    (found,) = shell.lines("audit", "simulate", "--workers", "3", "--limit", "emails=1", "--retry", "1")
    assert [found[name]["runs"] for name in ("recorded", "baseline", "simulated")] == [4, 4, 4]
    assert (found["recorded"]["failed"], found["recorded"]["unfinished"]) == (0, 1)
    assert (found["simulated"]["failed"], found["simulated"]["unfinished"]) == (1, 0)
    assert (found["simulated"]["workers"], found["simulated"]["limits"]) == (3, {"emails": 1})
    assert found["recorded"]["waits"]["count"] == found["simulated"]["attempts"] == 4
    assert found["assumptions"]
    told = shell("audit", "simulate", "--workers", "3", "--limit", "emails=1", "--retry", "1").stdout
    for line in (
        r"^4 runs created, played again:$",
        r"^ +AS RECORDED +SAME POLICY PLAYED +YOUR POLICY PLAYED +CHANGE$",
        r"^workers × concurrency +1 × \d+ +1 × \d+ +3 × \d+$",
        r"^limits +– +– +emails 1$",
        r"^runs failed +0 +0 +1 +new$",
        r"^attempts failed +1 +1 +1$",
        r"^wait p99 +\S+ m?s +\S+.*$",
    ):
        assert re.search(line, told, re.MULTILINE), (line, told)


def test_it_fits_a_terminal_of_a_hundred_columns(sqlite_shell: Shell) -> None:
    worked(sqlite_shell)
    lines = on_a_terminal(sqlite_shell.folder, 100, "audit", "simulate", "--workers", "3")
    table = lines[: lines.index("", 3)]
    assert max(len(line.rstrip()) for line in table) <= 100
    assert not [line for line in lines if "too narrow" in line]


def test_of_an_export_without_a_database(sqlite_shell: Shell) -> None:
    worked(sqlite_shell)
    of_database = sqlite_shell.lines("audit", "simulate", "--concurrency", "1", "--task", "emails.welcome")
    sqlite_shell("audit", "export", "log.jsonl")
    asked = ("audit", "simulate", "--from", "log.jsonl", "--concurrency", "1", "--task", "emails.welcome", "--json")
    done = sqlite_shell(*asked, app=None)
    assert [json.loads(line) for line in done.stdout.splitlines()] == of_database
    assert of_database[0]["recorded"]["runs"] == 3


def test_nothing_to_simulate(sqlite_shell: Shell) -> None:
    sqlite_shell("migrate")
    told = sqlite_shell("audit", "simulate", "--workers", "2", "--until", "2026-01-01").stdout
    assert told == "no run to simulate was created until 2026-01-01 00:00:00Z\n"


def test_what_cannot_be_asked(sqlite_shell: Shell) -> None:
    worked(sqlite_shell)
    for says, *options in (
        ("is not like mail=5", "--limit", "emails"),
        ("is not like mail=5", "--limit", "emails=x"),
        ("must be an integer from 1", "--limit", "emails=0"),
        ("no run of queue 'email'", "--limit", "email=5"),
        ("no run of task 'x'", "--retry", "x:5"),
        ("begins with a number of attempts", "--retry", "fixed=3s"),
        ("is not one of fixed", "--retry", "3,slow=3s"),
        ("exclude each other", "--retry", "3,fixed=3s,factor=2"),
        ("belongs to exponential", "--retry", "3,factor=2"),
        ("must be a timedelta or text", "--retry", "3,fixed=3"),
        ("jitter must be from 0 to 1", "--retry", "3,jitter=2"),
        ("given once for all tasks", "--retry", "3", "--retry", "emails.welcome:4"),
        ("workers must be", "--workers", "0"),
        ("must lie before until", "--since", "1h", "--until", "2h"),
        ("manifest", "--from", "nowhere.jsonl"),
    ):
        done = sqlite_shell("audit", "simulate", *options)
        assert (done.returncode, done.stdout) == (2, ""), (options, done)
        assert says in done.stderr, (options, done.stderr)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("3", (None, Retry(3))),
        ("mail.send:3", ("mail.send", Retry(3))),
        ("5,fixed=10s,jitter=0", (None, Retry(5, Fixed("10s"), jitter=0.0))),
        (
            "5, exponential=30s, max_delay=10m, factor=3, max_lost=2",
            (None, Retry(5, Exponential("30s", max_delay="10m", factor=3.0), max_lost=2)),
        ),
    ],
)
def test_a_retry_policy_as_text(text: str, means: tuple[str | None, Retry]) -> None:
    assert RetryOf().convert(text, None, None) == means


def test_a_limit_as_text() -> None:
    assert LimitOf().convert("a=b=5", None, None) == ("a=b", 5)
    assert LimitOf().convert("mail=none", None, None) == ("mail", None)
    with pytest.raises(click.BadParameter):
        LimitOf().convert("=5", None, None)
