"""A worker's round trips to the database: outcomes out and claimed runs in, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

from attrs import field, frozen

from runlane.claiming import Claims
from runlane.decisions import Interrupted, Outcome
from runlane.engine.complete import Finished, complete, successes
from runlane.engine.lease import Holder, is_open
from runlane.errors import InternalError, ProjectionFailed, RunlaneError, StorageConflict
from runlane.executor import Execution, unstorable
from runlane.projections.runs import Run
from runlane.runtime import Runtime
from runlane.shown import words_of
from runlane.storage.successes import Successes
from runlane.storage.transaction import Transaction
from runlane.values import RunStatus

log = logging.getLogger("runlane.worker")
#: Each attempt that ended, at DEBUG; the records carry it as `attempt`.
attempts_log = logging.getLogger("runlane.attempts")

Ended = tuple[Execution, Outcome]


@frozen
class Attempt:
    """One that ended: its run as it was leased, and after it.

    Formatters that write out all that a record carries learn nothing of payloads, results and failures.
    """

    before: Run = field(repr=False)
    after: Run = field(repr=False)


class Trips:
    """The transactions of one worker."""

    def __init__(self, runtime: Runtime, claims: Claims) -> None:
        self._runtime = runtime
        self._claims = claims
        #: Runs whose success the short way did not store: they take a transaction in which all is decided again.
        self._apart: set[UUID] = set()

    def left(self, batch: Sequence[Ended]) -> list[Ended]:
        """What ``go`` has not stored of this, so that what it claimed begins at once."""
        return [ended for ended in batch if ended[0].run.id in self._apart] if self._apart else []

    def executions(self, claimed: Sequence[Run]) -> list[Execution]:
        """The attempts for which these were leased, their payloads as the handlers get them."""
        tasks, vault = self._runtime.registry.tasks, self._runtime.vault
        if vault.is_idle(claimed):
            return [Execution(run, tasks[run.task_id]) for run in claimed]
        opened = vault.unlock(claimed)
        return [Execution(one.run, tasks[one.run.task_id], one.seal, one.problem) for one in opened]

    def go(self, batch: Sequence[Ended], wanted: int, holder: Holder) -> tuple[list[Run], bool]:
        """Store outcomes and claim; the claimed runs, and whether the session is open still, as far as was seen.

        Raises:
            InternalError: an outcome is such that nobody has thought of it; then the others are stored without it.
        """
        try:
            return self._go(batch, wanted, holder)
        except RunlaneError:
            raise
        except Exception as error:
            if not batch:
                raise
            raise InternalError(f"{type(error).__name__}: {words_of(error)}") from error

    def _go(self, batch: Sequence[Ended], wanted: int, holder: Holder) -> tuple[list[Run], bool]:
        if wanted:
            self._runtime.require_codec()
        if not batch and self._claims.are_vain(holder):
            return [], True
        if not batch and self._claims.goes_alone:
            return self._claims.alone(holder, wanted)
        finished = [Finished(execution.run, outcome, execution.task.retry) for execution, outcome in batch]
        apart = self._apart.intersection(one.run.id for one in finished)
        if not apart and self._claims.goes_alone and not attempts_log.isEnabledFor(logging.DEBUG):
            beside = successes(finished)
            if beside is not None:
                return self._go_shortly(finished, beside, wanted, holder)
        done = self._store(finished, wanted, holder)
        self._apart -= apart
        return done

    def _go_shortly(
        self, finished: Sequence[Finished], beside: Successes, wanted: int, holder: Holder
    ) -> tuple[list[Run], bool]:
        """In one round trip, as nothing depends on when that is.

        If its answer is lost, whoever tries again finds what it has stored.
        """
        try:
            runs, open_still = self._claims.alone(holder, wanted, beside)
        except StorageConflict:  # with another transaction over the order of locks
            return self._store(finished, wanted, holder)
        for one in finished:
            self._warn_of_length(one.run.id, one.run.sequence + 1)
        if runs:  # they begin now, whatever becomes of the others
            self._apart |= beside.late
        elif beside.late:
            self._store([one for one in finished if one.run.id in beside.late], 0, holder)
        return runs, open_still

    def _store(self, finished: Sequence[Finished], wanted: int, holder: Holder) -> tuple[list[Run], bool]:
        runtime = self._runtime
        most, wakes = runtime.settings.max_events, runtime.registry.wakes

        def work(tx: Transaction) -> tuple[list[Run | None], list[Run], bool]:
            now = tx.now()
            stored = complete(tx, finished, now, most, wakes) if finished else []
            runs = self._claims.within(tx, holder, wanted, now) if wanted else []
            return stored, runs, not wanted or bool(runs) or is_open(tx, holder)

        stored, runs, open_still = runtime.database.transact(work, runtime.clock)
        told = attempts_log.isEnabledFor(logging.DEBUG)
        for one, after in zip(finished, stored, strict=True):
            if told and after is not None:
                _tell(one.run, after)
            if after is None:
                log.warning("run %s: the lease was lost, its outcome was dropped", one.run.id)
            else:
                self._warn_of_length(after.id, after.sequence)
        return runs, open_still

    def _warn_of_length(self, run_id: UUID, events: int) -> None:
        if events == self._runtime.settings.max_events // 10:
            log.warning("run %s has %d events; at %d it fails", run_id, events, events * 10)

    def store_apart(
        self, batch: Sequence[Ended], left: list[Ended], is_stopping: Callable[[], bool]
    ) -> Iterator[Ended]:
        """Store outcomes one by one, so that one that cannot be stored fails alone; those that are done with.

        What has to wait is put into `left`: the database is away, or an inline projection cannot fold it.  A worker
        that stops waits for no projection: when its lease has expired the run is executed again.

        Raises:
            RunlaneError: one cannot be stored, nor that it failed.
        """
        for place, (execution, outcome) in enumerate(batch):
            try:
                self.store(execution, outcome)
            except ProjectionFailed as error:
                log.error("run %s: its outcome cannot be stored: %s", execution.run.id, error, exc_info=error.__cause__)
                if not is_stopping():
                    left.append((execution, outcome))
                    continue
            except RunlaneError as refusal:
                if not refusal.retryable:
                    raise
                left.extend(batch[place:])
                return
            yield execution, outcome

    def store(self, execution: Execution, outcome: Outcome) -> None:
        """Store one outcome; the run fails if that cannot be stored.

        Raises:
            RunlaneError: nothing was stored.
        """
        holder = self._runtime.session().holder
        try:
            self.go([(execution, outcome)], 0, holder)
        except RunlaneError as refusal:
            if refusal.retryable:
                raise
            log.exception("run %s: its outcome cannot be stored", execution.run.id)
            self.go([(execution, unstorable(refusal))], 0, holder)


def is_an_end(ended: Ended) -> bool:
    """Whether an attempt has come to an end: one that was interrupted is given back, unless its run is cancelled so."""
    outcome = ended[1]
    return not isinstance(outcome, Interrupted) or outcome.reason == RunStatus.CANCELLATION_REQUESTED


def _tell(before: Run, after: Run) -> None:
    attempts_log.debug(
        "run %s of task %s: attempt ended, %s",
        after.id,
        after.task_id,
        after.status,
        extra={"attempt": Attempt(before, after)},
    )
