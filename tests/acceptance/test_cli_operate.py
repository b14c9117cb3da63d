"""Cancelling, retrying, rerunning and freeing keys on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from runlane import Run, StorageUnavailable
from runlane.engine import operate
from tests.acceptance.test_cli import Shell, shell, sqlite_shell

__all__ = ["shell", "sqlite_shell"]


def trigger(shell: Shell, user: str, *options: str) -> str:
    (made,) = shell.lines("trigger", "emails.welcome", f'{{"user_id": "{user}"}}', *options)
    run_id: str = made["run"]["id"]
    return run_id


def statuses(shell: Shell) -> list[Any]:
    return sorted(run["status"] for run in shell.lines("runs", "list"))


def test_cancel_by_id_tells_who_and_why(shell: Shell) -> None:
    shell("migrate")
    run = trigger(shell, "u1")
    (done,) = shell.lines("runs", "cancel", run, "--actor", "ann", "--reason", "not needed")
    assert (done["id"], done["status"]) == (run, "cancelled")
    assert (done["cancellation"]["actor"], done["cancellation"]["reason"]) == ("operator:ann", "not needed")
    again = shell("runs", "cancel", run)
    assert again.returncode == 1
    assert "has ended as cancelled" in again.stderr


def test_cancel_by_condition_is_bounded_and_goes_on(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    for n in range(3):
        trigger(shell, f"u{n}", "--correlation-id", "batch")
    trigger(shell, "other")
    *first, cursor = shell.lines("runs", "cancel", "--correlation-id", "batch", "--limit", "2")
    assert len(first) == 2
    rest = shell.lines("runs", "cancel", "--correlation-id", "batch", "--cursor", cursor["next_cursor"])
    assert len(rest) == 1
    assert statuses(shell) == ["cancelled"] * 3 + ["queued"]


def test_an_age_counts_from_the_first_page(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    runs = [trigger(shell, f"u{n}") for n in range(3)]
    aged = ("--after", "2h", "--before", "1ms")

    def pages(*command: str) -> list[str]:
        first, cursor = shell.lines("runs", *command, *aged, "--limit", "1")
        *rest, last = shell.lines("runs", *command, *aged, "--limit", "2", "--cursor", cursor["next_cursor"])
        assert "next_cursor" not in last
        return [(one["source"]["source_run_id"] or one["id"]) for one in (first, *rest, last)]

    assert pages("list") == runs[::-1]
    assert pages("list", "--oldest") == runs
    assert pages("cancel") == runs
    assert pages("rerun") == runs
    _, cursor = shell.lines("runs", "list", "--limit", "1")
    mixed = shell("runs", "list", *aged, "--limit", "1", "--cursor", cursor["next_cursor"])
    assert (mixed.returncode, "another filter" in mixed.stderr) == (2, True)


@pytest.mark.parametrize(
    ("cut", "code", "says"),
    [(StorageUnavailable("it went away"), 1, "it went away"), (KeyboardInterrupt(), 130, "interr")],
)
def test_what_is_cut_short_says_where_to_go_on(
    sqlite_shell: Shell, monkeypatch: pytest.MonkeyPatch, cut: BaseException, code: int, says: str
) -> None:
    shell = sqlite_shell
    runs = [trigger(shell, f"u{n}") for n in range(4)]
    cancel, calls = operate.cancel, []

    def cuts(*arguments: Any) -> Run:
        calls.append(arguments)
        if len(calls) == 3:
            raise cut
        return cancel(*arguments)

    monkeypatch.setattr(operate, "cancel", cuts)
    done = shell("runs", "cancel", "--task", "emails.welcome", "--after", "2h")
    assert (done.returncode, says in done.stderr) == (code, True)
    assert all(run in done.stdout for run in runs[:2])
    _, _, cursor = done.stdout.partition("cut short; go on with --cursor ")
    rest = shell.lines("runs", "cancel", "--task", "emails.welcome", "--after", "2h", "--cursor", cursor.strip())
    assert [run["id"] for run in rest] == runs[2:]
    calls.clear()
    named = shell("runs", "rerun", *runs)  # which is another function: nothing is cut
    assert named.returncode == 0
    again = [line.split()[0] for line in named.stdout.splitlines()[1:]]
    cut_by_name = shell("runs", "cancel", *again)
    assert (cut_by_name.returncode, says in cut_by_name.stderr) == (code, True)
    assert [run in cut_by_name.stdout for run in again] == [True, True, False, False]


def test_retry_and_rerun_make_linked_runs(shell: Shell) -> None:
    shell("migrate")
    good, bad = trigger(shell, "u1"), trigger(shell, "bad", "--idempotency-key", "k")
    shell("worker", "--drain")
    shell("runs", "cancel", bad)
    (again,) = shell.lines("runs", "rerun", good, "--reason", "once more")
    assert (again["source"]["type"], again["source"]["source_run_id"]) == ("rerun", good)
    assert again["meta"] == {"reason": "once more"}
    refused = shell("runs", "retry", good)
    assert refused.returncode == 1
    assert "only a failed run can be retried" in refused.stderr
    mixed = shell("runs", "rerun", good, "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f")
    assert mixed.returncode == 1
    assert "no run has the id" in mixed.stderr
    assert "queued" in mixed.stdout


def test_nothing_named_changes_nothing(sqlite_shell: Shell) -> None:
    trigger(sqlite_shell, "u1")
    for arguments in (["cancel"], ["retry"], ["rerun"]):
        done = sqlite_shell("runs", *arguments)
        assert done.returncode == 2
        assert "--all" in done.stderr
    wrong = sqlite_shell("runs", "cancel", "--status", "failed")
    assert wrong.returncode == 2
    assert "not for 'failed'" in wrong.stderr
    assert statuses(sqlite_shell) == ["queued"]
    assert sqlite_shell("runs", "cancel", "--all").returncode == 0
    assert statuses(sqlite_shell) == ["cancelled"]


def test_a_key_is_freed_once(shell: Shell) -> None:
    shell("migrate")
    trigger(shell, "u1", "--idempotency-key", "k")
    busy = shell("keys", "reset", "emails.welcome", "k")
    assert (busy.returncode, "is still queued" in busy.stderr) == (1, True)
    shell("worker", "--drain")
    assert shell("keys", "reset", "emails.welcome", "k", "--reason", "wrong").stdout == "the key is free\n"
    assert shell("keys", "reset", "emails.welcome", "k").returncode == 1
    assert "idempotency.reset" not in shell("runs", "list").stdout
    assert shell("audit", "verify").returncode == 0
