"""The commands on schedules, and reads of them."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.stateful.acting import ANN
from tests.stateful.by_operators import BY, Operators
from tests.stateful.machine import command
from tests.stateful.terms import Source, Timetable

IDS = ("often", "only.one", "single", "nightly", "of.key")


class Schedulers(Operators):
    """Commands of people who look after schedules."""

    @command(3)
    def pause_a_schedule(self, rng: Random) -> None:
        id = rng.choice(IDS)
        refused, _, state = self.refused(
            lambda: self.model.pause_schedule(id, BY),
            lambda: self.call(rng.randrange(2), "schedules.pause", id, actor=ANN, reason="quiet"),
        )
        assert refused or self.shown(state) == self.of_model(id)

    @command(4)
    def resume_a_schedule(self, rng: Random) -> None:
        paused = [id for id, table in self.model.schedules.items() if table.paused]
        id = rng.choice(paused) if paused and rng.random() < 0.9 else rng.choice(IDS)
        refused, _, state = self.refused(
            lambda: self.model.resume_schedule(id, BY),
            lambda: self.call(rng.randrange(2), "schedules.resume", id, actor=ANN),
        )
        assert refused or self.shown(state) == self.of_model(id)

    @command(3)
    def trigger_a_schedule(self, rng: Random) -> None:
        self.room()
        id, process = rng.choice(IDS), rng.randrange(2)
        refused, table, found = self.refused(
            lambda: self.model.fires_by_hand(id),
            lambda: self.call(process, "schedules.trigger", id, actor=ANN),
        )
        if not refused:
            assert found.outcome == self.model.make(table, found.run.id, Source("schedule", schedule=id), BY)
            self.announced(process, [found.run.id])
            self.returned.append(found.run)

    @command(3)
    def tick_once_a_schedule_is_due(self, rng: Random) -> None:
        waits = [table.next_at for table in self.model.schedules.values() if table.next_at is not None]
        self.needs(waits and len(self.active()) < 10)
        self.advance(max(rng.choice(waits), self.model.now) - self.model.now)
        self.ticks(rng.randrange(2))

    @command(2)
    def read_schedules(self, rng: Random) -> None:
        listed = self.call(rng.randrange(2), "schedules.list")
        assert [state.schedule_id for state in listed] == sorted(self.model.schedules)
        for state in listed:
            assert self.shown(state) == self.of_model(state.schedule_id)

    @command(2)
    def read_occurrences(self, rng: Random) -> None:
        self.needs(self.model.schedules)
        id = rng.choice(list(self.model.schedules))
        told = self.call(rng.randrange(2), "schedules.occurrences", id, limit=20)
        seen = [(one.outcome, one.scheduled_for, one.collapsed, one.run_id) for one in told]
        assert seen == self.model.schedules[id].ledger[::-1][:20]

    @command(1)
    def preview_a_schedule(self, rng: Random) -> None:
        id, count = rng.choice(IDS), rng.randint(1, 4)
        refused, table, times = self.refused(
            lambda: self.model.fires_by_hand(id), lambda: self.call(rng.randrange(2), "schedules.preview", id, count)
        )
        if not refused:
            expected, at = [], table.planned.rule.after(self.model.now)
            if table.planned.rule.at is not None:  # to come until it has fired; a resume would skip what is overdue
                skipped = table.paused and table.next_at is not None and table.next_at <= self.model.now
                at = None if skipped else table.next_at
            while at is not None and len(expected) < count:
                expected.append(at)
                at = table.planned.rule.after(at)
            assert list(times) == expected

    def shown(self, state: Any) -> tuple[Any, ...]:
        """A schedule as it is stored."""
        flags = (state.enabled, state.paused, state.removed)
        return (state.task_id, state.payload, *flags, state.next_at, state.last_at, state.fired_count)

    def of_model(self, id: str) -> tuple[Any, ...]:
        """The same as the model has it."""
        table: Timetable = self.model.schedules[id]
        planned = table.planned
        flags = (planned.enabled, table.paused, table.removed)
        fired = sum(outcome == "fired" for outcome, *_ in table.ledger)
        return (planned.task, planned.payload, *flags, table.next_at, table.last_at, fired)
