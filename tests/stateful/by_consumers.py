"""The commands of consumers of a publishing transport, and of publishers that die."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

from attrs import evolve

from runlane import Wakeup
from runlane.errors import LeaseLost
from runlane.storage import outbox
from tests.stateful.acting import Acting
from tests.stateful.cast import KNOWN, QUEUE
from tests.stateful.machine import command
from tests.stateful.post import answer
from tests.stateful.terms import LIMITS, QUEUES, TERMINAL, ModelRun


@dataclass
class Dead:
    """A publisher that has claimed rows and is not heard of."""

    id: UUID
    claimed: list[outbox.Claimed]


class Consumers(Acting):
    """Commands that only a lane with a publishing transport knows."""

    @command(9)
    def execute_a_delivery(self, rng: Random) -> None:
        self.needs(self.post is not None and self.post.box)
        assert self.post is not None
        place, process = rng.randrange(len(self.post.box)), rng.randrange(2)
        wakeup = self.post.box[place] if rng.random() < 0.2 else self.post.box.pop(place)
        if rng.random() < 0.1:
            wakeup = self.forged(rng, wakeup)
        self.deliver(rng, process, wakeup)

    @command(3)
    def execute_a_delivery_that_nobody_asked_for(self, rng: Random) -> None:
        self.needs(self.post is not None)
        run = self.one_of(rng, list(self.model.runs.values()))
        wakeup = Wakeup(self.environment, run.id, run.wanted.queue or "", self.model.now)
        self.deliver(rng, rng.randrange(2), self.forged(rng, wakeup) if rng.random() < 0.2 else wakeup)

    def forged(self, rng: Random, wakeup: Wakeup) -> Wakeup:
        """A wakeup with something wrong about it."""
        wrong: dict[str, Any] = rng.choice(
            ({"environment": "elsewhere"}, {"queue": rng.choice(QUEUES)}, {"run_id": uuid4()})
        )
        return evolve(wakeup, **wrong)

    def deliver(self, rng: Random, process: int, wakeup: Wakeup) -> None:
        """A consumer gets a wakeup: it executes the run, or has a reason not to."""
        queues = QUEUES if rng.random() < 0.8 else tuple(rng.sample(QUEUES, 2))
        session = self.session(process)
        is_open = session in self.model.sessions
        reasons = self.reasons(wakeup, queues, process)

        def begin(id: UUID) -> ModelRun:
            assert not reasons, f"it was executed although it is {reasons}"
            assert id == wakeup.run_id
            run = self.model.runs[id]
            self.model.lease(run, session if is_open else self.session(process))
            return run

        def call() -> Any:
            asked = None if queues is QUEUES else [QUEUE[name] for name in queues]
            delivery = self.call(process, "execute_delivery", wakeup, asked)
            if delivery.reason == "lost_race":
                raise LeaseLost("the attempt took longer than the session lived")
            return delivery

        delivery, executed = self.execute(rng, process, begin, call)
        assert (executed is None) == bool(reasons), f"nothing speaks against it, but {delivery}"
        if delivery is not None:
            assert delivery.outcome == ("executed" if executed else "ignored")
            assert delivery.reason is None if executed else delivery.reason in reasons
            self.returned += [] if delivery.run is None else [delivery.run]
        self.session(process)

    def reasons(self, wakeup: Wakeup, queues: tuple[str, ...], process: int) -> set[str]:
        """Everything that speaks against executing a wakeup."""
        if wakeup.environment != self.environment:
            return {"wrong_environment"}
        run = self.model.runs.get(wakeup.run_id)
        if run is None:
            return {"not_found"}
        if run.status in TERMINAL:
            return {"terminal"}
        if run.lease is not None:
            return {"already_leased" if run.status == "running" else "cancellation_requested"}
        full = run.wanted.queue in LIMITS and run.reserved is None and self.model.is_full(run.wanted)
        holds = {
            "wrong_queue": run.wanted.queue != wakeup.queue or run.wanted.queue not in queues,
            "unknown_task": run.wanted.task not in KNOWN[process],
            "not_due": run.due_at is None or run.due_at > self.model.now,
            "no_capacity": full or run.wanted.queue in self.model.paused,
        }
        return {reason for reason, is_so in holds.items() if is_so}

    @command(3)
    def tick_where_a_slot_or_a_wakeup_falls_due(self, rng: Random) -> None:
        self.needs(self.model.outbox is not None)
        assert self.model.outbox is not None
        ends = [run.reserved[0] for run in self.model.runs.values() if run.reserved is not None]
        ends += [row.due_at for row in self.model.outbox.rows.values()]
        times = [at for at in ends if at is not None and at > self.model.now]
        self.needs(times)
        edge = rng.choice((timedelta(0), timedelta(0), timedelta(microseconds=-1)))
        self.advance(max(rng.choice(times) + edge - self.model.now, timedelta(0)))
        self.ticks(rng.randrange(2))

    @command(2)
    def claim_wakeups_and_die(self, rng: Random) -> None:
        """A publisher takes rows, and is gone; others take them over after its time."""
        self.needs(self.model.outbox is not None)
        assert self.model.outbox is not None
        dead, process = uuid4(), rng.randrange(2)
        rows = self.model.outbox.take(self.model.now, publisher=dead)
        claimed, _ = self.lanes[process].database.transact(
            lambda tx: outbox.claim(tx, self.environment, dead, tx.now(), 100), self.clock
        )
        assert {one.key for one in claimed} == {row.key for row in rows}
        if claimed:
            self.publishers = [*self.publishers[-2:], Dead(dead, claimed)]

    @command(1)
    def settle_wakeups_late(self, rng: Random) -> None:
        """It was not dead after all, and has published what it took."""
        self.needs(self.publishers)
        assert self.model.outbox is not None
        late = self.publishers.pop(rng.randrange(len(self.publishers)))
        outcome = answer(rng)
        settled = self.lanes[0].database.transact(
            lambda tx: outbox.settle(tx, late.id, [(one, outcome) for one in late.claimed], tx.now()), self.clock
        )
        mine = [self.model.outbox.rows.get(one.key) for one in late.claimed]
        held = [row for row in mine if row is not None and row.status == "claimed" and row.claimed_by == late.id]
        for row in held:
            self.model.outbox.settle(row, outcome.status, self.model.now)
        assert sum(settled.values()) == len(held)
