"""The liveness of this process: one session row, extended by a thread of its own.

A session that could not be extended in time stops trusting itself, by its own monotonic clock and before the database
lets anybody else have its runs.  It is never revived: its attempts are told, and a new session takes new leases.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

from runlane.clock import Clock
from runlane.engine import lease
from runlane.engine.complete import Wakes, no_wakeups
from runlane.engine.lease import Holder
from runlane.errors import RunlaneError
from runlane.storage import claims, sessions
from runlane.storage.database import Database
from runlane.storage.transaction import Transaction

log = logging.getLogger("runlane.session")


def monotonic() -> float:
    """Seconds that grow while the machine sleeps too, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


HEARTBEAT = timedelta(seconds=10)
LEASE_DURATION = timedelta(seconds=30)
#: A worker that has vanished would otherwise keep its runs for ever.
LONGEST_LEASE = timedelta(days=365)


class Session:
    """A worker process as the database sees it.

    Args:
        heartbeat: how often the session is extended.
        lease_duration: for how long each time; at least twice the heartbeat.
        max_events: the greatest length of a run's history.
        held: the attempts this process knows it has (run id to attempt).
        lost: called once when the session can no longer be trusted.
        cancelled: called with the runs leased to the session that are asked to stop.
        wakes: says of a queue whether its runs need a wakeup when they are queued again.
        tasks: the ids of the tasks this process knows.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock | None,
        environment: str,
        worker_id: str,
        *,
        heartbeat: timedelta,
        lease_duration: timedelta,
        max_events: int,
        held: Callable[[], dict[UUID, int]],
        lost: Callable[[UUID], None],
        cancelled: Callable[[Collection[UUID]], None],
        wakes: Wakes = no_wakeups,
        tasks: Sequence[str] = (),
    ) -> None:
        self.holder = Holder(uuid4(), worker_id)
        self._database = database
        self._clock = clock
        self._environment = environment
        self._heartbeat = heartbeat
        self._lease_duration = lease_duration
        self._max_events = max_events
        self._margin = min(lease_duration * 0.1, timedelta(seconds=3)).total_seconds()
        self._held = held
        self._lost = lost
        self._cancelled = cancelled
        self._wakes = wakes
        self._tasks = tasks
        self._suspects: dict[UUID, int] = {}
        self._stop = threading.Event()
        self._trusted_until = 0.0
        self._is_lost = False
        self._thread = threading.Thread(target=self._loop, name="runlane-heartbeat", daemon=True)

    def open(self) -> None:
        """Register the session and begin to beat."""
        asked = monotonic()

        def register(tx: Transaction) -> None:
            now = tx.now()
            sessions.open_session(
                tx,
                self.holder.session_id,
                self._environment,
                self.holder.worker_id,
                now,
                now + self._lease_duration,
                self._tasks,
            )

        self._database.transact(register, self._clock, beat=True)
        self._trust(asked)
        self._thread.start()

    @property
    def trusted(self) -> bool:
        """Whether nobody else can have this session's leases yet."""
        if not self._is_lost and monotonic() >= self._trusted_until:
            self.distrust("its heartbeat is overdue")
        return not self._is_lost

    @property
    def is_beating(self) -> bool:
        """Whether its thread is there still."""
        return self._thread.is_alive()

    def beat(self) -> bool:
        """Extend the session once, hear of cancellations, and give back leases nobody here knows; whether it lives.

        A claim whose commit was acknowledged to nobody leaves such a stray.  A lease counts as one when two beats in a
        row find it unknown, so that a claim between commit and registration is left alone.
        """
        if not self.trusted:
            return False
        asked = monotonic()
        known = self._held()

        def extend(tx: Transaction) -> list[claims.HeldLease] | None:
            if not sessions.extend_session(tx, self.holder.session_id, tx.now() + self._lease_duration):
                return None
            return claims.leases_of(tx, self.holder.session_id)

        held = self._database.transact(extend, self._clock, beat=True)
        if held is None:
            self.distrust("maintenance has ended it")
            return False
        self._trust(asked)
        self._cancelled({one.run_id for one in held if one.is_cancellation_requested})
        leases = {one.run_id: one.attempt for one in held}
        known |= self._held()
        unknown = {run_id: attempt for run_id, attempt in leases.items() if known.get(run_id) != attempt}
        strays = {run_id: attempt for run_id, attempt in unknown.items() if self._suspects.get(run_id) == attempt}
        self._suspects = unknown
        if strays:
            given = self._database.transact(
                lambda tx: lease.give_back(tx, self.holder, strays, "stray", self._max_events, self._wakes),
                self._clock,
                beat=True,
            )
            log.warning("gave back %d leases that this process did not know", given)
        return True

    def stop(self) -> None:
        """Beat no more; waits for nothing, not even for a beat under way, which may need what the caller holds."""
        self._stop.set()

    def close(self) -> None:
        """Stop beating and wait for the last beat; a session without leases is removed, others are left to expire."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()
        if self._is_lost:
            return

        def leave(tx: Transaction) -> None:
            if not claims.leases_of(tx, self.holder.session_id):
                sessions.close_session(tx, self.holder.session_id)

        try:
            self._database.transact(leave, self._clock, beat=True)
        except RunlaneError as error:
            log.warning("the session could not be closed and will expire: %s", error)

    def _trust(self, asked: float) -> None:
        self._trusted_until = asked + self._lease_duration.total_seconds() - self._margin

    def distrust(self, why: str) -> None:
        """Take no more leases under this session, and tell the attempts that hold some."""
        if not self._is_lost:
            self._is_lost = True
            log.warning("worker session %s is lost: %s", self.holder.session_id, why)
            self._lost(self.holder.session_id)

    def _loop(self) -> None:
        wait = self._heartbeat.total_seconds()
        while not self._stop.wait(wait):
            wait = self._heartbeat.total_seconds()
            try:
                if not self.beat():
                    return
            except RunlaneError as error:
                log.warning("a heartbeat failed: %s", error)
                wait = min(1.0, wait)
            except Exception:
                log.exception("a heartbeat failed")
                wait = min(1.0, wait)
