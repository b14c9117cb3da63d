"""A worker killed while 2,000 runs drain, at default settings: 10 s heartbeat, 30 s lease."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from runlane import Queue, Runlane, RunStatus, task
from runlane.events import RunLeased, RunLeaseExpired

RUNS = 2_000
PROGRAM = """
import sys, time
from runlane import Queue, Runlane, task

@task("chaos.work")
def work(number: int) -> int:
    time.sleep(0.1)
    return number

if __name__ == "__main__":
    app = Runlane(sys.argv[1], queues=[Queue("chaos", default=True)], tasks=[work])
    with app:
        app.worker("drain" if sys.argv[2] == "drain" else "poll", concurrency=20).run()
"""


@task("chaos.work")
def work(number: int) -> int:
    return number


def start(program: Path, url: str, mode: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(program), url, mode], env={**os.environ})


def until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.mark.timeout(300)
def test_every_run_ends_once_and_what_was_lost_is_leased_again_within_a_minute(shared_url: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with Runlane(shared_url, queues=[Queue("chaos", default=True)], tasks=[work]) as app:
        app.trigger_many(work, range(RUNS))
        victim, survivor = start(program, shared_url, "poll"), start(program, shared_url, "poll")
        try:
            until(lambda: app.runs.count().get(RunStatus.SUCCEEDED, 0) > 200, 60)
            victim.kill()
            victim.wait()
            until(lambda: app.runs.count() == {RunStatus.SUCCEEDED: RUNS}, 120)
        finally:
            for process in (victim, survivor):
                process.kill()
                process.wait()
        assert app.audit.verify().identical
        lost = 0
        kinds: Counter[str] = Counter()
        cursor = None
        while True:
            page = app.runs.list(limit=500, cursor=cursor)
            for run in page.data:
                records = app.runs.events(run.id)
                kinds.update(type(record.event).__name__ for record in records)
                for before, record, after in zip(records, records[1:], records[2:], strict=False):
                    if isinstance(record.event, RunLeaseExpired):
                        lost += 1
                        assert isinstance(after.event, RunLeased)
                        # From the death, which was after the lost lease began, to the next lease.
                        assert after.occurred_at - before.occurred_at < timedelta(seconds=60)
            if (cursor := page.next_cursor) is None:
                break
        assert lost > 0
        assert kinds["RunSucceeded"] == kinds["RunCreated"] == RUNS
        print(f"{lost} runs were lost and leased again")
