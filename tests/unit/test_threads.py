"""Threads for handlers that block."""

from __future__ import annotations

import logging
import threading

import pytest

from runlane.threads import Threads
from tests.support import PATIENCE


def test_the_threads_that_the_system_allows_do_the_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, done, all_done = threading.Thread.start, set[int](), threading.Event()

    def limited(thread: threading.Thread) -> None:
        if thread.name != "runlane-handler-1":
            raise RuntimeError("can't start new thread")
        start(thread)

    def work(item: int) -> None:
        done.add(item)
        if len(done) == 20:
            all_done.set()

    with monkeypatch.context() as system:
        system.setattr(threading.Thread, "start", limited)
        threads: Threads[int] = Threads(10, work)
        threads._slow = 1.0
        with caplog.at_level(logging.WARNING):
            threads.submit(range(10))
            threads._slow = 1.0
            threads.submit(range(10, 20))
        assert all_done.wait(PATIENCE)
    assert len([record for record in caplog.records if "no more than 1 threads" in record.message]) == 1
    threads._slow = 1.0
    threads.submit(range(5))  # and more of them once it allows more
    assert threads._size > 1
    threads.close()


def test_without_any_thread_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuses)
    with pytest.raises(RuntimeError, match="can't start"):
        Threads[int](10, lambda _: None).submit([1])
