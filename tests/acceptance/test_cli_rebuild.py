"""Repairing and rebuilding on the command line."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from runlane import Runlane
from tests.acceptance.test_cli import Shell, shell, sqlite_shell
from tests.support import database_of, execute

__all__ = ["shell", "sqlite_shell"]


@pytest.fixture
def run(shell: Shell) -> str:
    """A run that has succeeded."""
    shell("migrate")
    (made,) = shell.lines("trigger", "emails.welcome", '{"user_id": "u1"}', "--idempotency-key", "k")
    shell("worker", "--drain")
    run_id: str = made["run"]["id"]
    return run_id


def spoil(url: str, *statements: str) -> None:
    with Runlane(url) as app:
        for statement in statements:
            execute(database_of(app), statement)


def lines(done: Any) -> list[Any]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_repair_shows_what_was_different(shell: Shell, shared_url: str, run: str) -> None:
    spoil(shared_url, "update {runs} set priority = 7")
    done = shell("audit", "repair", run, "--actor", "ann", "--reason", "by hand")
    assert done.returncode == 0
    assert "priority" in done.stdout
    assert "repaired: 1 difference" in done.stdout
    assert shell.lines("audit", "repair", run) == [{"repaired": False, "differences": 0}]
    assert "nothing to repair" in shell("audit", "repair", run).stdout
    assert shell("audit", "verify").returncode == 0


def test_repair_says_what_it_cannot(shell: Shell, run: str) -> None:
    missing = shell("audit", "repair", str(uuid4()))
    assert (missing.returncode, "no run has the id" in missing.stderr) == (1, True)
    wrong = shell("audit", "repair", "x")
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_a_dry_run_finds_and_a_rebuild_puts_right(shell: Shell, shared_url: str, run: str) -> None:
    assert shell("audit", "rebuild", "--dry-run").returncode == 0
    spoil(shared_url, "delete from {runs}", "delete from {idempotency_keys}")
    dry = shell("audit", "rebuild", "--dry-run", "--json")
    assert dry.returncode == 1
    *differences, total = lines(dry)
    assert {(one["field"], one["stored"]) for one in differences} == {("row", "absent"), ("idempotency_keys", "absent")}
    assert (total["rows"], total["swapped"], total["held"]) == (2, False, None)
    assert "dry run, 2 rows to put right: " in shell("audit", "rebuild", "--dry-run").stdout
    done = shell("audit", "rebuild", "--actor", "ann", "--reason", "restored by mistake")
    assert done.returncode == 0
    assert "rebuilt, 2 rows put right: " in done.stdout
    assert "others waited for" in done.stdout
    (total,) = shell.lines("audit", "rebuild")
    assert (total["rows"], total["swapped"], total["differences"]) == (0, True, 0)
    assert shell("audit", "verify").returncode == 0
    assert "rebuilt, identical: " in shell("audit", "rebuild").stdout


def test_a_damaged_history_is_left_and_named(sqlite_shell: Shell, sqlite_url: str) -> None:
    (made,) = sqlite_shell.lines("trigger", "emails.welcome", '{"user_id": "u1"}')
    spoil(sqlite_url, "drop trigger events_refuse_update", "update {events} set data = '{{}}' where sequence = 1")
    for arguments in ((), ("--dry-run",)):
        done = sqlite_shell("audit", "rebuild", *arguments)
        assert done.returncode == 1
        assert "1 damaged history left as stored" in done.stdout
        assert made["run"]["id"] in done.stdout
    refused = sqlite_shell("audit", "repair", made["run"]["id"])
    assert refused.returncode == 1
    assert "event 1 of its history is damaged" in refused.stderr
