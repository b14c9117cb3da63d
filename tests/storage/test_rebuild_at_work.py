"""Rebuilding while others trigger, claim and complete: every run ends exactly once, and nobody notices."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from runlane import Fixed, Rebuilt, Retry, Runlane, RunStatus, task
from runlane.storage import folding
from tests.support import PATIENCE, eventually

RUNS = 300


def test_every_run_ends_once(
    shared_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folding, "PAGE", 100)
    executed: Counter[int] = Counter()
    lock, done = threading.Lock(), threading.Event()

    @task("counted", retry=Retry(2, Fixed("1ms"), jitter=0.0))
    def counted(payload: int) -> int:
        with lock:
            executed[payload] += 1
        if payload % 10 == 0 and executed[payload] == 1:
            raise ValueError("once more")
        return payload

    def work(first: int) -> None:
        with Runlane(shared_url, tasks=[counted]) as app:
            for n in range(first, RUNS, 2):
                app.trigger(counted, n, idempotency_key=f"k{n}")
                app.execute_next()

    def rebuild() -> list[Rebuilt]:
        found = []
        with Runlane(shared_url) as app:
            while not done.is_set():
                found.append(app.audit.rebuild())
        return found

    with Runlane(shared_url, tasks=[counted]) as app:
        worker = app.worker(concurrency=2, poll_interval=0.01)
        worker.start()
        with ThreadPoolExecutor(3) as threads:
            rebuilding = threads.submit(rebuild)
            try:
                for working in [threads.submit(work, first) for first in (0, 1)]:
                    working.result(3 * PATIENCE)
            finally:
                done.set()
            found = rebuilding.result(PATIENCE)
        eventually(lambda: app.runs.count().get(RunStatus.SUCCEEDED) == RUNS, "the end of all runs")
        worker.stop()
        assert found
        assert [one.differences for one in found] == [()] * len(found)
        assert executed == {n: 2 if n % 10 == 0 else 1 for n in range(RUNS)}
        assert app.audit.count()["run.succeeded"] == RUNS
        assert app.audit.verify().differences == ()
        assert app.audit.rebuild(swap=False).identical
        assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
