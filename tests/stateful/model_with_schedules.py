"""The rest of the model: what becomes of schedules, and the runs they make (SPEC section 11)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from tests.stateful.model import Refused, Runs
from tests.stateful.terms import Planned, Source, Timetable, Wanted


@dataclass
class Model(Runs):
    """Everything that an environment holds."""

    schedules: dict[str, Timetable] = field(default_factory=dict)

    def deploy(self, planned: Sequence[Planned], tasks: Collection[str]) -> int:
        """The first tick of a process records what its tasks define; how many schedules changed."""
        changed = 0
        for one in planned:
            table = self.schedules.get(one.id)
            if table is None:
                first = one.rule.at or one.rule.after(self.now)
                self.schedules[one.id] = Timetable(one, first if one.enabled else None)
                changed += self._say(one.id, "schedule.registered")
            elif table.planned != one or table.removed:
                goes_on = table.planned.rule == one.rule and table.planned.enabled and not table.removed
                if not goes_on or not one.enabled:
                    # A single occurrence is a promise, however late, until it has fired or was skipped.
                    fired = {at for outcome, at, *_ in table.ledger if outcome == "fired"}
                    if one.rule.at is not None:
                        afresh = None if one.rule.at in {at for _, at, *_ in table.ledger} else one.rule.at
                    else:
                        afresh = one.rule.after(max([self.now, *fired]))
                    table.next_at = afresh if one.enabled else None
                table.planned, table.removed = one, False
                changed += self._say(one.id, "schedule.changed")
        for id, table in self.schedules.items():
            if table.planned.task in tasks and id not in {one.id for one in planned} and not table.removed:
                table.removed, table.next_at = True, None
                changed += self._say(id, "schedule.removed")
        return changed

    def due_schedules(self) -> list[Timetable]:
        """Those that fire now."""
        return [t for t in self.schedules.values() if not t.paused and t.next_at is not None and t.next_at <= self.now]

    def fire(self, table: Timetable, run_id: UUID) -> None:
        """The latest due occurrence makes `run_id`, or leads to it; those before collapse into it."""
        missed, id = table.missed(self.now), table.planned.id
        self.make(table, run_id, Source("schedule", schedule=id, scheduled_for=missed[-1]), f"schedule:{id}")
        table.ledger.append(("fired", missed[-1], len(missed) - 1, run_id))
        table.last_at, table.next_at = missed[-1], table.planned.rule.after(missed[-1])
        self._say(id, "schedule.fired")

    def make(self, table: Timetable, run_id: UUID, source: Source, actor: str) -> str:
        """The run of a schedule, or the owner of its task's keys; which of the two."""
        planned = table.planned
        wanted = Wanted(planned.task, planned.payload, planned.queue).settled()
        outcome, owner = self.holder_of(wanted)
        if owner is None:
            self.create(run_id, wanted, source, actor)
        else:
            assert run_id == owner.id
        return outcome

    def deployed(self, id: str) -> Timetable:
        """A schedule that can be operated."""
        if id not in self.schedules:
            raise Refused("schedule_not_found")
        if self.schedules[id].removed:
            raise Refused("run_state_invalid")
        return self.schedules[id]

    def fires_by_hand(self, id: str) -> Timetable:
        """A schedule that can be triggered out of turn."""
        table = self.deployed(id)
        if not table.planned.enabled:
            raise Refused("run_state_invalid")
        return table

    def pause_schedule(self, id: str, actor: str) -> None:
        """It stops firing until it is resumed."""
        if not (table := self.deployed(id)).paused:
            table.paused = True
            self._say(id, "schedule.paused", actor)

    def resume_schedule(self, id: str, actor: str) -> None:
        """It goes on after now; what fell due meanwhile is skipped."""
        if (table := self.deployed(id)).paused:
            table.paused = False
            if missed := table.missed(self.now):
                table.ledger.append(("skipped", missed[-1], len(missed) - 1, None))
                table.next_at = table.planned.rule.after(self.now)
            self._say(id, "schedule.resumed", actor)

    def _say(self, id: str, type: str, actor: str | None = None) -> int:
        self.told.append((("schedule", id), type, actor or f"schedule:{id}"))
        return 1
