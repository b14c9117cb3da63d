"""What the chaos runs: tasks that leave traces in a file of their own, and the application that they belong to."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from time import time as real_time
from typing import Any

from attrs import asdict, frozen

from runlane import (
    Context,
    Fixed,
    Lane,
    NonRetryable,
    PublishOutcome,
    PublishStatus,
    Queue,
    Retry,
    Runlane,
    Schedule,
    Wakeup,
    task,
)
from runlane.lanes import lane_of

PLAIN = Queue("plain", default=True)
BOUNDED = Queue("bounded", concurrency_limit=3)
#: What the checker is told of the two.
LIMITS = {"bounded": 3}
PERIODS = {"each-second": 1.0, "also-each-second": 1.0, "every-other-second": 2.0}
#: Workers die so often here that the usual limit of losses would end most runs.
OFTEN = Retry(6, Fixed("30ms"), max_lost=100_000)


@frozen
class Setting:
    """Where a chaos takes place, and how patient its processes are; durations as Runlane takes them, others seconds.

    With `carries` there is a wakeup for every run, by way of the outbox, which some provider takes and loses.
    """

    url: str
    folder: str
    heartbeat: str = "500ms"
    lease: str = "2s"
    poll: float = 0.2
    maintenance: float = 0.4
    concurrency: int = 6
    carries: bool = False

    def as_json(self) -> dict[str, Any]:
        """For another process, which makes it ``Setting(**values)`` again."""
        return asdict(self)


_effects: int | None = None


def leave(context: Context, what: str) -> None:
    """One line in the effects file, by one write: lines of several processes do not mix, and a SIGKILL tears none."""
    global _effects
    if _effects is None:
        path = os.environ["RUNLANE_CHAOS_EFFECTS"]
        _effects = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    line = f"{context.run.id} {context.attempt} {session_of(context)} {what} {os.getpid()} {real_time():.6f}\n"
    os.write(_effects, line.encode())


def session_of(context: Context) -> str:
    """The session under which the attempt is leased: whose outcome is worth something."""
    assert context.run.lease is not None
    return str(context.run.lease.session_id)


def trace(context: Context, seconds: float) -> dict[str, Any]:
    """The whole life of a handler; the result tells under which lease it was made."""
    leave(context, "started")
    time.sleep(seconds)
    leave(context, "ended")
    return {"token": [session_of(context), context.attempt]}


@task("chaos.work", retry=OFTEN)
def work(payload: dict[str, Any], context: Context) -> dict[str, Any] | None:
    """Half of them have no result: those are stored another way."""
    made = trace(context, random.uniform(0, 0.04))
    return made if payload["n"] % 2 else None


@task("chaos.slow", retry=OFTEN)
def slow(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    return trace(context, random.uniform(0.2, 2.0))


@task("chaos.polite", retry=OFTEN)
def polite(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Ends when it is asked to."""
    leave(context, "started")
    context.signal.wait(random.uniform(0.1, 0.5))
    context.signal.raise_if_set()
    leave(context, "ended")
    return {"token": [session_of(context), context.attempt]}


@task("chaos.later", retry=OFTEN)
async def later(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """On the event loop."""
    leave(context, "started")
    await asyncio.sleep(random.uniform(0, 0.2))
    leave(context, "ended")
    return {"token": [session_of(context), context.attempt]}


@task("chaos.flaky", retry=OFTEN)
def flaky(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    made = trace(context, 0.01)
    if random.random() < 0.4:
        raise NonRetryable("for good") if random.random() < 0.1 else RuntimeError("once more")
    return made


@task("chaos.fragile")
def fragile(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Fails when its worker vanishes for the third time, as is the default."""
    return trace(context, random.uniform(0.05, 0.3))


@task("chaos.polls", retry=OFTEN)
def polls(payload: dict[str, Any], context: Context) -> Any:
    made = trace(context, 0.005)
    return context.release("50ms", reason="not yet") if context.run.release_count < 2 else made


@task("chaos.bounded", queue=BOUNDED, retry=OFTEN, concurrency_key=lambda payload: f"k{payload['n'] % 3}")
def bounded(payload: dict[str, Any], context: Context) -> Any:
    made = trace(context, random.uniform(0, 0.05))
    return context.release("20ms") if payload["n"] % 5 == 0 and context.run.release_count < 2 else made


@task("chaos.single", retry=OFTEN, singleton_key="only")
def single(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    return trace(context, 0.02)


@task("chaos.keyed", retry=OFTEN)
def keyed(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    return trace(context, 0.01)


@task("chaos.ticked", retry=OFTEN, schedules=[Schedule(name, every=f"{every:.0f}s") for name, every in PERIODS.items()])
def ticked(payload: None, context: Context) -> dict[str, Any]:
    return trace(context, 0.005)


TASKS = [work, slow, polite, later, flaky, fragile, polls, bounded, single, keyed, ticked]


def app_of(setting: Setting, name: str | None = None) -> Runlane:
    """The application, as one process has it."""
    os.environ.setdefault("RUNLANE_CHAOS_EFFECTS", f"{setting.folder}/effects")
    return Runlane(
        _carrying(lane_of(setting.url)) if setting.carries else setting.url,
        queues=[PLAIN, BOUNDED],
        tasks=TASKS,
        worker_id=name,
        heartbeat=setting.heartbeat,
        lease_duration=setting.lease,
    )


def _carrying(lane: Lane) -> Lane:
    """The lane, with a provider of wakeups who refuses some, and delivers none: whoever polls finds the runs."""

    def publish(wakeups: Sequence[Wakeup]) -> list[PublishOutcome]:
        refused = PublishOutcome(PublishStatus.FAILED, "not now")
        return [refused if random.random() < 0.05 else PublishOutcome(PublishStatus.PUBLISHED) for _ in wakeups]

    lane.transport.publish = publish  # type: ignore[attr-defined]
    return Lane(lane.database, lane.transport, lane.name)


def setting_of(values: Mapping[str, Any]) -> Setting:
    """The inverse of ``Setting.as_json``."""
    return Setting(**values)


def app() -> Runlane:
    """For the command line: ``runlane --app tests.chaos.jobs:app``, on the database that the environment names."""
    return app_of(Setting(os.environ["RUNLANE_CHAOS_URL"], "/tmp"))
