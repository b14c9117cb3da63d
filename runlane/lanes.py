"""Lanes: a database with a name, as a URL or built by hand."""

from __future__ import annotations

from attrs import field, frozen

from runlane.errors import ConfigurationInvalid
from runlane.storage.database import Database
from runlane.values import identifier


def _lane_name(value: str) -> str:
    return identifier("lane name", value)


@frozen(eq=False)
class Lane:
    """Where a runtime keeps its runs; make one with the functions below to set options that a URL cannot carry."""

    database: Database
    name: str = field(default="lane", converter=_lane_name)

    @property
    def migrates_itself(self) -> bool:
        """Whether ``start()`` creates the tables: on the memory and SQLite lanes."""
        return self.database.dialect.name == "sqlite"


def memory_lane() -> Lane:
    """Everything in this process's memory; gone when it ends."""
    return Lane(Database("memory:"), "memory")


def sqlite_lane(url: str, *, busy_timeout: float = 30.0, synchronous_commit: bool = True) -> Lane:
    """One file, shared by the processes of one machine; `busy_timeout` in seconds."""
    return Lane(Database(url, busy_timeout=busy_timeout, synchronous_commit=synchronous_commit), "sqlite")


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
    return Lane(database, "postgres")


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
    return Lane(database, name)
