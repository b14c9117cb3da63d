"""The maintenance pass.  Every item is a small transaction of its own, safe with any number of tickers at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from uuid import UUID

from attrs import frozen

from runlane.clock import Clock
from runlane.engine import lease, schedule
from runlane.errors import RunlaneError, StorageConflict
from runlane.policy import ONE_ATTEMPT
from runlane.registry import Registry
from runlane.storage import claims, schedules, sessions
from runlane.storage.database import Database
from runlane.storage.transaction import Transaction
from runlane.values import new_run_id

log = logging.getLogger("runlane.tick")

#: The most items of a step that one pass handles.
BATCH = 100


@frozen
class TickReport:
    """What a maintenance pass did; `more` says that work was left for the next one."""

    sessions_expired: int = 0
    runs_recovered: int = 0
    schedules_changed: int = 0
    schedules_fired: int = 0
    errors: tuple[str, ...] = ()
    more: bool = False


def tick(
    database: Database, clock: Clock | None, environment: str, registry: Registry, max_events: int, *, deploy: bool
) -> TickReport:
    """One pass: recover what expired sessions held, then make the runs of due schedules.

    Args:
        max_events: the greatest length of a run's history.
        deploy: also record the registered schedules, as the first pass of a process does.

    Raises:
        StorageUnavailable: the database cannot be reached; other faults of single items are in the report.
    """
    errors: list[str] = []
    expired, recovered, more = _recover(database, clock, environment, registry, max_events, errors)
    changed = 0
    if deploy:
        wanted, tasks = schedule.definitions(registry), list(registry.tasks)
        changed = database.transact(lambda tx: schedule.deploy(tx, environment, wanted, tasks), clock)
    fired, more_due = _fire(database, clock, environment, registry, errors)
    return TickReport(expired, recovered, changed, fired, tuple(errors), more or more_due)


def _recover(
    database: Database, clock: Clock | None, environment: str, registry: Registry, max_events: int, errors: list[str]
) -> tuple[int, int, bool]:
    with database.read(clock) as tx:
        found = sessions.expired_sessions(tx, environment, tx.now(), BATCH)
        found += claims.orphaned_sessions(tx, environment, BATCH)
    expired, recovered, more = 0, 0, len(found) >= BATCH

    def max_lost(task_id: str) -> int:
        task = registry.tasks.get(task_id)
        return (task.retry if task is not None else ONE_ATTEMPT).max_lost

    for session_id in found:
        recover_some = partial(lease.recover_session, session_id=session_id, max_lost=max_lost, max_events=max_events)

        def recover_one(recover_some: Callable[[Transaction], tuple[int, bool]] = recover_some) -> None:
            nonlocal expired, recovered, more
            left = True
            while left:
                count, left = database.transact(recover_some, clock)
                recovered += count
            expired += 1

        _guard(recover_one, f"recovering session {session_id}", errors)
    return expired, recovered, more


def _fire(
    database: Database, clock: Clock | None, environment: str, registry: Registry, errors: list[str]
) -> tuple[int, bool]:
    tasks = [task.id for task in registry.tasks.values() if task.schedules]
    if not tasks:
        return 0, False
    with database.read(clock) as tx:
        due = schedules.due_schedules(tx, environment, tasks, tx.now(), BATCH)
    fired = 0
    for stream_id in due:

        def fire_one(stream_id: UUID = stream_id) -> None:
            nonlocal fired
            run = database.transact(lambda tx: schedule.fire(tx, stream_id, registry, new_run_id()), clock)
            fired += run is not None

        _guard(fire_one, f"firing schedule {stream_id}", errors)
    return fired, len(due) >= BATCH


def _guard(work: Callable[[], None], what: str, errors: list[str]) -> None:
    """One bad item does not stop the rest; a database that is away does."""
    try:
        work()
    except StorageConflict:
        log.debug("%s was done by somebody else", what)
    except RunlaneError as error:
        if error.retryable:
            raise
        log.exception("%s failed", what)
        errors.append(f"{what}: {error}")
    except Exception as error:
        log.exception("%s failed", what)
        errors.append(f"{what}: {type(error).__name__}")
