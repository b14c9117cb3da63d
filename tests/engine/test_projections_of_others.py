"""Two processes that make projections inline, run or remove them at once: all is folded, and nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from runlane import ConfigurationInvalid, Runlane, StorageConflict
from runlane.projecting import Projections
from runlane.storage import inlining
from runlane.storage.transaction import Transaction
from tests.engine.tasks import echo
from tests.engine.test_inline_projections import Seen, made, seen, stored
from tests.support import PATIENCE, database_of, eventually


class Other(Seen):
    name = "other"

    def setup(self, connection: Any) -> None:
        connection.execute(text("create table if not exists other (position bigint primary key)"))

    def fold(self, connection: Any, records: Any) -> None:
        connection.execute(text("insert into other values (:p)"), [{"p": record.position} for record in records])


def once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], Any]) -> None:
    """Call `act` before the next call of this function, and no more."""
    was, done = getattr(owner, name), []

    def called(*args: Any, **options: Any) -> Any:
        if not done:
            done.append(1)
            act()
        return was(*args, **options)

    monkeypatch.setattr(owner, name, called)


def test_who_comes_second_folds_nothing_again(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(shared_url, Seen()) as app, made(shared_url, Seen()) as other:
        app.trigger_many(echo, range(4))
        other.project("seen", stop=lambda: True)
        once(monkeypatch, Projections, "_fold", lambda: app.project("seen"))
        with pytest.raises(StorageConflict, match="another process has removed projection 'seen', or made it inline"):
            other.project("seen")
        assert seen(app) == stored(app)
        assert [(one.is_inline, one.cursor) for one in app.projections.list()] == [(True, None)]
        assert other.project("seen") == 0


def test_who_follows_what_was_removed_folds_nothing_again(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Runlane(shared_url, tasks=[echo], projections=[Seen()]) as app:
        app.trigger_many(echo, range(4))
        app.project("seen", poll=None)
        once(monkeypatch, Projections, "_fold", lambda: app.projections.remove("seen"))
        with pytest.raises(StorageConflict, match="has removed projection 'seen'"):
            app.project("seen", poll=None)
        assert seen(app) == stored(app)


def test_the_guard_of_one_stays_when_the_last_but_one_is_removed(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made(postgres_url, Seen()) as app, made(postgres_url, Seen(), Other()) as both:
        app.project("seen")
        once(monkeypatch, inlining, "_wait", lambda: None)
        with made(postgres_url, Other()) as other:
            other.project("other", stop=lambda: True)
            asked = inlining._wait

            def meanwhile(tx: Transaction, patience_ms: int) -> None:
                monkeypatch.setattr(inlining, "_wait", asked)
                both.project("other")
                asked(tx, patience_ms)

            monkeypatch.setattr(inlining, "_wait", meanwhile)
            app.projections.remove("seen")
        with Runlane(postgres_url, tasks=[echo]) as foreign, pytest.raises(ConfigurationInvalid, match="is inline"):
            foreign.trigger(echo, 1)


def test_a_removal_waits_for_those_who_append_and_they_do_not_wait_for_it(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made(postgres_url, Seen()) as app, made(postgres_url, Seen()) as other:
        app.project("seen")
        asked: list[threading.Thread] = []
        lock, main = inlining.lock, threading.current_thread()

        def locking(tx: Transaction, projections: Any) -> None:
            """Who appends has the log, and goes on once the removal waits for that."""
            asked.append(threading.current_thread())
            if threading.current_thread() is main:
                remover.start()
                eventually(lambda: waiting(other), "the removal waiting for the log")
            lock(tx, projections)

        def waiting(app: Runlane) -> bool:
            with database_of(app).read() as tx:
                found = "select 1 from pg_locks where not granted and relation = 'runlane.events'::regclass"
                return tx.connection.exec_driver_sql(found).first() is not None

        remover = threading.Thread(target=other.projections.remove, args=("seen",))
        monkeypatch.setattr(inlining, "lock", locking)
        app.trigger(echo, 1)
        remover.join(PATIENCE)
        assert not remover.is_alive()
        assert asked == [main, remover], "neither transaction was tried again"
        assert app.projections.list()[0].is_inline is False
