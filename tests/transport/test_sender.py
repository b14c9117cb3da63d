"""Sending rings: the first one at once and by nobody else, those close behind it together, and none for ever lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import monotonic
from typing import Any

import psycopg
import pytest

from runlane.transport import sender as module
from runlane.transport.sender import Sender
from tests.support import PATIENCE, eventually

NEVER = 3600.0


@pytest.fixture
def witness(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("listen rings")
        yield connection


@pytest.fixture
def sender(postgres_url: str, witness: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sender]:
    """One that is connected, and whose line is free."""
    made = Sender(lambda: psycopg.connect(postgres_url, autocommit=True), "rings", "me")
    made.send("env", ["first"])
    assert heard(witness) == ["me", "env", ["first"]]
    free(made)
    yield made
    made.close()


def free(sender: Sender) -> psycopg.Connection[Any]:
    """Wait until whoever rings may send; the line."""
    eventually(lambda: sender._line is not None, "the line being free")
    line = sender._line
    assert line is not None
    if not line.closed:
        eventually(lambda: (line.pgconn.consume_input(), module.is_done(line))[1], "the answer to the last ring")
    sender._next = 0.0
    return line


def heard(witness: psycopg.Connection[Any]) -> Any:
    (notice,) = witness.notifies(timeout=PATIENCE, stop_after=1)
    return json.loads(notice.payload)


def test_a_lone_ring_is_sent_by_whoever_rings(sender: Sender, witness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_settle", lambda _: pytest.fail("the thread has sent it"))
    for n in range(3):
        line = free(sender)
        sender.send("env", [f"q{n}"])
        assert not sender._waiting
        assert sender._line is line
        assert heard(witness) == ["me", "env", [f"q{n}"]]


def test_what_comes_close_behind_waits_and_goes_out_together(
    sender: Sender, witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COALESCE", NEVER)
    sender.send("env", ["a"])
    assert heard(witness) == ["me", "env", ["a"]]
    for queues in (["c"], ["b", "c"]):
        sender.send("env", queues)
    assert sender._waiting == {"env": {"b", "c"}}
    sender.close()
    assert heard(witness) == ["me", "env", ["b", "c"]]


def test_a_ring_about_everything_takes_the_others_along(
    sender: Sender, witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COALESCE", NEVER)
    sender.send("env", ["a"])
    heard(witness)
    for queues in (["b"], None, ["c"]):
        sender.send("env", queues)
    sender.close()
    assert heard(witness) == ["me", "env", None]


def test_a_line_on_which_the_server_has_not_answered_is_left_to_the_thread(sender: Sender, witness: Any) -> None:
    witness.execute("select pg_advisory_lock(7)")
    line = free(sender)
    line.pgconn.send_query(b"select pg_advisory_lock_shared(7)")
    line.pgconn.flush()
    sender.send("env", ["q"])
    assert list(witness.notifies(timeout=0)) == []
    witness.execute("select pg_advisory_unlock(7)")
    assert heard(witness) == ["me", "env", ["q"]]


def test_a_ring_on_a_line_that_is_gone_goes_out_on_another_one(sender: Sender, witness: Any) -> None:
    line = free(sender)
    pid = line.info.backend_pid
    witness.execute("select pg_terminate_backend(%s)", (pid,))
    eventually(lambda: not witness.execute("select from pg_stat_activity where pid = %s", (pid,)).fetchall(), "its end")

    def notices() -> bool:
        sender._next = 0.0
        sender.send("env", ["q"])
        return line.closed

    eventually(notices, "it noticing that the line is gone")
    assert heard(witness) == ["me", "env", ["q"]]


def test_a_ring_that_waited_for_a_line_that_is_gone_goes_out_on_another_one(sender: Sender, witness: Any) -> None:
    pid = free(sender).info.backend_pid
    witness.execute("select pg_terminate_backend(%s)", (pid,))
    eventually(lambda: not witness.execute("select from pg_stat_activity where pid = %s", (pid,)).fetchall(), "its end")
    sender._next = monotonic() + 0.1  # close behind another one: it is left to the thread
    sender.send("env", ["q"])
    assert heard(witness) == ["me", "env", ["q"]]


def test_it_can_be_used_again_after_it_was_closed(sender: Sender, witness: Any) -> None:
    for n in range(3):
        sender.close()
        sender.send("env", [f"q{n}"])
        assert heard(witness) == ["me", "env", [f"q{n}"]]


def test_a_payload_that_is_too_long_is_about_everything(sender: Sender, witness: Any) -> None:
    free(sender)
    sender.send("env", ["q" * 4000, "r" * 4000])
    assert heard(witness) == ["me", "env", None]
