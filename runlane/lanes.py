"""Lanes: a storage and a transport with a name, as a URL or built by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from attrs import Factory, field, frozen
from sqlalchemy.engine import URL

from runlane.capabilities import OF_THE_STORAGE, WHERE_STATE_LIVES, Capability
from runlane.errors import CapabilityUnsupported, ConfigurationInvalid, InternalError
from runlane.events import RunCreated
from runlane.registry import Registry
from runlane.shown import words_of
from runlane.storage import poolers, urls
from runlane.storage.database import Database
from runlane.transport import Publisher, Transport
from runlane.transport.local import LocalTransport
from runlane.transport.notify import NotifyTransport
from runlane.transport.watch import FileTransport
from runlane.values import identifier

_OF_A_TRANSPORT = ("start", "close", "ring", "listen", "unlisten")


def _storage(value: Database) -> Database:
    _check_storage(value)
    return value


def _check_storage(value: object) -> None:
    if not isinstance(value, Database):
        what = value.__name__ if isinstance(value, type) else type(value).__name__
        raise ConfigurationInvalid(f"storage of a lane must be a Database, such as Database(url); got {what}")
    promised, name = value.capabilities, type(value).__name__
    if unknown := sorted(str(flag) for flag in promised if flag not in OF_THE_STORAGE):
        raise ConfigurationInvalid(f"storage {name} promises what no storage can: {', '.join(unknown)}")
    if len(promised & WHERE_STATE_LIVES) != 1:
        wanted = " or ".join(sorted(WHERE_STATE_LIVES))
        raise ConfigurationInvalid(f"storage {name} must promise one of {wanted}, and not both")


def _transport(value: Transport) -> Transport:
    missing = [name for name in _OF_A_TRANSPORT if not callable(getattr(value, name, None))]
    if not isinstance(getattr(value, "name", None), str):
        missing.insert(0, "name")
    if isinstance(value, type):
        raise ConfigurationInvalid(f"transport of a lane must be a transport, not its class {value.__name__}")
    if missing:
        raise ConfigurationInvalid(f"transport of a lane lacks {', '.join(missing)}; got {type(value).__name__}")
    return value


def _lane_name(value: str) -> str:
    return identifier("lane name", value)


def transport_for(database: Database, listen: URL | None = None) -> Transport:
    """The doorbell that suits a database: LISTEN and NOTIFY, a watch on the file, or this process's own.

    Args:
        listen: where to LISTEN, if not where the database is.
    """
    if database.schema is not None:
        told = _conninfo(database, database.url)
        heard = told if listen is None else _conninfo(database, listen)
        return NotifyTransport(told, database.schema, listen=heard)
    if database.is_memory or not database.url.database:
        return LocalTransport()
    return FileTransport(_file_of(database.url.database))


def _file_of(named: str) -> Path:
    """The file that SQLite writes, and its log beside: absolute, as the current directory may change, and no link."""
    if named.startswith("file:"):
        named = unquote(urlsplit(named).path)
    return Path(os.path.realpath(named))


def _conninfo(database: Database, url: URL) -> str:
    """A URL as libpq takes it."""
    from psycopg import Error
    from psycopg.conninfo import make_conninfo

    # As the engine connects, several hosts in one URL included.
    _, options = database.engine.dialect.create_connect_args(url)
    try:
        return make_conninfo(**_without_adapters(options))
    except Error as error:  # an option that libpq does not know, and says which
        raise ConfigurationInvalid(
            f"the URL of {urls.described(url)} is not valid: {words_of(error).strip()}"
        ) from None


def _without_adapters(options: Mapping[str, Any]) -> dict[str, Any]:
    """What libpq is told, without what SQLAlchemy and we tell psycopg."""
    return {name: value for name, value in options.items() if name not in ("context", poolers.THRESHOLD)}


@frozen(eq=False)
class Lane:
    """Where a runtime keeps its runs, and how its workers are woken.

    Make one with the functions below to set options that a URL cannot carry, or give another transport.

    Raises:
        ConfigurationInvalid: naming what the storage or the transport lacks.
    """

    database: Database = field(alias="storage", converter=_storage)
    transport: Transport = field(
        default=Factory(lambda lane: transport_for(lane.database), takes_self=True), converter=_transport
    )
    name: str = field(default="lane", converter=_lane_name)
    _started_in: set[int] = field(factory=set, init=False, repr=False)  # processes, one at most

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
        """What this lane promises: the storage's flags and its own two."""
        promised = self.database.capabilities
        if Capability.READS_RUN_HISTORY in promised:
            promised |= {Capability.OPERATOR_READS}
        if Capability.DURABLE_STATE in promised and not self.migrates_itself:
            promised |= {Capability.PRODUCTION_DURABLE}
        return promised

    def require(self, capability: Capability, what: str) -> None:
        """Go on only if the lane promises what `what` needs.

        Raises:
            CapabilityUnsupported: it does not; nothing is emulated.
        """
        if capability not in self.capabilities:
            raise CapabilityUnsupported(
                f"{what} needs {capability}, which lane {self.name!r} does not promise",
                meta={"capability": capability.value, "lane": self.name},
            )

    def require_for(self, registry: Registry) -> None:
        """Go on only if the lane promises what these definitions and the transport need; raises as ``require``."""
        for capability, what in _needs(registry):
            self.require(capability, what)
        if self.delivers:
            self.require(Capability.PERSISTS_OUTBOX, f"transport {self.transport.name}, which publishes,")

    def require_keys(self, created: RunCreated) -> None:
        """Go on only if the lane enforces the keys of a run that is to be made; raises as ``require``."""
        if created.idempotency_key is not None:
            self.require(Capability.ENFORCES_IDEMPOTENCY, f"idempotency_key {created.idempotency_key!r}")
        if created.singleton_key is not None:
            self.require(Capability.ENFORCES_SINGLETON, f"singleton_key {created.singleton_key!r}")

    def start(self) -> None:
        """Make sure that the tables are there, then start the transport.

        Raises:
            InternalError: another process has opened the connections, and this is a forked child of it.
            StorageUnavailable: the database cannot be reached.
            ConfigurationInvalid: it is not migrated.
        """
        if self._is_the_parents():
            raise InternalError("a Lane that is open must not be carried over a fork; create it in the child process")
        self._started_in.clear()
        self._started_in.add(os.getpid())
        if self.migrates_itself:
            self.database.migrate()
        else:
            self.database.check()
            self.database.open_epoch(if_allowed=True)
        try:
            self.transport.start()
        except BaseException:
            self._close_storage()
            raise

    def _is_the_parents(self) -> bool:
        """Whether what is done on a connection here would come upon what a parent process does on it."""
        return bool(self._started_in - {os.getpid()}) and self.database.is_connected

    def close(self) -> None:
        """Close the transport, then the connections; in a forked child those of its parent stay open."""
        if self._is_the_parents():
            return
        try:
            self.transport.close()
        finally:
            self._close_storage()

    def _close_storage(self) -> None:
        if not self.database.is_memory:  # it would be gone
            self.database.dispose()


def _needs(registry: Registry) -> Iterator[tuple[Capability, str]]:
    """What the definitions of one runtime need."""
    for name in registry.limits():
        yield Capability.ENFORCES_QUEUE_CONCURRENCY, f"concurrency_limit of queue {name!r}"
    for task in registry.tasks.values():
        if task.schedules:
            yield Capability.CLAIMS_SCHEDULE_OCCURRENCES, f"schedule {task.schedules[0].id!r} of task {task.id!r}"
        if task.idempotency_key is not None:
            yield Capability.ENFORCES_IDEMPOTENCY, f"idempotency_key of task {task.id!r}"
        if task.singleton_key is not None:
            yield Capability.ENFORCES_SINGLETON, f"singleton_key of task {task.id!r}"


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
    listen_url: str | None = None,
) -> Lane:
    """A PostgreSQL database, shared by any number of machines.

    Args:
        listen_url: the same database past a pooler in transaction mode, where wakeups cannot be heard.
    """
    database = Database(
        url, schema=schema, pool_size=pool_size, busy_timeout=busy_timeout, synchronous_commit=synchronous_commit
    )
    if listen_url is None:
        return Lane(database, name="postgres")
    listen = urls.parsed(listen_url)
    if listen.get_backend_name() != "postgresql" or database.schema is None:
        raise ConfigurationInvalid("url and listen_url of a postgres_lane must be two ways to one PostgreSQL database")
    return Lane(database, transport_for(database, listen), name="postgres")


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
