"""A file has no clock of its own: each process brings its machine's, and one that is off costs executions, no truth."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest

from runlane import Context, Runlane, RunStatus, task
from runlane.clock import system_clock
from runlane.events import RunSucceeded
from tests.support import PATIENCE, eventually


@pytest.mark.parametrize("days", [1, -1], ids=["ahead", "behind"])
def test_who_is_a_day_off_on_a_file_can_take_a_run_and_never_end_it_twice(sqlite_url: str, days: int) -> None:
    began, may_end = threading.Event(), threading.Event()

    @task("clocks.held")
    def held(payload: None, context: Context) -> int:
        if context.attempt == 1:
            began.set()
            assert may_end.wait(PATIENCE)
        return context.attempt

    def off() -> datetime:
        return system_clock() + timedelta(days=days)

    with Runlane(sqlite_url, tasks=[held]) as right, Runlane(sqlite_url, tasks=[held], clock=off) as wrong:
        run = right.trigger(held, None).run
        worker = right.worker(poll_interval=0.05)
        worker.start()
        assert began.wait(PATIENCE)
        wrong.tick()  # ahead, it takes the lease for one that is over
        wrong.worker("drain").run()
        may_end.set()
        eventually(lambda: right.runs.get(run.id).status is RunStatus.SUCCEEDED, "an end")
        worker.stop()
        found = right.runs.get(run.id)
        assert (found.result, found.lost_count) == ((2, 1) if days > 0 else (1, 0))
        records = right.runs.events(run.id)
        assert [type(record.event) for record in records].count(RunSucceeded) == 1
        assert records == tuple(sorted(records, key=lambda record: record.occurred_at)), "no time runs backwards"
        assert right.audit.verify().identical
