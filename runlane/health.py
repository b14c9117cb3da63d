"""What a look at a database comes to: checks, each with a status, and the bounds by which they are judged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any

from attrs import Factory, evolve, frozen

_MIB = 1024 * 1024
_SECOND, _MINUTE, _HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class Health(StrEnum):
    """How it stands: all is well, look at it by day, look at it now."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def code(self) -> int:
        """The exit code by which monitors of the Nagios kind know it: 0, 1, 2."""
        return _WORSE.index(self)


_WORSE = tuple(Health)


def worst(*found: Health) -> Health:
    """The worst of them; ``ok`` of none."""
    return max(found, key=_WORSE.index, default=Health.OK)


@frozen
class Check:
    """One thing that was looked at.

    Args:
        name: what, in one word; it does not change between releases.
        found: one sentence, with figures.
        advice: what to do about it, a command or a setting; None if nothing is to be done.
        values: the figures for programs: numbers, texts and lists of them; lengths of time in seconds.
    """

    name: str
    status: Health
    found: str
    advice: str | None = None
    values: Mapping[str, Any] = Factory(dict)


@frozen
class Diagnosis:
    """What ``doctor`` has found, check by check."""

    database: str
    environment: str
    checks: tuple[Check, ...]

    @property
    def status(self) -> Health:
        """That of the worst check."""
        return worst(*(check.status for check in self.checks))

    @property
    def exit_code(self) -> int:
        """The same as monitors know it: 0 ok, 1 warning, 2 critical."""
        return self.status.code

    def check(self, name: str) -> Check | None:
        """The check of this name, if it was made on this database."""
        return next((check for check in self.checks if check.name == name), None)

    def of(self, *statuses: Health) -> tuple[Check, ...]:
        """The checks with one of these statuses."""
        return tuple(check for check in self.checks if check.status in statuses)


@frozen
class Bound:
    """From where on a figure is a warning, and from where on critical; None is never."""

    warning: Any
    critical: Any = None

    def judge(self, figure: Any) -> Health:
        """Of a figure that is the worse the higher it is."""
        if self.critical is not None and figure >= self.critical:
            return Health.CRITICAL
        return Health.WARNING if self.warning is not None and figure >= self.warning else Health.OK

    def judge_low(self, figure: Any) -> Health:
        """Of a figure that is the worse the lower it is."""
        if self.critical is not None and figure <= self.critical:
            return Health.CRITICAL
        return Health.WARNING if self.warning is not None and figure <= self.warning else Health.OK

    def at_most_warning(self) -> Bound:
        """The same, never critical."""
        return evolve(self, critical=None)


@frozen
class Thresholds:
    """All figures by which ``doctor`` judges, in one place; give others to ``doctor(thresholds=…)``."""

    #: This machine's clock against the database's.  Leases and due times are the database's alone.
    clock: Bound = Bound(2 * _SECOND)
    #: How long ago a session expired that maintenance has not ended; critical only if it holds runs.
    sessions: Bound = Bound(_MINUTE, 5 * _MINUTE)
    #: How long a schedule is overdue.
    schedules: Bound = Bound(_MINUTE, _HOUR)
    #: How long a wakeup waits to be published.
    outbox: Bound = Bound(_MINUTE, 15 * _MINUTE)
    #: For how long a wakeup that was given up is told of.
    dead_letters: timedelta = timedelta(days=1)
    #: How long ago a reserved slot should have been given back.
    reservations: Bound = Bound(_MINUTE, 15 * _MINUTE)
    #: How long the oldest due run of a queue that is not paused waits for somebody to take it.
    waiting: Bound = Bound(15 * _MINUTE)
    #: PostgreSQL: how long a transaction is open that keeps dead rows from being removed.
    transactions: Bound = Bound(5 * _MINUTE, _HOUR)
    #: PostgreSQL: how long a session does nothing inside of a transaction.
    idle_transactions: Bound = Bound(_MINUTE, _HOUR)
    #: PostgreSQL: how many transactions a slot, a replica or a prepared transaction lies behind.
    horizon: Bound = Bound(1_000_000, 50_000_000)
    #: PostgreSQL: dead rows as a part of all rows of a table, where there are at least so many.  A run leaves two on
    #: its way, so that two thirds are what a new database has before autovacuum comes by.
    dead_rows: Bound = Bound(0.7, 0.9)
    dead_rows_least: int = 100_000
    #: PostgreSQL: the part of updates of `sessions` that change no index, where there were at least so many.
    hot_updates: Bound = Bound(0.8)
    hot_updates_least: int = 10_000
    #: PostgreSQL: how long somebody has locked one of Runlane's tables against others.
    locks: Bound = Bound(30 * _SECOND, 5 * _MINUTE)
    #: PostgreSQL: the part of all connections that are in use.
    connections: Bound = Bound(0.8, 0.95)
    #: PostgreSQL: the part of the queue of notifications that is full.
    notifications: Bound = Bound(0.1, 0.5)
    #: PostgreSQL: ages of transaction ids, as a part of the 2,147 million at which the server stops.
    wraparound: Bound = Bound(0.4, 0.7)
    #: SQLite: bytes of the write-ahead log.
    wal_file: Bound = Bound(256 * _MIB, 2048 * _MIB)
    #: SQLite: bytes that are free on the disk; less is worse.
    disk: Bound = Bound(1024 * _MIB, 128 * _MIB)
    #: SQLite: pages that hold nothing as a part of all, in files of at least so many bytes.
    free_pages: Bound = Bound(0.5)
    free_pages_least: int = 256 * _MIB
