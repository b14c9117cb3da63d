"""One of many processes that tick, work, trigger and deliver at once: ``python -m tests.chaos.crowd URL SECONDS N``.

Even ones have a transport that carries wakeups, odd ones look into the database by themselves; they share queues.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from runlane import (
    Fixed,
    Lane,
    PublishOutcome,
    PublishStatus,
    Queue,
    Retry,
    Runlane,
    RunlaneError,
    Schedule,
    Wakeup,
    task,
)
from runlane.lanes import lane_of
from runlane.transport.local import LocalTransport

LIMIT = 3
#: Limits that the log has to keep to at every position.
BOUNDED = Queue("bounded", concurrency_limit=LIMIT, dispatch_timeout="2s")
PLAIN = Queue("plain", default=True)
SCHEDULES = 10


@task("crowd.tick", queue=PLAIN, schedules=[Schedule(f"each-second-{n}", every="1s") for n in range(SCHEDULES)])
def ticked() -> None:
    """Made by the schedules."""


@task("crowd.bounded", queue=BOUNDED, concurrency_key=lambda n: f"k{n % 3}", retry=Retry(3, Fixed("10ms")))
def bounded(n: int, context: Any) -> Any:
    if n % 7 == 0 and context.attempt == 1:
        raise RuntimeError("once")
    return context.release("10ms") if n % 5 == 0 and context.attempt < 3 else n


@task("crowd.single", queue=PLAIN, singleton_key="only")
def single(n: int) -> int:
    return n


@task("crowd.keyed", queue=PLAIN)
def keyed(n: int) -> int:
    return n


TASKS = [ticked, bounded, single, keyed]


class ToMyself(LocalTransport):
    """Carries wakeups no further than this process; some are lost, some come twice."""

    name = "to-myself"

    def __init__(self) -> None:
        super().__init__()
        self.wakeups: deque[Wakeup] = deque()

    def publish(self, wakeups: Sequence[Wakeup]) -> list[PublishOutcome]:
        for wakeup in wakeups:
            self.wakeups.extend([wakeup] * random.choice([0, 1, 1, 2]))
        return [PublishOutcome(PublishStatus.PUBLISHED)] * len(wakeups)


def app_at(url: str, transport: ToMyself | None = None) -> Runlane:
    lane = lane_of(url)
    return Runlane(lane if transport is None else Lane(lane.database, transport), queues=[PLAIN, BOUNDED], tasks=TASKS)


def main(url: str, seconds: float, number: int) -> None:
    random.seed(number)
    transport = None if number % 2 else ToMyself()
    until = time.monotonic() + seconds
    with app_at(url, transport) as app:
        worker = app.worker(concurrency=4, poll_interval=0.05, maintenance_interval=0.05)
        worker.start()

        def ticks() -> None:
            app.tick()

        def triggers() -> None:
            n = random.randrange(1000)
            app.trigger_many(bounded, range(n, n + 5))
            app.trigger(single, n)
            app.trigger(keyed, n, idempotency_key=f"{number}-{n}", idempotency_ttl="active")
            app.trigger(keyed, n, idempotency_key=f"shared-{n % 10}", idempotency_ttl="active", delay="20ms")
            time.sleep(0.02)

        def delivers() -> None:
            if transport is not None and transport.wakeups:
                app.execute_delivery(transport.wakeups.popleft())
            else:
                time.sleep(0.01)

        def operates() -> None:
            runs = app.runs.list(statuses=["queued", "running", "retrying"], limit=5).data
            for run in runs[:1]:
                app.runs.cancel(run.id, reason="crowd")
            app.queues.pause("plain") if random.random() < 0.1 else app.queues.resume("plain")
            time.sleep(0.05)

        threads = [threading.Thread(target=again, args=(work, until)) for work in (ticks, triggers, delivers, operates)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        app.queues.resume("plain")
        worker.stop()
    print("done", flush=True)


def again(work: Callable[[], None], until: float) -> None:
    while time.monotonic() < until:
        try:
            work()
        except RunlaneError as error:
            if error.code not in ("run_state_invalid", "storage_conflict"):
                raise


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
