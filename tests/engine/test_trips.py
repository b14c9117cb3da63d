"""A worker's round trips: what is claimed begins, or is told, whatever becomes of the outcomes that went along."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from runlane import Context, Runlane, RunStatus, StorageUnavailable, task
from runlane.trips import Trips
from tests.engine.sessions import session_of
from tests.support import PATIENCE, types_of

Make = Callable[..., Runlane]


def test_a_claim_that_comes_back_after_the_lease_was_lost_is_told_so(
    make_app: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a process that was stopped while the claim was under way: its heart beats before the answer is read."""
    told: list[str | None] = []

    @task("work")
    def work(payload: Any, context: Context) -> None:
        told.append(context.signal.reason)

    app = make_app(work)
    go, claimed = Trips.go, threading.Event()

    def going(self: Trips, *args: Any) -> Any:
        found = go(self, *args)
        if found[0] and not claimed.is_set():
            claimed.set()
            session = session_of(app)
            session._trusted_until = 0.0
            assert not session.trusted
        return found

    monkeypatch.setattr(Trips, "go", going)
    run = app.trigger(work, 1).run
    worker = app.worker(maintenance=False, concurrency=1)
    worker.start()
    assert claimed.wait(PATIENCE)
    worker.stop()
    assert told in ([], ["lease_lost"])
    assert app.runs.get(run.id).status is RunStatus.RUNNING


def test_an_outcome_that_has_to_be_decided_again_keeps_no_claim_waiting(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, gate = threading.Event(), threading.Event()

    @task("held")
    def held() -> None:
        inside.set()
        assert gate.wait(PATIENCE)

    @task("quick")
    def quick() -> None:
        """Comes to nothing."""

    store, failed = Trips._store, []

    def storing(self: Trips, *args: Any) -> Any:
        if not failed:
            failed.append(1)
            raise StorageUnavailable("the database is away for a moment")
        return store(self, *args)

    with Runlane(postgres_url, tasks=[held, quick]) as app:
        first = app.trigger(held).run
        worker = app.worker(maintenance=False, concurrency=1, poll_interval=0.01)
        worker.start()
        assert inside.wait(PATIENCE)
        app.runs.cancel(first.id)
        second = app.trigger(quick).run
        monkeypatch.setattr(Trips, "_store", storing)
        gate.set()
        assert app.runs.wait(second.id, timeout=PATIENCE).status is RunStatus.SUCCEEDED
        assert app.runs.wait(first.id, timeout=PATIENCE).status is RunStatus.CANCELLED
        worker.stop()
        assert failed == [1]
        assert types_of(app, second.id) == ["RunCreated", "RunDeliveryRequested", "RunLeased", "RunSucceeded"]
