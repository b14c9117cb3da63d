"""The tasks and queues of every process of the play; what their handlers do, the world decides."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol

from runlane import Context, Exponential, Fixed, Queue, Retry, Schedule, task


class Stage(Protocol):
    """Where handlers come to."""

    def handle(self, context: Context) -> Any:
        """Do what the handler does."""
        ...


#: The world that is played; one at a time.
PLAYED: list[Stage] = []
ENVIRONMENT = "simulated"
LIMITS = {"narrow": 1, "wide": 2}

MAIN = Queue("main", default=True)
SIDE = Queue("side")
NARROW = Queue("narrow", concurrency_limit=LIMITS["narrow"])
WIDE = Queue("wide", concurrency_limit=LIMITS["wide"], dispatch_timeout="20s")
QUEUES = (MAIN, SIDE, NARROW, WIDE)


def _group(payload: str | None) -> str:
    return "none" if payload is None else payload.rpartition("|")[2]


def _handle(payload: str | None, context: Context) -> Any:
    return PLAYED[0].handle(context)


_SCHEDULES = (
    Schedule("often", every=timedelta(seconds=20)),
    Schedule("seldom", cron="*/2 * * * *"),
)
TASKS = (
    task("plain", retry=Retry(3, Fixed("5s")))(_handle),
    task("brief", priority=2)(_handle),
    task(
        "stubborn",
        queue=WIDE,
        priority=3,
        retry=Retry(5, Exponential("2s", max_delay="20s"), max_lost=6),
        concurrency_key=_group,
    )(_handle),
    task("only", singleton_key=_group, retry=Retry(2, Fixed("3s"), max_lost=1))(_handle),
    task("once", queue=NARROW, idempotency_key=_group, idempotency_ttl="1h")(_handle),
    task("timed", queue=SIDE, schedules=_SCHEDULES, retry=Retry(2, Fixed("1s")))(_handle),
)
NAMES = tuple(one.id for one in TASKS)
