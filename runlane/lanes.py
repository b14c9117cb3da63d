"""Lanes: a storage and a transport with a name, as a URL or built by hand."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from attrs import Factory, field, frozen

from runlane.errors import ConfigurationInvalid
from runlane.storage.database import Database
from runlane.transport import Publisher, Transport
from runlane.transport.local import LocalTransport
from runlane.transport.notify import NotifyTransport
from runlane.transport.watch import FileTransport
from runlane.values import identifier


class Capability(StrEnum):
    """What a lane may promise."""

    DURABLE_STATE = "durable_state"
    PROCESS_LOCAL_STATE = "process_local_state"
    READS_RUN_HISTORY = "reads_run_history"
    PRUNES_RUNS = "prunes_runs"
    LEASES_RUNS = "leases_runs"
    CLAIMS_SCHEDULE_OCCURRENCES = "claims_schedule_occurrences"
    ENFORCES_IDEMPOTENCY = "enforces_idempotency"
    ENFORCES_SINGLETON = "enforces_singleton"
    ENFORCES_QUEUE_CONCURRENCY = "enforces_queue_concurrency"
    OPERATOR_READS = "operator_reads"
    PRODUCTION_DURABLE = "production_durable"


_EVERY = frozenset(Capability) - {
    Capability.DURABLE_STATE,
    Capability.PROCESS_LOCAL_STATE,
    Capability.PRODUCTION_DURABLE,
}


def _lane_name(value: str) -> str:
    return identifier("lane name", value)


def transport_for(database: Database) -> Transport:
    """The doorbell that suits a database: LISTEN and NOTIFY, a watch on the file, or this process's own."""
    if database.schema is not None:
        from psycopg.conninfo import make_conninfo

        # As the engine connects, several hosts in one URL included.
        _, options = database.engine.dialect.create_connect_args(database.url)
        return NotifyTransport(make_conninfo(**_without_adapters(options)), database.schema)
    if database.is_memory or not database.url.database:
        return LocalTransport()
    return FileTransport(Path(database.url.database.removeprefix("file:")))


def _without_adapters(options: Mapping[str, Any]) -> dict[str, Any]:
    """What libpq is told, without what SQLAlchemy tells psycopg."""
    return {name: value for name, value in options.items() if name != "context"}


@frozen(eq=False)
class Lane:
    """Where a runtime keeps its runs, and how its workers are woken.

    Make one with the functions below to set options that a URL cannot carry, or give another transport.
    """

    database: Database = field(alias="storage")
    transport: Transport = field(default=Factory(lambda lane: transport_for(lane.database), takes_self=True))
    name: str = field(default="lane", converter=_lane_name)

    def __attrs_post_init__(self) -> None:
        self.database.publishes = self.delivers

    @property
    def delivers(self) -> bool:
        """Whether its transport carries one wakeup per run, to consumers that need no polling worker."""
        return isinstance(self.transport, Publisher)

    @property
    def migrates_itself(self) -> bool:
        """Whether ``start()`` creates the tables: on the memory and SQLite lanes."""
        return self.database.dialect.name == "sqlite"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this lane promises."""
        if self.database.is_memory:
            return _EVERY | {Capability.PROCESS_LOCAL_STATE}
        if self.migrates_itself:
            return _EVERY | {Capability.DURABLE_STATE}
        return _EVERY | {Capability.DURABLE_STATE, Capability.PRODUCTION_DURABLE}

    def start(self) -> None:
        """Make sure that the tables are there, then start the transport.

        Raises:
            StorageUnavailable: the database cannot be reached.
            ConfigurationInvalid: it is not migrated.
        """
        if self.migrates_itself:
            self.database.migrate()
        else:
            self.database.check()
        try:
            self.transport.start()
        except BaseException:
            self._close_storage()
            raise

    def close(self) -> None:
        """Close the transport, then the connections."""
        try:
            self.transport.close()
        finally:
            self._close_storage()

    def _close_storage(self) -> None:
        if not self.database.is_memory:  # it would be gone
            self.database.dispose()


def memory_lane() -> Lane:
    """Everything in this process's memory; gone when it ends."""
    return Lane(Database("memory:"), name="memory")


def sqlite_lane(url: str, *, busy_timeout: float = 30.0, synchronous_commit: bool = True) -> Lane:
    """One file, shared by the processes of one machine; `busy_timeout` in seconds."""
    return Lane(Database(url, busy_timeout=busy_timeout, synchronous_commit=synchronous_commit), name="sqlite")


def postgres_lane(
    url: str,
    *,
    schema: str = "runlane",
    pool_size: int = 10,
    busy_timeout: float = 30.0,
    synchronous_commit: bool = True,
) -> Lane:
    """A PostgreSQL database, shared by any number of machines."""
    database = Database(
        url, schema=schema, pool_size=pool_size, busy_timeout=busy_timeout, synchronous_commit=synchronous_commit
    )
    return Lane(database, name="postgres")


def lane_of(lane: Lane | str) -> Lane:
    """`lane` itself, or the lane of a URL.

    Raises:
        ConfigurationInvalid: it is neither.
    """
    if isinstance(lane, Lane):
        return lane
    if not isinstance(lane, str):
        raise ConfigurationInvalid(f"lane must be a Lane or a database URL, not {type(lane).__name__}")
    database = Database(lane)
    name = "memory" if database.is_memory else "sqlite" if database.dialect.name == "sqlite" else "postgres"
    return Lane(database, name=name)
