"""``app.doctor()``: how the database is, and the work in it, for who is woken at night."""

from __future__ import annotations

from collections.abc import Mapping

from runlane.errors import ConfigurationInvalid
from runlane.health import Diagnosis, Thresholds
from runlane.runtime import Runtime
from runlane.shown import shown
from runlane.storage import health, health_postgres, health_sqlite, health_tables, health_work
from runlane.storage.database import Database
from runlane.storage.health import Reading

_TABLES: Mapping[str, Reading] = {
    "tables": health_tables.tables,
    "schema": health_tables.schema,
    "epoch": health_work.epoch,
    "clock": health_work.clock,
}
_WORK: Mapping[str, Reading] = {
    "environment": health_work.environment,
    "workers": health_work.workers,
    "schedules": health_work.schedules,
    "outbox": health_work.outbox,
    "reservations": health_work.reservations,
    "waiting": health_work.waiting,
}
_POSTGRES: Mapping[str, Reading] = {
    "server": health_postgres.server,
    "settings": health_postgres.settings,
    "connections": health_postgres.connections,
    "transactions": health_postgres.transactions,
    "idle_transactions": health_postgres.idle_transactions,
    "horizon": health_postgres.horizon,
    "locks": health_postgres.locks,
    "dead_rows": health_postgres.dead_rows,
    "hot_updates": health_postgres.hot_updates,
    "notifications": health_postgres.notifications,
    "wraparound": health_postgres.wraparound,
}
_FILE: Mapping[str, Reading] = {
    "library": health_sqlite.library,
    "journal": health_sqlite.journal,
    "wal_file": health_sqlite.wal_file,
    "disk": health_sqlite.disk,
    "file_system": health_sqlite.file_system,
    "free_pages": health_sqlite.free_pages,
}
_MEMORY: Mapping[str, Reading] = {"lane": health_sqlite.lane, "schema": health_tables.schema}


def readings_of(database: Database) -> Mapping[str, Reading]:
    """The checks that are made on a database, by name and in order."""
    if database.is_memory:
        return {**_MEMORY, **_WORK}
    return {**_TABLES, **_WORK, **(_FILE if database.schema is None else _POSTGRES)}


class Examined:
    """The part of ``Runlane`` that looks at its database."""

    _runtime: Runtime

    def doctor(self, *, thresholds: Thresholds | None = None) -> Diagnosis:
        """Look at the database and at the work of this environment: every check with what was found and what to do.

        It only reads, creates nothing, takes no lock that anybody waits for, and costs the same however much is stored.
        A check that cannot be made, for lack of privileges for instance, is a ``warning`` that says why, and the others
        are made all the same.  It works on tables of another version, damaged ones, and on a standby.

        Args:
            thresholds: other figures to judge by than those of ``Thresholds()``.

        Raises:
            StorageUnavailable: the database cannot be reached.
            ConfigurationInvalid: there is no such database, it refuses this user, or it has no tables of Runlane's.
        """
        if thresholds is not None and not isinstance(thresholds, Thresholds):
            raise ConfigurationInvalid(f"thresholds must be a Thresholds; got {shown(thresholds)}")
        runtime = self._runtime
        database = runtime.database
        if database.is_memory:
            runtime.start()  # there is nobody else who could make its tables
        checks = health.examine(
            database,
            runtime.environment,
            thresholds or Thresholds(),
            runtime.clock,
            readings_of(database),
            is_used=runtime.started,
        )
        return Diagnosis(database.where, runtime.environment, checks)
