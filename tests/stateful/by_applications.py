"""The commands of applications: triggers in every form, and runs executed at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import orm

from runlane import QueueCapacityExceeded, StorageConflict, Trigger, Triggered
from runlane.errors import ConflictKind
from tests.stateful.acting import Acting
from tests.stateful.cast import KNOWN, QUEUE
from tests.stateful.machine import MOST_ACTIVE, command
from tests.stateful.model import Runs
from tests.stateful.terms import QUEUES, TERMINAL, ModelRun, Source, Wanted, retention

APP = "application:app"
TTLS = (None, "active", "1h", "3h")
WORDS = ("red", "blue")


def drawn(rng: Random, process: int) -> Wanted:
    """A trigger, with keys from an alphabet so small that they collide."""
    task = rng.choice(KNOWN[process]) if rng.random() < 0.7 else rng.choice(("patient", "stubborn"))
    if task == "hasty" and rng.random() < 0.8:
        task = "patient"
    key = rng.choice(WORDS) if rng.random() < 0.25 else None
    return Wanted(
        task,
        rng.choice((None, *WORDS)),
        rng.choice(QUEUES) if rng.random() < 0.4 else None,
        key,
        rng.choice(TTLS) if key is not None else None,
        rng.choice(WORDS) if rng.random() < 0.15 else None,
        rng.choice(WORDS) if rng.random() < 0.15 else None,
        rng.choice((-5, 5)) if rng.random() < 0.2 else None,
        timedelta(seconds=rng.choice((1, 60, 600, 3600))) if rng.random() < 0.25 else None,
        rng.choice(WORDS) if rng.random() < 0.3 else None,
    )


def options(wanted: Wanted) -> dict[str, Any]:
    """How a caller says what is wanted, beside task and payload."""
    return {
        "queue": None if wanted.queue is None else QUEUE[wanted.queue],
        "idempotency_key": wanted.key,
        "idempotency_ttl": wanted.ttl,
        "singleton_key": wanted.singleton,
        "concurrency_key": wanted.concurrency,
        "priority": wanted.priority,
        "delay": wanted.delay,
        "correlation_id": wanted.correlation,
    }


def entries(batch: Sequence[Wanted]) -> list[Trigger]:
    """The same for ``trigger_many``."""
    return [Trigger(one.task, one.payload, **options(one)) for one in batch]


class Applications(Acting):
    """Commands of programs that want work done."""

    def room(self, for_: int = 1) -> None:
        """Few active runs are enough."""
        self.needs(len(self.active()) + for_ <= MOST_ACTIVE)

    @command(18)
    def trigger(self, rng: Random) -> None:
        self.room()
        process = rng.randrange(2)
        self.triggered_once(rng, drawn(rng, process), process)

    @command(4)
    def trigger_a_key_again(self, rng: Random) -> None:
        self.room(-2)
        self.needs(self.model.owners)
        task, key = rng.choice(list(self.model.owners))
        process = 0 if task == "rare" else rng.randrange(2)
        self.triggered_once(rng, Wanted(task, key=key, ttl=rng.choice(TTLS)), process)

    @command(3)
    def trigger_at_the_end_of_a_keys_retention(self, rng: Random) -> None:
        self.room(-2)
        model = self.model
        ended = [run for run in model.runs.values() if run.status in TERMINAL and run.wanted.ttl != "active"]
        owner = self.one_of(rng, [run for run in ended if model.owner_of(run.wanted.task, run.wanted.key) is run])
        edge = rng.choice((timedelta(0), timedelta(microseconds=-1)))
        self.advance(max(owner.created_at + retention(owner.wanted) + edge - model.now, timedelta(0)))
        self.triggered_once(rng, Wanted(owner.wanted.task, key=owner.wanted.key, ttl=rng.choice(TTLS)), 0)

    @command(2)
    def trigger_a_singleton_again(self, rng: Random) -> None:
        self.room(-2)
        taken = self.one_of(rng, [run for run in self.active() if run.wanted.singleton is not None]).wanted
        self.triggered_once(rng, Wanted(taken.task, rng.choice(WORDS), singleton=taken.singleton), 0)

    def triggered_once(self, rng: Random, asked: Wanted, process: int) -> None:
        """One trigger, which comes to what the model says."""
        wanted = asked.settled()
        outcome, owner = self.model.holder_of(wanted)
        found = self.call(process, "trigger", asked.task, asked.payload, **options(asked))
        assert (found.outcome, found.run.id) == (outcome, found.run.id if owner is None else owner.id)
        self.returned.append(found.run)
        if owner is None:
            self.model.create(found.run.id, wanted, Source(), APP)
            self.announced(process, [found.run.id])

    @command(3)
    def trigger_many(self, rng: Random) -> None:
        self.room(3)
        process = rng.randrange(2)
        batch = [drawn(rng, process) for _ in range(rng.randint(2, 4))]
        found = self.call(process, "trigger_many", entries(batch))
        self.returned += [one.run for one in found]
        self.triggered(self.model, batch, found)
        self.announced(process, [one.run.id for one in found if one.outcome == "created"])

    @command(1)
    def trigger_many_with_an_id_that_exists_writes_nothing(self, rng: Random) -> None:
        taken = self.one_of(rng, list(self.model.runs.values()))
        batch = [drawn(rng, 0) for _ in range(rng.randint(1, 3))]
        with pytest.raises(StorageConflict) as refused:
            self.call(0, "trigger_many", [*entries(batch), Trigger("brief", run_id=taken.id)])
        assert refused.value.kind is ConflictKind.RUN_EXISTS

    @command(2)
    def trigger_in_the_callers_transaction(self, rng: Random) -> None:
        self.room(3)
        app, commits = self.app(rng.randrange(2)), rng.random() < 0.6
        trial = self.model if commits else copy.deepcopy(self.model)
        with app.lane.database.engine.connect() as connection:
            caller = orm.Session(connection) if rng.random() < 0.5 else connection
            for _ in range(rng.randint(1, 2)):
                batch = [drawn(rng, 1) for _ in range(rng.randint(1, 2))]
                self.triggered(trial, batch, app.trigger_many(entries(batch), connection=caller))
            caller.commit() if commits else caller.rollback()

    def triggered(self, model: Runs, batch: Sequence[Wanted], found: Sequence[Triggered]) -> None:
        """A batch: who is created is for the database to say, whoever is not has found the owner of a key."""
        assert len(batch) == len(found)
        pairs = [(one.settled(), triggered) for one, triggered in zip(batch, found, strict=True)]
        for wanted, triggered in pairs:
            if triggered.outcome == "created":
                model.create(triggered.run.id, wanted, Source(), APP)
        for wanted, triggered in pairs:
            owner = None
            if triggered.outcome == "reused_idempotent":
                owner = model.owner_of(wanted.task, wanted.key)
            elif triggered.outcome == "reused_singleton":
                owner = model.singleton_of(wanted.task, wanted.singleton)
            assert triggered.outcome == "created" or (owner is not None and triggered.run.id == owner.id)

    @command(3)
    def run_now(self, rng: Random) -> None:
        self.room()
        process = rng.randrange(2)
        asked = drawn(rng, process)
        said = {name: value for name, value in options(asked).items() if name not in ("queue", "priority", "delay")}
        wanted = replace(asked, queue=None, priority=None, delay=None).settled()
        _, owner = self.model.holder_of(wanted)
        session = self.session(process)
        if owner is None and self.model.is_full(wanted):
            with pytest.raises(QueueCapacityExceeded):
                self.call(process, "run_now", asked.task, asked.payload, **said)
            return

        def begin(id: UUID) -> ModelRun:
            return self.model.create(id, wanted, Source("run_now"), APP, session)

        done, executed = self.execute(
            rng, process, begin, lambda: self.call(process, "run_now", asked.task, asked.payload, **said)
        )
        assert (executed is None) == (owner is not None)
        if done is not None:  # else its lease was lost
            assert done.executed == (owner is None)
            assert done.run.id == (executed if owner is None else owner.id)
            self.returned.append(done.run)
