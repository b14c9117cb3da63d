"""Checking the log against what is stored, and going back in it: ``app.audit``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from runlane import attribution, travel
from runlane.attribution import Attribution
from runlane.capabilities import Capability
from runlane.errors import RunNotFound
from runlane.projections.differences import RunDiff
from runlane.projections.fleet import Fleet
from runlane.projections.timeline import Moment
from runlane.reading import whole_number
from runlane.runtime import Runtime
from runlane.storage import queries, replay
from runlane.storage.findings import Verification
from runlane.values import Actor, instant, run_id


class Audit:
    """Checking the log: ``app.audit``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def count(self) -> dict[str, int]:
        """How many events of each type the log holds for this environment; reads all of them."""
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.count")
        with self._runtime.reading() as tx:
            return queries.count_events(tx, self._runtime.environment)

    def verify(self, id: UUID | str | None = None, *, progress: Callable[[int], None] | None = None) -> Verification:
        """Fold the whole log of this environment (or one run's), and compare it field by field with what is stored.

        `progress` is called with the number of events folded so far.
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.verify")
        self._runtime.start()
        with self._runtime.database.snapshot() as tx:
            if id is None:
                return replay.verify(tx, self._runtime.environment, progress)
            wanted = run_id(id)
            found = replay.compare_run(tx, self._runtime.environment, wanted)
        if not found.events and not found.differences:
            raise RunNotFound(f"no run has the id {wanted} in environment {self._runtime.environment!r}")
        return found

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
            return travel.difference(tx, self._runtime.environment, wanted, from_sequence, to_sequence)

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
