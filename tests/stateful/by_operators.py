"""The commands of operators on runs, keys and queues: changes, and reads compared with the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

from runlane.projections.runs import Run
from runlane.values import RunStatus
from tests.stateful.acting import ANN
from tests.stateful.by_applications import WORDS, Applications
from tests.stateful.cast import KNOWN
from tests.stateful.machine import command
from tests.stateful.model import Refused
from tests.stateful.terms import LEASED, QUEUES, TASKS, TERMINAL, WAITING, ModelRun, Source

BY = "operator:ann"
#: How the history of an attempt ends, and what ``runs.attempts`` makes of it.
ENDED = {
    "run.succeeded": "succeeded",
    "run.retry_scheduled": "retried",
    "run.released": "released",
    "run.interrupted": "interrupted",
    "run.lease_expired": "lost",
    "run.failed": "failed",
    "run.cancelled": "cancelled",
}


class Operators(Applications):
    """Commands of people who look after runs."""

    # -- changes

    @command(12)
    def cancel(self, rng: Random) -> None:
        among = self.active() if rng.random() < 0.8 else list(self.model.runs.values())
        run, reason = self.one_of(rng, among), rng.choice((None, "enough"))
        process = rng.randrange(2)
        refused, expected, cancelled = self.refused(
            lambda: self.model.cancel(run.id, BY, reason),
            lambda: self.call(process, "runs.cancel", run.id, actor=ANN, reason=reason),
        )
        if not refused:
            assert cancelled.id == expected.id
            self.returned.append(cancelled)

    @command(1)
    def ask_for_a_run_that_is_not_there(self, rng: Random) -> None:
        stranger, process = uuid4(), rng.randrange(2)
        name = rng.choice(("cancel", "rerun", "retry", "get", "events", "attempts", "why"))
        self.refused(
            lambda: self.model.cancel(stranger, BY, None), lambda: self.call(process, f"runs.{name}", stranger)
        )

    @command(4)
    def rerun(self, rng: Random) -> None:
        self.again(rng, "rerun", "runs.rerun")

    @command(4)
    def retry(self, rng: Random) -> None:
        self.again(rng, "manual_retry", "runs.retry")

    def again(self, rng: Random, type: str, name: str) -> None:
        self.room()
        ended = [run for run in self.model.runs.values() if run.status in TERMINAL]
        run = self.one_of(rng, ended if rng.random() < 0.85 else list(self.model.runs.values()))
        process = rng.randrange(2)
        refused, wanted, made = self.refused(
            lambda: self.model.again(run, type, KNOWN[process]), lambda: self.call(process, name, run.id, actor=ANN)
        )
        if not refused:
            self.model.create(made.id, wanted, Source(type, run.id, run.source.parent), BY)
            self.announced(process, [made.id])
            self.returned.append(made)

    @command(1)
    def cancel_many(self, rng: Random) -> None:
        where, matches = self.filter(rng, WAITING + LEASED)

        def each(run: ModelRun, changed: Mapping[UUID | None, Run]) -> None:
            self.model.cancel(run.id, BY, "bulk")

        self.bulk(rng, "cancel_many", where, matches, each, lambda run: run.id)

    @command(1)
    def rerun_many(self, rng: Random) -> None:
        self.bulk_again(rng, "rerun_many", "rerun", TERMINAL)

    @command(1)
    def retry_many(self, rng: Random) -> None:
        self.bulk_again(rng, "retry_many", "manual_retry", ("failed",))

    def bulk_again(self, rng: Random, name: str, type: str, statuses: tuple[str, ...]) -> None:
        self.room(2)
        where, matches = self.filter(rng, statuses)
        process = rng.randrange(2)

        def each(run: ModelRun, changed: Mapping[UUID | None, Run]) -> None:
            wanted = self.model.again(run, type, KNOWN[process])
            self.model.create(changed[run.id].id, wanted, Source(type, run.id, run.source.parent), BY)
            self.announced(process, [changed[run.id].id])

        self.bulk(rng, name, where, matches, each, lambda run: run.source.source_run_id, process)

    def bulk(
        self,
        rng: Random,
        name: str,
        where: dict[str, Any],
        matches: list[ModelRun],
        each: Callable[[ModelRun, Mapping[UUID | None, Run]], None],
        source: Callable[[Run], UUID | None],
        process: int = 0,
    ) -> None:
        """One operation on the oldest runs that match, each of which is changed or refused by itself."""
        limit = rng.randint(1, 2)
        reason = {"reason": "bulk"} if name == "cancel_many" else {}
        done = self.call(process, f"runs.{name}", actor=ANN, limit=limit, **reason, **where)
        changed = {source(run): run for run in done.changed}
        page = sorted(matches, key=lambda run: run.id)
        refused = set()
        for run in page[:limit]:
            try:
                each(run, changed)
            except Refused:
                refused.add(run.id)
        assert set(done.refused) == refused
        assert list(changed) == [run.id for run in page[:limit] if run.id not in refused]
        assert (done.next_cursor is None) == (len(page) <= limit)
        self.returned += done.changed

    @command(2)
    def prune(self, rng: Random) -> None:
        statuses = rng.choice((None, ("succeeded",), ("failed", "cancelled")))
        limit, dry, process = rng.randint(1, 4), rng.random() < 0.3, rng.randrange(2)
        older, cutoff = self.cutoff(rng)
        self.needs(self.model.prune(cutoff, statuses or TERMINAL, 1, None) or rng.random() < 0.1)
        cursor, after = None, None
        for _ in range(2 if rng.random() < 0.3 else 1):
            options = {"statuses": statuses, "limit": limit, "dry_run": dry, "actor": ANN, "cursor": cursor}
            done = self.call(process, "runs.prune", older, **options)
            found = self.model.prune(cutoff, statuses or TERMINAL, limit + 1, after)
            gone = found[:limit]
            assert (done.runs, done.events) == (len(gone), sum(len(run.history) for run in gone))
            assert (done.keys, done.cutoff) == (len(self.model.owned_by(gone)), cutoff)
            assert done.more == (len(found) > limit)
            if not dry:
                self.prune_is_told(gone)
            if (cursor := done.next_cursor) is None:
                break
            after = gone[-1].id

    def cutoff(self, rng: Random) -> tuple[timedelta | datetime, datetime]:
        """An age, or an instant right at or right behind the end of a run; and the instant that it stands for."""
        ended = [run.updated_at for run in self.model.runs.values() if run.status in TERMINAL]
        if ended and rng.random() < 0.5:
            at = rng.choice(ended) + rng.choice((timedelta(0), timedelta(microseconds=1)))
            return (at, at) if at <= self.model.now else (timedelta(hours=1), self.model.now - timedelta(hours=1))
        older = timedelta(seconds=rng.choice((1, 600, 3600, 7200)))
        return older, self.model.now - older

    def prune_is_told(self, gone: list[ModelRun]) -> None:
        """The environment's own stream says what went, and nothing is left of it."""
        self.model.forget(gone, BY)
        self.seen()
        if gone:
            self.follower.forget([run.id for run in gone])

    @command(3)
    def reset_a_key(self, rng: Random) -> None:
        keys = list(self.model.owners)
        task, key = rng.choice(keys) if keys and rng.random() < 0.8 else ("patient", rng.choice(WORDS))
        self.reset(rng, task, key)
        if rng.random() < 0.3:
            self.then()
            self.reset(rng, task, key)

    def reset(self, rng: Random, task: str, key: str) -> None:
        """Free a key; whether anything was freed is as the model says."""
        process = 0 if task == "rare" else rng.randrange(2)
        refused, expected, freed = self.refused(
            lambda: self.model.reset_key(task, key, BY),
            lambda: self.call(process, "idempotency_keys.reset", task, key, actor=ANN, reason="again"),
        )
        assert refused or freed is expected

    @command(4)
    def pause_or_resume_a_queue(self, rng: Random) -> None:
        name = rng.choice(QUEUES)
        paused = name not in self.model.paused if rng.random() < 0.9 else name in self.model.paused
        self.model.pause_queue(name, paused, BY)
        call = "queues.pause" if paused else "queues.resume"
        control = self.call(rng.randrange(2), call, name, actor=ANN)
        assert (control is not None and control.paused) is paused

    # -- reads

    @command(4)
    def find(self, rng: Random) -> None:
        task = rng.choice(KNOWN[1])
        owned = [key for of, key in self.model.owners if of == task]
        key = rng.choice(owned) if owned else rng.choice(WORDS)
        owner = self.model.owner_of(task, key)
        current = self.call(rng.randrange(2), "runs.find_current", task, key)
        assert (current and current.id) == (owner and owner.id)
        active = self.call(rng.randrange(2), "runs.find_active", task, idempotency_key=key)
        assert (active and active.id) == (owner.id if owner is not None and owner.finished_at is None else None)

    @command(3)
    def find_a_singleton(self, rng: Random) -> None:
        task, key = rng.choice(("only", "patient", "brief")), rng.choice(WORDS)
        owner = self.model.singleton_of(task, key)
        found = self.call(rng.randrange(2), "runs.find_active", task, singleton_key=key)
        assert (found and found.id) == (owner and owner.id)

    @command(3)
    def read_a_run(self, rng: Random) -> None:
        run = self.one_of(rng, list(self.model.runs.values()))
        assert self.call(rng.randrange(2), "runs.get", run.id) == self.follower.folds[run.id]
        assert list(self.call(rng.randrange(2), "runs.events", run.id)) == self.follower.histories[run.id]
        told = [ENDED[type] for type, _ in run.history if type in ENDED]
        if run.status == "cancelled" and run.history[-1][0] == "run.cancelled" and not self.was_leased(run):
            told.pop()  # it ended while it waited
        told += ["running"] * (run.lease is not None)
        attempts = self.call(rng.randrange(2), "runs.attempts", run.id)
        assert [attempt.outcome for attempt in attempts] == told
        assert [attempt.number for attempt in attempts] == list(range(1, run.attempts + 1))

    def was_leased(self, run: ModelRun) -> bool:
        """Whether the last event but one left it leased."""
        return run.history[-2][0] in ("run.leased", "run.cancellation_requested")

    @command(2)
    def why(self, rng: Random) -> None:
        run, process = self.one_of(rng, list(self.model.runs.values())), rng.randrange(2)
        reasons = self.call(process, "runs.why", run.id)
        assert reasons
        assert all(reasons)
        said = " ".join(reasons)
        assert ("it has ended" in said) == (run.status in TERMINAL)
        assert ("is running on" in said) == (run.status in LEASED)
        if run.status in WAITING:
            assert ("is paused" in said) == (run.wanted.queue in self.model.paused)
            assert ("has reached its limit" in said) == (self.model.is_full(run.wanted) and run.reserved is None)
            assert ("due in" in said) == (run.due_at is not None and run.due_at > self.model.now)
            alive = [self.model.workers[id] for id, end in self.model.sessions.items() if end > self.model.now]
            known = {task for worker in alive for task in KNOWN[int(worker[-1])]}
            assert ("no worker is alive" in said) == (not alive)
            assert ("no worker that is alive knows" in said) == (bool(alive) and run.wanted.task not in known)

    @command(2)
    def list_runs(self, rng: Random) -> None:
        where, matches = self.filter(rng, tuple(RunStatus))
        if rng.random() < 0.5:
            where.pop("statuses")
            matches = self.matching(where)
        order, limit = rng.choice(("newest", "oldest")), rng.randint(1, 10)
        ids = sorted((run.id for run in matches), reverse=order == "newest")
        page = self.call(rng.randrange(2), "runs.list", order=order, limit=limit, **where)
        assert [run.id for run in page.data] == ids[:limit]
        assert (page.next_cursor is None) == (len(ids) <= limit)
        if page.next_cursor is not None:
            cursor = page.next_cursor
            page = self.call(rng.randrange(2), "runs.list", order=order, limit=limit, cursor=cursor, **where)
            assert [run.id for run in page.data] == ids[limit : 2 * limit]
        self.returned += page.data

    @command(2)
    def count(self, rng: Random) -> None:
        tasks = None if rng.random() < 0.5 else rng.sample(tuple(TASKS), 2)
        counted = self.call(rng.randrange(2), "runs.count", tasks=tasks)
        mine = (run for run in self.model.runs.values() if tasks is None or run.wanted.task in tasks)
        assert counted == Counter(RunStatus(run.status) for run in mine)

    @command(1)
    def list_queues(self, rng: Random) -> None:
        listed = {state.name: state for state in self.call(rng.randrange(2), "queues.list")}
        assert set(listed) == set(QUEUES)
        for name, state in listed.items():
            assert state.paused == (name in self.model.paused)
            assert state.runs == Counter(
                RunStatus(run.status) for run in self.model.runs.values() if run.wanted.queue == name
            )

    @command(1)
    def verify_a_run(self, rng: Random) -> None:
        run = self.one_of(rng, list(self.model.runs.values()))
        found = self.call(rng.randrange(2), "audit.verify", run.id)
        assert found.differences == ()
        assert found.events == len(run.history)

    def filter(self, rng: Random, statuses: tuple[str, ...]) -> tuple[dict[str, Any], list[ModelRun]]:
        """Conditions as ``runs.list`` takes them, on statuses at least, and the runs that meet them."""
        where: dict[str, Any] = {"statuses": rng.sample(statuses, rng.randint(1, len(statuses)))}
        runs = list(self.model.runs.values())
        some = {
            "tasks": lambda: rng.sample(tuple(TASKS), 3),
            "queues": lambda: rng.sample(QUEUES, 2),
            "correlation_id": lambda: rng.choice(WORDS),
            "idempotency_key": lambda: rng.choice(WORDS),
            "source_run_id": lambda: rng.choice([run.source.run or run.id for run in runs]) if runs else None,
            "parent_run_id": lambda: rng.choice([run.source.parent or run.id for run in runs]) if runs else None,
            "schedule_id": lambda: rng.choice(("often", "only.one")),
            "created_after": lambda: rng.choice([run.created_at for run in runs]) if runs else None,
            "created_before": lambda: rng.choice([run.created_at for run in runs]) if runs else None,
        }
        for name in rng.sample(tuple(some), rng.choice((0, 1, 1, 2))):
            where[name] = some[name]()
        return where, self.matching(where)

    def matching(self, where: Mapping[str, Any]) -> list[ModelRun]:
        """The runs that meet every condition."""
        holds: dict[str, Callable[[ModelRun, Any], bool]] = {
            "statuses": lambda run, value: run.status in value,
            "tasks": lambda run, value: run.wanted.task in value,
            "queues": lambda run, value: run.wanted.queue in value,
            "correlation_id": lambda run, value: run.wanted.correlation == value,
            "idempotency_key": lambda run, value: run.wanted.key == value,
            "source_run_id": lambda run, value: run.source.run == value,
            "parent_run_id": lambda run, value: run.source.parent == value,
            "schedule_id": lambda run, value: run.source.schedule == value,
            "created_after": lambda run, value: run.created_at > value,
            "created_before": lambda run, value: run.created_at < value,
        }
        given = [(holds[name], value) for name, value in where.items() if value is not None]
        return [run for run in self.model.runs.values() if all(test(run, value) for test, value in given)]
