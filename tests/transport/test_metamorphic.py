"""The same work under a faithful and under an awful carrier of wakeups: only when things happen may differ."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

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
    SettableClock,
    Trigger,
    Wakeup,
    task,
)
from runlane.errors import TransportUnavailable
from runlane.lanes import lane_of
from runlane.transport.local import LocalTransport
from tests.support import postgres_url, reused_postgres

pytestmark = pytest.mark.timeout(600)

__all__ = ["postgres_url", "reused_postgres"]

MAIN, NARROW = Queue("main", default=True), Queue("narrow", concurrency_limit=2, dispatch_timeout="3m")
#: What the handler of each job does, attempt after attempt.
PLANS = ["ok", "fail ok", "fail fail fail", "wait ok", "wait fail wait ok", "never", "fail wait never"]
JOBS = [
    Trigger(
        "job",
        PLANS[n % len(PLANS)].split(),
        queue=NARROW if n % 3 == 0 else MAIN,
        delay="20m" if n % 4 == 1 else None,
        concurrency_key="left" if n % 6 == 0 else None,
        correlation_id=str(n),
    )
    for n in range(28)
]


@task("job", retry=Retry(3, Fixed("1m"), jitter=0.0))
def job(plan: list[str], context: Context) -> Any:
    step = plan[min(context.attempt, len(plan)) - 1]
    if step == "wait":
        return context.release("5m")
    if step == "never":
        raise NonRetryable("never")
    if step == "fail":
        raise RuntimeError("not yet")
    return {"attempts": context.attempt}


class Carrier(LocalTransport):
    """Hands over what is published, in its order."""

    name = "carrier"

    def __init__(self) -> None:
        super().__init__()
        self.bag: list[Wakeup] = []

    def publish(self, wakeups: Sequence[Wakeup]) -> list[PublishOutcome]:
        self.bag += wakeups
        return [PublishOutcome(PublishStatus.PUBLISHED)] * len(wakeups)

    def hand_over(self) -> list[Wakeup]:
        """What arrives now."""
        arrived, self.bag = self.bag, []
        return arrived


class Awful(Carrier):
    """Drops, doubles, delays and mixes up wakeups, forgets none that it refused, and is away now and then."""

    def __init__(self, die: random.Random) -> None:
        super().__init__()
        self.die = die

    def publish(self, wakeups: Sequence[Wakeup]) -> list[PublishOutcome]:
        if self.die.random() < 0.2:
            raise TransportUnavailable("away")
        outcomes = []
        for wakeup in wakeups:
            fate = self.die.choice(["drop", "once", "once", "double", "refuse", "take and refuse"])
            self.bag += [wakeup] * {"drop": 0, "refuse": 0, "double": 2}.get(fate, 1)
            refused = fate in ("refuse", "take and refuse")
            outcomes.append(PublishOutcome(PublishStatus.FAILED if refused else PublishStatus.PUBLISHED))
        return outcomes

    def hand_over(self) -> list[Wakeup]:
        self.die.shuffle(self.bag)
        arrived = [self.bag.pop() for _ in range(self.die.randint(0, len(self.bag)))]
        return arrived + [wakeup for wakeup in arrived if self.die.random() < 0.2]


def final_states(url: str, environment: str, carrier: Carrier) -> dict[str, Any]:
    """The jobs worked off by wakeups alone; nobody polls."""
    clock = SettableClock()
    lane = Lane(lane_of(url).database, carrier)
    with Runlane(lane, queues=[MAIN, NARROW], tasks=[job], environment=environment, clock=clock) as app:
        done = app.trigger_many(JOBS)
        rounds = 0
        while sum(number for status, number in app.runs.count().items() if status.is_active):
            app.tick()
            for wakeup in carrier.hand_over():
                app.execute_delivery(wakeup)
            clock.advance(timedelta(seconds=61))
            rounds += 1
            assert rounds < 2000, "a run is stuck"
        assert app.audit.verify().differences == ()
        found = [app.runs.get(one.run.id) for one in done]
        return {
            run.correlation_id or "": (
                run.status,
                run.result,
                run.attempt_count,
                run.failure_count,
                run.retry_count,
                run.release_count,
                run.lost_count,
            )
            for run in found
        }


@pytest.mark.parametrize("seed", range(2))
def test_awful_wakeups_change_when_things_happen_and_nothing_else(lane_url: str, seed: int) -> None:
    expected = final_states(lane_url, f"faithful-{seed}", Carrier())
    assert {state[0] for state in expected.values()} == {"succeeded", "failed"}
    assert final_states(lane_url, f"awful-{seed}", Awful(random.Random(seed))) == expected
