"""What ``app.audit`` tells of earlier moments, and of what might have been."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from runlane import attribution, travel
from runlane.attribution import Attribution
from runlane.capabilities import Capability
from runlane.policy import Retry
from runlane.projections.differences import RunDiff
from runlane.projections.fleet import Fleet
from runlane.projections.timeline import Moment
from runlane.reading import whole_number
from runlane.runtime import Runtime
from runlane.simulation import Simulation, comparing
from runlane.simulation import reading as simulation_reading
from runlane.simulation.scratch import Scratch
from runlane.tasks import Queue, Task
from runlane.values import Actor, instant, run_id


class TellsThePast:
    """The part of ``Audit`` that reads histories."""

    _runtime: Runtime

    def as_of(
        self,
        at: datetime,
        *,
        limit: int = travel.DEFAULT_LIMIT,
        progress: Callable[[int], None] | None = None,
    ) -> Fleet:
        """This environment as of an instant: how many runs were where, which were leased, who held a key.

        It speaks of what is in the log today: histories that were pruned since are gone, and ``pruned_since`` says how
        many.  It reads the log up to the instant, in constant memory.  Of the future nothing is known: asked about it,
        this tells how things are now.

        Args:
            at: an aware instant; what happened at it has happened.
            limit: how many leased runs, and keys of each kind, are listed at most, 1 to 10000; all are counted.
            progress: called now and then with the number of events folded so far.

        Raises:
            ConfigurationInvalid: an argument is not valid.
        """
        when, most = instant("at", at), whole_number("limit", limit, travel.MOST)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.as_of")
        self._runtime.start()
        with self._runtime.database.snapshot() as tx:
            return travel.fleet(tx, self._runtime.environment, when, most, progress)

    def diff(self, id: UUID | str, from_sequence: int = 1, to_sequence: int | None = None) -> RunDiff:
        """What changed in a run, field by field, between the states behind two of its events.

        Args:
            from_sequence: the event that counts as before; 1 is the first one.
            to_sequence: the event that counts as after; None is the last one.

        Raises:
            RunNotFound: there is no such run.
            ConfigurationInvalid: it has no such event, or the two are the wrong way round.
            InvariantViolation: its history is damaged, so that it cannot be folded.
        """
        wanted = run_id(id)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.diff")
        with self._runtime.reading() as tx:
            asked = wanted, from_sequence, to_sequence
            return travel.difference(tx, self._runtime.environment, *asked, self._runtime.vault)

    def timeline(self, id: UUID | str) -> tuple[Moment, ...]:
        """The history of a run, one plain sentence for each event, with the time between them.

        Who cancelled, retried or reran it is named, and what reason they gave.

        Raises:
            RunNotFound: there is no such run.
            InvariantViolation: an event cannot be read.
        """
        wanted = run_id(id)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.timeline")
        with self._runtime.reading() as tx:
            return travel.told(tx, self._runtime.environment, wanted)

    def who(
        self,
        *,
        actor: Actor | str | None = None,
        worker: str | None = None,
        key: str | None = None,
        limit: int = attribution.DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Attribution:
        """What somebody did in this environment, or what was done with a key: a page of events, the newest first.

        Give exactly one of the three.  It reads the whole log, or for a key the rows of all runs.

        Args:
            actor: an ``Actor``; or text such as ``"operator:ann"``, without its kind that name of any kind.
            worker: the id of a worker: what it has leased, and what came of it.
            key: of runs, as idempotency, singleton or concurrency key: their births, and resets of it by operators.
            limit: 1 to 500.
            cursor: ``next_cursor`` of the page before, with the same question.

        Raises:
            ConfigurationInvalid: an argument is not valid.
            InvariantViolation: an event cannot be read.
        """
        asked = attribution.question(actor, worker, key)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.who")
        with self._runtime.reading() as tx:
            return attribution.answer(tx, self._runtime.environment, asked, limit, cursor)

    def simulate(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        retry: Retry | Mapping[str, Retry] | None = None,
        limit: Mapping[str, int | None] | None = None,
        workers: int | None = None,
        concurrency: int | None = None,
        tasks: Iterable[Task[..., Any] | str] | None = None,
        queues: Iterable[Queue | str] | None = None,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Simulation:
        """What if: play recorded runs again, as they came and as long as they lasted, under another policy.

        Nothing is executed and nothing written.  The runs are played under the recorded policy too, so that the error
        of the model shows; ``assumptions`` of the result says what is taken for granted.  It takes the same memory
        however many runs there are, and some 200 bytes a run of a temporary file, which is gone behind it.

        Args:
            since, until: runs created from that aware instant, and before the other one; all, unless given.
            retry: the policy of all tasks, or of some by their ids; else what followed a failure follows it again.
            limit: concurrency limits by queue; None takes one away, and others stay as recorded.
            workers: how many worker processes; else as many as were seen at once.
            concurrency: how many attempts at once in each; else as many as one was seen to hold.
            tasks, queues: only runs of these.
            seed: for outcomes and jitter that have to be drawn; the same seed, the same result.
            progress: called now and then with the number of events read so far.

        Raises:
            ConfigurationInvalid: an argument is not valid, or names a queue or task of which there is no run.
            StorageUnavailable: the database cannot be read, or the temporary file not be written.
        """
        asked = comparing.what_if(retry, limit, workers, concurrency, seed)
        chosen = simulation_reading.selection(since, until, tasks, queues)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.simulate")
        self._runtime.start()
        with Scratch() as scratch:
            with self._runtime.database.snapshot() as tx:
                trace = simulation_reading.of_log(tx, self._runtime.environment, chosen, scratch, progress)
            return comparing.compare(trace, asked)
