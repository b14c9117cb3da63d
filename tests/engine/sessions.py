"""Tests look at a runtime's session and take leases past its workers, as a lost acknowledgement would."""

from __future__ import annotations

from datetime import timedelta

from runlane import Runlane, SettableClock
from runlane.engine import lease
from runlane.projections.runs import Run
from runlane.session import LEASE_DURATION, Session
from tests.support import database_of

EXPIRY = LEASE_DURATION + timedelta(seconds=1)


def session_of(app: Runlane) -> Session:
    """The session under which a runtime takes leases now."""
    return app._runtime.session()


def take(app: Runlane, clock: SettableClock, limit: int = 1) -> list[Run]:
    """Lease due runs to a runtime's session without telling anything in the process of it."""
    holder = session_of(app).holder
    names, tasks = list(app.registry.queues), list(app.registry.tasks)
    limits = app.registry.limits()
    return database_of(app).transact(
        lambda tx: lease.claim(tx, app.environment, holder, names, tasks, limit, clock(), limits), clock
    )
