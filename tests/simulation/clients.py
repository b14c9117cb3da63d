"""Clients and operators: what they ask for, and what they were told, which is written down apart from the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from runlane import Runlane, Trigger
from runlane.errors import ConflictKind, ErrorCode, RunlaneError, RunNotFound, StorageConflict, StorageUnavailable
from runlane.storage import commits
from tests.simulation.cast import NAMES, QUEUES
from tests.simulation.plans import Operation

if TYPE_CHECKING:
    from tests.simulation.kernel import Process
    from tests.simulation.world import World

#: A refusal that says something about how things are, and nothing about Runlane.
REFUSALS = {
    ErrorCode.RUN_NOT_FOUND,
    ErrorCode.RUN_STATE_INVALID,
    ErrorCode.SCHEDULE_NOT_FOUND,
    ErrorCode.QUEUE_CAPACITY_EXCEEDED,
    ErrorCode.LEASE_LOST,
    ErrorCode.STORAGE_CONFLICT,
}
#: What may be asked for once more when nobody knows whether it has happened.
REPEATABLE = {
    "trigger_by_id",
    "trigger_by_key",
    "cancel",
    "pause_queue",
    "resume_queue",
    "prune",
    "reset_key",
    "pause_schedule",
    "resume_schedule",
    "tick",
    "cancel_many",
    "wait",
    "checkpoint",
    "repair",
    "verify",
}
_TRIES = 8


@dataclass
class Record:
    """What a client knows of one operation of its.

    `told` is ``ok``, ``refused``, ``failed`` (nothing was written, it was told each time) or ``unknown``; `ids` are the
    runs that it was told of, `own` the ids that it chose itself, `tokens` mark the payloads of its runs.
    """

    name: str
    told: str = ""
    tries: int = 0
    is_doubtful: bool = False
    sought: UUID | None = None
    target: UUID | None = None
    ids: list[UUID] = field(default_factory=list)
    own: list[UUID] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


class Regret(Exception):
    """The caller rolls back."""


class Client:
    """A client process; where it crashes, the next one goes on with what it was about."""

    def __init__(self, world: World, process: Process, number: int) -> None:
        self._world = world
        self._process = process
        self._number = number
        self.app: Runlane = process.app

    def run(self) -> None:
        """Do what is planned."""
        line = self._world.lines[self._number]
        while line:
            operation, record = line[0]
            self._world.kernel.sleep(operation.gap)
            self.perform(operation, record)
            if line and line[0][1] is record:
                line.popleft()

    def perform(self, operation: Operation, record: Record) -> None:
        """Ask until there is an answer, going the way that the documentation says where there is none."""
        if record.tries:  # the process that asked is dead
            record.is_doubtful = True
            if record.name not in REPEATABLE:
                record.told = "unknown"
                return
        while record.tries < _TRIES:
            record.tries += 1
            try:
                getattr(self, record.name)(Random(operation.seed), record)
                record.told = "ok"
                return
            except StorageUnavailable as error:
                if commits.outcome(error) == commits.UNKNOWN:
                    record.is_doubtful = True
                    if record.name not in REPEATABLE and record.sought is None:
                        break
                if record.name == "run_now":  # the run may be there, and only what it came to is not stored
                    record.is_doubtful = True
                    break
            except Regret:
                record.told = "failed"
                return
            except RunlaneError as error:
                if error.code not in REFUSALS:
                    raise
                record.told = "refused"
                return
            self._world.kernel.sleep(1.0 + 2.0 * self._world.kernel.rng.random())
        record.told = "unknown" if record.is_doubtful else "failed"

    # -- making runs

    def trigger(self, rng: Random, record: Record) -> None:
        """Without an id of one's own: where the answer is lost, one looks for the run that the error names."""
        if record.sought is not None:
            try:
                record.ids.append(self.app.runs.get(record.sought).id)
                return
            except RunNotFound:
                if record.sought in self._world.pruned:
                    return
                record.sought = None
        task, payload = rng.choice(("plain", "brief", "stubborn", "plain")), self._payload(rng, record)
        delay = rng.choice((None, None, None, "1s", "20s"))
        try:
            record.ids.append(self.app.trigger(task, payload, delay=delay, priority=rng.choice((None, -1, 4))).run.id)
        except StorageUnavailable as error:
            if commits.outcome(error) == commits.UNKNOWN:
                record.sought = UUID(error.meta["ids"][0])
            raise

    def trigger_by_id(self, rng: Random, record: Record) -> None:
        """With an id of one's own: the same call again finds that the run is there."""
        own = UUID(int=rng.getrandbits(128), version=4)
        record.own = [own]
        try:
            found = self.app.trigger(rng.choice(("plain", "stubborn")), self._payload(rng, record), run_id=own)
        except StorageConflict as error:
            if error.kind is not ConflictKind.RUN_EXISTS or not record.is_doubtful:
                raise
        else:
            assert found.run.id == own
        record.ids.append(own)

    def trigger_by_key(self, rng: Random, record: Record) -> None:
        """With a key: the same call again finds the run."""
        task = rng.choice(("once", "only", "plain"))
        key = f"k{rng.randrange(4)}" if task == "plain" else None
        found = self.app.trigger(task, self._payload(rng, record), idempotency_key=key)
        record.ids.append(found.run.id)

    def trigger_many(self, rng: Random, record: Record) -> None:
        """Several in one transaction, all or none."""
        wanted = []
        for _ in range(rng.randint(2, 6)):
            own = UUID(int=rng.getrandbits(128), version=4)
            task = rng.choice(("plain", "brief", "stubborn"))
            wanted.append(Trigger(task, self._payload(rng, record), run_id=own))
            record.own = [*record.own, own]
        record.ids += [done.run.id for done in self.app.trigger_many(wanted)]

    def trigger_within(self, rng: Random, record: Record) -> None:
        """In a transaction of the caller's, who may think better of it."""
        own = UUID(int=rng.getrandbits(128), version=4)
        record.own = [own]
        self.app.start()  # which needs the only connection for itself
        with self._world.database.write(self._world.clock) as tx:
            self.app.trigger(
                rng.choice(("plain", "stubborn")), self._payload(rng, record), run_id=own, connection=tx.connection
            )
            if rng.random() < 0.3:
                raise Regret
        record.ids.append(own)

    def rerun(self, rng: Random, record: Record) -> None:
        """Another run like one that has ended."""
        record.ids.append(self.app.runs.rerun(self._target(rng, record)).id)

    def retry(self, rng: Random, record: Record) -> None:
        """Another run like one that has failed."""
        record.ids.append(self.app.runs.retry(self._target(rng, record)).id)

    def rerun_many(self, rng: Random, record: Record) -> None:
        """The same for some."""
        record.ids += [
            run.id for run in self.app.runs.rerun_many(tasks=[rng.choice(NAMES)], limit=rng.randint(1, 3)).changed
        ]

    def retry_many(self, rng: Random, record: Record) -> None:
        """The same for some that have failed."""
        record.ids += [run.id for run in self.app.runs.retry_many(limit=rng.randint(1, 3)).changed]

    def run_now(self, rng: Random, record: Record) -> None:
        """A run whose first attempt happens here."""
        done = self.app.run_now(rng.choice(NAMES[:-1]), self._payload(rng, record))
        record.ids.append(done.run.id)

    def execute_next(self, rng: Random, record: Record) -> None:
        """Whatever is due, executed here."""
        self.app.execute_next()

    # -- steering

    def cancel(self, rng: Random, record: Record) -> None:
        """End a run."""
        cancelled = self.app.runs.cancel(self._target(rng, record), reason="enough")
        self._world.cancelled.add(cancelled.id)

    def cancel_many(self, rng: Random, record: Record) -> None:
        """End some runs."""
        done = self.app.runs.cancel_many(tasks=[rng.choice(NAMES)], limit=rng.randint(1, 5), reason="enough of these")
        self._world.cancelled.update(run.id for run in done.changed)

    def wait(self, rng: Random, record: Record) -> None:
        """Until a run has ended, but not for ever."""
        try:
            run = self.app.runs.wait(self._target(rng, record), timeout=rng.choice((1.0, 10.0)))
        except TimeoutError:
            return
        told = self._world.follower.folds.get(run.id)
        assert run.is_terminal
        assert told is None or told.status == run.status, f"run {run.id} is {told.status}, and {run.status} was told"

    def checkpoint(self, rng: Random, record: Record) -> None:
        """Seal the log up to now."""
        self.app.audit.checkpoint()

    def repair(self, rng: Random, record: Record) -> None:
        """There is nothing to repair."""
        differences = self.app.audit.repair(self._target(rng, record))
        assert not differences, f"invariant 6: there was something to repair: {differences}"

    def verify(self, rng: Random, record: Record) -> None:
        """In the middle of everything, what is stored is what the log says."""
        differences = self.app.audit.verify().differences
        assert not differences, f"invariant 6: stored state equals the fold of the log: {differences}"

    def pause_queue(self, rng: Random, record: Record) -> None:
        """Nobody claims from it."""
        self.app.queues.pause(rng.choice(QUEUES))

    def resume_queue(self, rng: Random, record: Record) -> None:
        """They claim again."""
        for queue in QUEUES:
            self.app.queues.resume(queue)

    def prune(self, rng: Random, record: Record) -> None:
        """What has ended a while ago goes."""
        self.app.runs.prune(timedelta(seconds=rng.choice((20, 60, 600))), limit=rng.randint(1, 20))

    def reset_key(self, rng: Random, record: Record) -> None:
        """A retained key is freed."""
        if rng.random() < 0.5:
            self.app.idempotency_keys.reset("once", f"g{rng.randrange(3)}")
        else:
            self.app.idempotency_keys.reset("plain", f"k{rng.randrange(4)}")

    def pause_schedule(self, rng: Random, record: Record) -> None:
        """It fires no more."""
        self.app.schedules.pause(rng.choice(("often", "seldom")))

    def resume_schedule(self, rng: Random, record: Record) -> None:
        """It fires again."""
        self.app.schedules.resume(rng.choice(("often", "seldom")))

    def trigger_schedule(self, rng: Random, record: Record) -> None:
        """Out of turn."""
        record.ids.append(self.app.schedules.trigger(rng.choice(("often", "seldom"))).run.id)

    def tick(self, rng: Random, record: Record) -> None:
        """Maintenance by hand."""
        self._world.tick(self._process)

    # -- drawing

    def _payload(self, rng: Random, record: Record) -> Any:
        """Marked, so that a run that was made twice is seen."""
        token = f"{rng.getrandbits(64):016x}"
        if token not in record.tokens:
            record.tokens.append(token)
        return f"{token}|g{rng.randrange(3)}"

    def _target(self, rng: Random, record: Record) -> UUID:
        """A run that somebody was told of, rather a late one; the same one whenever it is asked for again."""
        if record.target is None:
            known = self._world.known
            late = known[-12:] if rng.random() < 0.8 else known
            record.target = rng.choice(late) if late else UUID(int=rng.getrandbits(128), version=4)
        return record.target
