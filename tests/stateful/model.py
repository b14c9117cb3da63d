"""A second, independent statement of what becomes of runs, keys and queues: SPEC sections 5 to 14, without schedules.

Plain records, written from the SPEC, and nothing imported from Runlane.  Each command tells which events it expects.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tests.stateful.outbox import Outbox
from tests.stateful.terms import (
    LIMITS,
    SYSTEM,
    TASKS,
    TERMINAL,
    TIMEOUTS,
    WAITING,
    ModelRun,
    Outcome,
    Source,
    Wanted,
    retention,
)


class Refused(Exception):
    """The command is refused, with this error code."""


@dataclass
class Runs:
    """One environment.  `told` has the events expected of the commands since it was last emptied."""

    now: datetime
    max_events: int = 10_000
    outbox: Outbox | None = None  # where the transport publishes
    runs: dict[UUID, ModelRun] = field(default_factory=dict)
    owners: dict[tuple[str, str], UUID] = field(default_factory=dict)
    reset: set[tuple[str, str]] = field(default_factory=set)
    sessions: dict[UUID, datetime] = field(default_factory=dict)
    workers: dict[UUID, str] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    told: list[tuple[Any, str, str]] = field(default_factory=list)

    # -- keys

    def owner_of(self, task: str, key: str | None) -> ModelRun | None:
        """Who owns an idempotency key now."""
        owner = self.runs.get(self.owners.get((task, key), UUID(int=0))) if key is not None else None
        if owner is None or (task, key) in self.reset:
            return None
        if owner.status not in TERMINAL:
            return owner
        if owner.status == "failed" or owner.wanted.ttl == "active":
            return None
        return owner if self.now < owner.created_at + retention(owner.wanted) else None

    def singleton_of(self, task: str, key: str | None) -> ModelRun | None:
        """Which active run owns a singleton key."""
        mine = (task, key)
        found = (run for run in self.runs.values() if (run.wanted.task, run.wanted.singleton) == mine)
        return next((run for run in found if run.status not in TERMINAL), None) if key is not None else None

    def holder_of(self, wanted: Wanted) -> tuple[str, ModelRun | None]:
        """What a trigger comes to: idempotency is looked up first."""
        if (owner := self.owner_of(wanted.task, wanted.key)) is not None:
            return "reused_idempotent", owner
        owner = self.singleton_of(wanted.task, wanted.singleton)
        return ("created", None) if owner is None else ("reused_singleton", owner)

    def reset_key(self, task: str, key: str, actor: str) -> bool:
        """An operator frees a key from an ended owner; whether there was anything to free."""
        owner = self.owner_of(task, key)
        if owner is None:
            return False
        if owner.status not in TERMINAL:
            raise Refused("run_state_invalid")
        self.reset.add((task, key))
        self.told.append((("key", task, key), "idempotency.reset", actor))
        return True

    # -- runs

    def create(self, id: UUID, wanted: Wanted, source: Source, actor: str, session: UUID | None = None) -> ModelRun:
        """A run comes into being, and owns its keys; with its first lease if a `session` takes it at once."""
        assert self.holder_of(wanted)[0] == "created", "a key has an owner"
        assert id not in self.runs
        waits = wanted.delay is not None and wanted.delay > timedelta(0)
        due = self.now + wanted.delay if waits and wanted.delay is not None else self.now
        run = ModelRun(id, wanted, source, self.now, "scheduled" if waits else "queued", due, self.now)
        self.runs[id] = run
        self._tell(run, "run.created", actor)
        if wanted.key is not None:
            self.owners[wanted.task, wanted.key] = id
            self.reset.discard((wanted.task, wanted.key))
        if session is not None:
            self.lease(run, session)
        elif not waits and (self.outbox is None or wanted.queue not in LIMITS):
            self._ask(run, actor)
        return run

    def again(self, source: ModelRun, type: str, known: Collection[str]) -> Wanted:
        """What a rerun or a manual retry of a run asks for."""
        if source.status not in TERMINAL or (type == "manual_retry" and source.status != "failed"):
            raise Refused("run_state_invalid")
        if source.wanted.task not in known:
            raise Refused("task_not_found")
        wanted = replace(source.wanted, key=None, ttl=None, delay=None)
        if self.holder_of(wanted)[0] != "created":
            raise Refused("storage_conflict")
        return wanted

    def occupied(self) -> Counter[tuple[str | None, str | None]]:
        """How many slots of each partition are in use."""
        return Counter(run.place for run in self.runs.values() if run.lease is not None or run.reserved is not None)

    def is_full(self, wanted: Wanted) -> bool:
        """Whether no slot is left for a run."""
        limit = LIMITS.get(wanted.queue or "")
        return limit is not None and self.occupied()[wanted.queue, wanted.concurrency] >= limit

    def claimable(
        self, queues: Collection[str], tasks: Collection[str], limit: int, *, reserving: bool = False
    ) -> list[ModelRun]:
        """What a claim gets now, best first; a full partition never hides others.

        Who sets slots aside passes over those that nobody can be woken for.
        """
        due = (run for run in self.runs.values() if run.due_at is not None and run.due_at <= self.now)
        open_ = {queue for queue in queues if queue not in self.paused}
        mine = sorted((r for r in due if r.wanted.queue in open_ and r.wanted.task in tasks), key=lambda run: run.rank)
        if reserving and self.outbox is not None:
            mine = [run for run in mine if not self.outbox.was_refused(run)]
        occupied, found = self.occupied(), []
        for run in mine:
            has_slot = run.reserved is not None or occupied[run.place] < LIMITS.get(run.wanted.queue or "", math.inf)
            if len(found) < limit and has_slot:
                occupied[run.place] += run.reserved is None
                found.append(run)
        return found

    def lease(self, run: ModelRun, session: UUID) -> None:
        """A claim."""
        assert run.status in WAITING
        self._step(run, "run.leased", "running", self.workers[session])
        run.attempts += 1
        run.started_at = run.started_at or run.updated_at
        run.lease = (session, run.attempts)

    def finish(self, id: UUID, lease: tuple[UUID, int], outcome: Outcome) -> bool:
        """An attempt ends (SPEC 9); False if the lease is not its own any more, so that nothing happens."""
        run = self.runs.get(id)
        if run is None or run.lease != lease:
            return False
        worker, rules, kind = self.workers[lease[0]], TASKS[run.wanted.task], outcome.kind
        if run.status == "cancellation_requested" and kind in ("succeed", "release", "stop"):
            self._step(run, "run.cancelled", "cancelled", worker)
        elif kind == "succeed":
            self._step(run, "run.succeeded", "succeeded", worker)
        elif kind == "give_up" or (
            kind == "fail" and (run.status == "cancellation_requested" or run.failures + 1 >= rules.max_attempts)
        ):
            self._fail(run, worker, outcome.code)
        elif self._has_no_room(run):
            self._fail(run, worker, "history_limit")
        elif kind == "release":
            self._step(run, "run.released", "released", worker, self.now + outcome.delay)
            run.releases += 1
        elif kind == "fail":
            run.failures += 1
            run.retries += 1
            self._step(run, "run.retry_scheduled", "retrying", worker, self.now + rules.backoff(run.retries))
        else:
            self._again(run, "run.interrupted", worker)
        return True

    def cancel(self, id: UUID, actor: str, reason: str | None) -> ModelRun:
        """A waiting run is cancelled at once, a running one asked to stop; asking twice changes nothing."""
        run = self.runs.get(id)
        if run is None:
            raise Refused("run_not_found")
        if run.status in TERMINAL:
            raise Refused("run_state_invalid")
        if run.status == "running":
            run.status, run.asked = "cancellation_requested", (reason,)
            run.updated_at = max(run.updated_at, self.now)
            self._tell(run, "run.cancellation_requested", actor)
        elif run.status in WAITING:
            run.asked = (reason,)
            self._step(run, "run.cancelled", "cancelled", actor)
        return run

    def held_by(self, session: UUID) -> dict[UUID, int]:
        """The leases of a session, run to attempt."""
        return {run.id: run.lease[1] for run in self.runs.values() if run.lease is not None and run.lease[0] == session}

    def recover(self) -> tuple[int, int, int]:
        """Sessions whose time is up, or that have no row, lose their runs.

        Returns how many sessions, how many runs that go on or fail, and how many that were being cancelled.
        """
        over = {session for session, end in self.sessions.items() if end <= self.now}
        lost = [run for run in self.runs.values() if run.lease is not None and self._is_dead(run.lease[0])]
        over |= {run.lease[0] for run in lost if run.lease is not None}
        for run in lost:
            if run.status == "cancellation_requested":
                self._step(run, "run.cancelled", "cancelled", SYSTEM)
                continue
            run.losses += 1
            if run.losses >= TASKS[run.wanted.task].max_lost:
                self._fail(run, SYSTEM, "lease_lost")
            elif self._has_no_room(run):
                run.losses -= 1
                self._fail(run, SYSTEM, "history_limit")
            else:
                self._again(run, "run.lease_expired", SYSTEM)
        self.sessions = {session: end for session, end in self.sessions.items() if session not in over}
        cancelled = sum(run.status == "cancelled" for run in lost)
        return len(over), len(lost) - cancelled, cancelled

    def prune(self, cutoff: datetime, statuses: Iterable[str], limit: int, after: UUID | None) -> list[ModelRun]:
        """The ended runs that a prune takes, by id."""
        old = (r for r in self.runs.values() if r.status in TERMINAL and r.status in statuses and r.updated_at < cutoff)
        return sorted((r for r in old if after is None or r.id > after), key=lambda run: run.id)[:limit]

    def owned_by(self, runs: Sequence[ModelRun]) -> list[tuple[str, str]]:
        """The idempotency keys that these runs were the last to take."""
        ids = {run.id for run in runs}
        return [key for key, owner in self.owners.items() if owner in ids]

    def forget(self, runs: Sequence[ModelRun], actor: str) -> None:
        """They are pruned: with them go the keys they own."""
        for key in self.owned_by(runs):
            del self.owners[key]
            self.reset.discard(key)
        for run in runs:
            del self.runs[run.id]
            if self.outbox is not None:
                self.outbox.remove(run.id)
        if runs:
            self.told.append((("environment",), "environment.pruned", actor))

    # -- deliveries

    def expire_reservations(self) -> int:
        """Slots that nobody has claimed in time, or is woken for any more, are given back; how many."""
        outbox, held = self.outbox, [run for run in self.runs.values() if run.reserved]
        late = [
            run
            for run in held
            if (run.reserved and run.reserved[0] and run.reserved[0] <= self.now)
            or (outbox and outbox.has_given_up(run))
        ]
        for run in late:
            run.reserved, run.updated_at = None, max(run.updated_at, self.now)
            self._tell(run, "run.dispatch_reservation_expired", SYSTEM)
        return len(late)

    def request_deliveries(self) -> int:
        """Due runs of unbounded queues that waited for their time ask for their wakeups; how many."""
        due = (run for run in self.runs.values() if run.due_at is not None and run.due_at <= self.now)
        waited = [run for run in due if run.status != "queued" and run.wanted.queue not in LIMITS]
        for run in waited:
            self._ask(run, SYSTEM)
        return len(waited)

    def reserve(self, tasks: Collection[str]) -> int:
        """Free slots of bounded queues are set aside for the best due runs, which ask for their wakeups; how many."""
        best = self.claimable(LIMITS, tasks, len(self.runs), reserving=True)
        free = [run for run in best if run.reserved is None and len(run.history) + 6 <= self.max_events]
        for run in free:
            events = (self._ask, self._reserve) if run.status != "queued" else (self._reserve, self._ask)
            for event in events:
                event(run, SYSTEM)
        return len(free)

    def _reserve(self, run: ModelRun, actor: str) -> None:
        timeout = TIMEOUTS.get(run.wanted.queue or "")
        run.updated_at = max(run.updated_at, self.now)
        run.reserved = (None if timeout is None else self.now + timeout,)
        self._tell(run, "run.dispatch_reserved", actor)

    # -- queues

    def pause_queue(self, name: str, paused: bool, actor: str) -> None:
        """An operator pauses a queue or lets it go on; asking for what is already so changes nothing."""
        if (name in self.paused) is not paused:
            (self.paused.add if paused else self.paused.discard)(name)
            self.told.append((("queue", name), "queue.paused" if paused else "queue.resumed", actor))
            if self.outbox is not None and not paused:
                self.outbox.resumed(name, self.now)

    # -- how a step is taken

    def _is_dead(self, session: UUID) -> bool:
        return self.sessions.get(session, self.now) <= self.now

    def _has_no_room(self, run: ModelRun) -> bool:
        """A run that goes on needs room for this event, a reserved delivery, another lease and another outcome."""
        return len(run.history) + 5 > self.max_events

    def _fail(self, run: ModelRun, actor: str, code: str) -> None:
        self._step(run, "run.failed", "failed", actor)
        run.failures += 1
        run.code = code

    def _step(self, run: ModelRun, type: str, status: str, actor: str, due_at: datetime | None = None) -> None:
        run.updated_at = max(run.updated_at, self.now)  # a clock that was set back turns no history round
        run.status, run.due_at, run.lease, run.reserved = status, due_at, None, None
        run.finished_at = run.updated_at if status in TERMINAL else None
        self._tell(run, type, actor)

    def _again(self, run: ModelRun, type: str, actor: str) -> None:
        """A run is queued once more, and needs another wakeup where the transport carries one for each run."""
        self._step(run, type, "queued", actor)
        run.due_at = run.updated_at
        if self.outbox is not None and run.wanted.queue not in LIMITS:
            self._ask(run, actor)

    def _ask(self, run: ModelRun, actor: str) -> None:
        """A wakeup is asked for; a run that is due is queued by that."""
        run.updated_at = max(run.updated_at, self.now)
        run.status = "queued"
        self._tell(run, "run.delivery_requested", actor)
        if self.outbox is not None:
            self.outbox.add(run)

    def _tell(self, run: ModelRun, type: str, actor: str) -> None:
        run.history.append((type, actor))
        self.told.append((run.id, type, actor))
