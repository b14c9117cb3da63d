"""How our own connections are set up: server settings, the names of schemas, and SQLite's pragmas and transactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import ConnectionPoolEntry

from runlane.errors import ConfigurationInvalid
from runlane.shown import shown
from runlane.storage.direct import shortest
from runlane.storage.tables import SCHEMA

#: Milliseconds after which the server ends a transaction of ours that asks for nothing more: who stands still in the
#: middle of a claim has the partitions of bounded queues locked, and everybody else waits.  Half of a usual lease.
IDLE = 15_000
#: The same while the log is read, as much may be made of each batch of it, and for other people's code.
IDLE_READING = 60_000
#: The setting without which results would be wrong.
ISOLATION = "default_transaction_isolation"


def check_options(pool_size: int, busy_timeout: float) -> None:
    """Make sure that a database can be opened with these.

    Raises:
        ConfigurationInvalid: naming the one that is not valid.
    """
    if type(pool_size) is not int or pool_size < 1:
        raise ConfigurationInvalid(f"pool_size must be an integer from 1 on; got {shown(pool_size)}")
    if isinstance(busy_timeout, bool) or not isinstance(busy_timeout, int | float) or not 0 <= busy_timeout <= 1e6:
        raise ConfigurationInvalid(f"busy_timeout must be from 0 to 1000000 seconds; got {shown(busy_timeout)}")


def settings(synchronous: bool) -> dict[str, str]:
    """Server settings of our own connections: instants in UTC, no endless waits, and plans that stay put.

    Every hot statement is made for one plan, the walk along an index in order.  Statistics of a table whose rows all
    change status within seconds are never right, and with them the planner would rather sort the whole backlog for a
    claim (measured: 47 ms instead of 3 ms for 500 of 20,000 runs), or walk all of two tables side by side to join them.

    READ COMMITTED whatever the server's default is: who waited for a lock must see what its holder committed.
    """
    own = {
        ISOLATION: "read committed",
        "timezone": "UTC",
        "jit": "off",
        "idle_in_transaction_session_timeout": _spelled(IDLE),
        "enable_bitmapscan": "off",
        "enable_seqscan": "off",
        "enable_mergejoin": "off",
        "plan_cache_mode": "force_generic_plan",
    }
    return own if synchronous else own | {"synchronous_commit": "off"}


def _spelled(milliseconds: int) -> str:
    """A length of time as the server spells it: in seconds where these are whole."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{milliseconds}ms" if rest else f"{seconds}s"


def options(url: URL, synchronous: bool) -> str:
    """The same as libpq takes them, and behind them those of the URL."""
    spelled = {name: value.replace(" ", r"\ ") for name, value in settings(synchronous).items()}
    own = " ".join(f"-c {name}={value}" for name, value in spelled.items())
    given = url.query.get("options")
    return f"{own} {given}" if isinstance(given, str) else own


def connect_args(url: URL, synchronous: bool) -> dict[str, Any]:
    """How the driver connects to PostgreSQL; what the URL says goes first, and what options it has are added."""
    own: dict[str, Any] = {
        "options": options(url, synchronous),
        "connect_timeout": 10,
        "prepare_threshold": 2,
        "application_name": "runlane",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    return {key: value for key, value in own.items() if key not in url.query or key == "options"}


def name_schema(engine: Engine, schema: str | None) -> None:
    """Statements of our own engines name the configured schema as they are compiled, which happens once for each.

    SQLAlchemy's schema_translate_map, which callers' engines need, has it put into their text at every execution.
    """
    named = {SCHEMA: schema or "main"}  # as SQLite calls the file; without any name SQLAlchemy makes up aliases
    preparer: Any = engine.dialect.identifier_preparer
    preparer.schema_for_object = lambda item: named.get(item.schema, item.schema)


def prepare_sqlite(engine: Engine, synchronous: bool) -> None:
    @event.listens_for(engine, "connect")
    def connected(raw: Any, _: Any) -> None:
        raw.isolation_level = None  # transactions begin where we say, not where the driver guesses
        cursor = raw.cursor()
        cursor.execute("pragma journal_mode = wal")
        cursor.execute(f"pragma synchronous = {'full' if synchronous else 'normal'}")
        cursor.execute("pragma cache_size = -65536")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # Taking the write lock at once: a transaction that reads first and writes later can only fail.
        reading = connection.get_execution_options().get("runlane_read_only")
        shortest(connection).exec_driver_sql("begin" if reading else "begin immediate")


def close_late_ones(engine: Engine, disposals: Callable[[], int]) -> None:
    """Close what comes back after ``dispose``: the pool it came from is gone, and would leave it open.

    Args:
        disposals: how many there have been.
    """

    @event.listens_for(engine, "do_connect")  # not once it is connected, as that takes a while
    def connecting(_: Any, entry: ConnectionPoolEntry, *__: Any) -> None:
        entry.info["disposals"] = disposals()

    @event.listens_for(engine, "checkin")
    def returned(_: Any, entry: ConnectionPoolEntry) -> None:
        if entry.info.get("disposals", disposals()) != disposals():
            entry.close()
