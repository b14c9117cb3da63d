"""The model's tasks, queues and schedules as a program defines them; what a handler does, the machine decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from runlane import Context, Exponential, Fixed, Queue, Retry, Schedule, Task, task
from tests.stateful.terms import LIMITS, QUEUES, TASKS, TIMEOUTS, Planned, Rule

#: What handlers do, by the environment of their run.
STAGES: dict[str, Callable[[Context], Any]] = {}

QUEUE = {
    name: Queue(name, default=name == "main", concurrency_limit=LIMITS.get(name), dispatch_timeout=TIMEOUTS.get(name))
    for name in QUEUES
}
RETRY = {
    "patient": Retry(3, Fixed("10m"), jitter=0, max_lost=2),
    "brief": Retry(1),
    "stubborn": Retry(4, Exponential("1m", max_delay="5m", factor=3), jitter=0),
    "only": Retry(2, Fixed("1m"), jitter=0),
    "once": Retry(1),
    "rare": Retry(2, Fixed("1m"), jitter=0),
    "hasty": Retry(2, Fixed("1m"), jitter=0),
    "timed": Retry(2, Fixed("1m"), jitter=0),
}
#: The tasks that each of the two processes has.
KNOWN = (tuple(TASKS), tuple(name for name in TASKS if name != "rare"))

_RARELY, _OFTEN = Rule(every=timedelta(hours=5)), Rule(every=timedelta(hours=3))
_NIGHTLY = Rule(times=((2, 30),))
_THRICE = Rule(times=((6, 15), (6, 45), (7, 15), (7, 45)))
_SOON = Rule(at=datetime(2026, 1, 1, 0, 20, tzinfo=UTC))
_LATE = Rule(at=datetime(2026, 1, 1, 5, tzinfo=UTC))
_PAST = Rule(at=datetime(2025, 12, 31, tzinfo=UTC))
CRON = {_NIGHTLY: "30 2 * * *", _THRICE: "15-45/30 6,7 * * *"}
_ONLY = Planned("only.one", "only", _RARELY, "red")

#: What the program's releases define, one after the other in no order.
RELEASES: tuple[tuple[Planned, ...], ...] = (
    (_ONLY, Planned("often", "timed", _OFTEN), Planned("single", "timed", _SOON, "x")),
    (_ONLY, Planned("often", "timed", _OFTEN, "changed", "wide"), Planned("nightly", "timed", _NIGHTLY)),
    (Planned("only.one", "only", _OFTEN, "blue"), Planned("often", "timed", _RARELY, enabled=False)),
    (
        _ONLY,
        Planned("single", "timed", _LATE, "x"),
        Planned("nightly", "timed", _THRICE),
        Planned("of.key", "once", _RARELY, "red"),
    ),
    (
        _ONLY,
        Planned("single", "timed", _PAST),
        Planned("often", "timed", _RARELY),
        Planned("of.key", "once", _OFTEN, "red", "main"),
    ),
)


def _schedule(planned: Planned) -> Schedule:
    rule, queue = planned.rule, QUEUE.get(planned.queue or "")
    options: dict[str, Any] = {"payload": planned.payload, "queue": queue, "enabled": planned.enabled}
    if rule.at is not None:
        return Schedule(planned.id, run_at=rule.at, **options)
    if rule.every is not None:
        return Schedule(planned.id, every=rule.every, **options)
    return Schedule(planned.id, cron=CRON[rule], **options)


def _handle(payload: str | None, context: Context) -> Any:
    return STAGES[context.run.environment](context)


async def _outlast(payload: str | None, context: Context) -> None:
    STAGES[context.run.environment](context)
    await asyncio.Event().wait()  # until the timeout


@cache
def tasks_of(release: int, process: int) -> tuple[Task[..., Any], ...]:
    """The tasks of a process that runs this release."""
    return tuple(
        task(
            name,
            retry=RETRY[name],
            queue=None if rules.queue == "main" else QUEUE[rules.queue],
            priority=rules.priority,
            idempotency_key=rules.idempotency,
            idempotency_ttl=rules.ttl,
            singleton_key=rules.singleton,
            concurrency_key=rules.concurrency,
            timeout="1ms" if name == "hasty" else None,
            schedules=[_schedule(planned) for planned in RELEASES[release] if planned.task == name],
        )(_outlast if name == "hasty" else _handle)
        for name, rules in TASKS.items()
        if name in KNOWN[process]
    )
