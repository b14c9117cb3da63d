"""How a worker claims: in the transaction that stores outcomes, or with a statement that commits itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from runlane.engine.lease import Holder, any_due, claim, claim_unlimited, is_open, may_claim
from runlane.projections.runs import Run
from runlane.runtime import Runtime
from runlane.storage.floors import Floors
from runlane.storage.log import append_successes
from runlane.storage.successes import Successes
from runlane.storage.transaction import Transaction


class Claims:
    """The claims of one worker.

    Args:
        queues: names of the queues to claim from.
        drain: to find nothing has to mean that there is nothing: what was passed over is looked at, too.
    """

    def __init__(self, runtime: Runtime, queues: Sequence[str], drain: bool) -> None:
        self._runtime = runtime
        self._queues = queues
        self._tasks = list(runtime.registry.tasks)
        self._drain = drain
        self._floors = Floors()
        #: The limits of the queues that have one.
        self.limits = runtime.registry.limits()
        self._may_go_alone = runtime.clock is None and not self.limits
        self._looks_first = runtime.database.schema is None and not runtime.database.is_memory

    @property
    def goes_alone(self) -> bool:
        """Whether ``alone`` will do; not any more once somebody on the lane folds projections inline."""
        return self._may_go_alone and self._runtime.database.stamps

    def are_vain(self, holder: Holder) -> bool:
        """Whether nothing would be found; asked only where one writer has the whole file."""
        if not self._looks_first:
            return False
        runtime = self._runtime
        with runtime.database.read(runtime.clock) as tx:
            return not may_claim(tx, runtime.environment, holder, self._queues, self._tasks)

    def within(self, tx: Transaction, holder: Holder, wanted: int, now: datetime) -> list[Run]:
        """Lease up to `wanted` runs in a transaction."""
        what = (tx, self._runtime.environment, holder, self._queues, self._tasks, wanted, now, self.limits)
        passes_over = self._floors.in_use
        runs = claim(*what, self._floors)
        return claim(*what) if passes_over and self._drain and not runs else runs

    def passed_over(self, holder: Holder) -> bool:
        """Whether something is due that a claim has just not found: another transaction has it locked.

        It may be a claim of another worker's; or one of this worker's own, whose connection is gone and whose
        transaction the server has not ended yet.
        """
        runtime = self._runtime
        unlimited = [queue for queue in self._queues if queue not in self.limits]
        with runtime.database.read(runtime.clock) as tx:
            return any_due(tx, runtime.environment, holder, unlimited, self._tasks)

    def alone(self, holder: Holder, wanted: int, beside: Successes | None = None) -> tuple[list[Run], bool]:
        """Lease up to `wanted` runs in one statement, which commits itself, so that an idle worker begins sooner.

        Where its answer is lost, the session finds runs that nobody knows of, and gives them back.  Returns also
        whether the session is open still, as far as was seen.

        Args:
            beside: successes that the same statement appends; where its answer is lost, nobody knows whether it has.
        """

        def work(tx: Transaction) -> tuple[list[Run], bool]:
            if beside is not None and not wanted:
                append_successes(tx, beside)
                return [], True
            what = (tx, self._runtime.environment, holder, self._queues, self._tasks, wanted)
            passes_over = self._floors.in_use
            runs = claim_unlimited(*what, floors=self._floors, beside=beside)
            if passes_over and self._drain and not runs:
                runs = claim_unlimited(*what)
            return runs, bool(runs) or is_open(tx, holder)

        return self._runtime.database.singly(work)
