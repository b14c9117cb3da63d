"""Commits: where the connection breaks during one, the caller cannot tell whether it happened; the log can.

A database that refuses a commit says so, and nothing was written.  One that is gone before it has answered may have
committed: whoever then reports a failure, or simply tries again, is wrong in half of the cases.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import DBAPIError

from runlane import codec
from runlane.errors import ConfigurationInvalid, RunlaneError, StorageUnavailable
from runlane.events import RunLeased
from runlane.storage import faults, room
from runlane.storage.dialect import EventRow
from runlane.storage.transaction import Transaction

T = TypeVar("T")

#: Seconds for which the database is asked whether a commit happened, unless the caller says otherwise.
PATIENCE = 10.0
_LEASED = codec.STORED_AS[RunLeased][0]
#: What psycopg, as libpq, calls a transaction that can only be rolled back.
_IN_ERROR = 3
#: What to tell whoever has caught an error of the database and gone on.
OVER = (
    "an error of the database was caught within its transaction, which is over by that; "
    "put a statement that may fail into a savepoint (connection.begin_nested())"
)
#: Under ``meta["outcome"]``: nobody knows whether it was committed; it is certain that it was not.
UNKNOWN, UNDONE = "unknown", "not_committed"


def commit(ending: RootTransaction, tx: Transaction, where: str) -> None:
    """Commit `tx`.

    Raises:
        ConfigurationInvalid: an error of the database was caught within, after which there is nothing to commit.
        StorageUnavailable: the answer never came, and ``meta["outcome"]`` is ``unknown``; or there is no room for what
            was to be written, which nothing was then.
        DBAPIError: the database refused, and nothing was written.
    """
    if is_over(tx.connection):
        ending.rollback()
        raise ConfigurationInvalid(f"nothing was written to {where}: {OVER}")
    try:
        ending.commit()
    except DBAPIError as error:
        refused = _is_refusal(error, tx.connection)
        if not refused and not error.connection_invalidated and tx.connection.dialect.name == "postgresql":
            tx.connection.invalidate(error)  # the answer may come later, and is no answer to what is asked then
        ending.rollback()  # or SQLAlchemy would hand the connection on as it is
        if refused:
            raise
        no_room = room.refused(error, tx.connection)
        if no_room is not None:
            raise StorageUnavailable(f"{where} is full: {no_room}; nothing was written") from error
        raise unknown((event[0] for event in tx.written), where) from error


def is_over(connection: Connection) -> bool:
    """Whether the database has given up the transaction, though nobody was told who would have passed it on.

    PostgreSQL answers a commit with a rollback then, and calls that no error.
    """
    driver_connection: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        return int(driver_connection.info.transaction_status) == _IN_ERROR
    return not getattr(driver_connection, "in_transaction", True)


def is_anybodys(event: EventRow) -> bool:
    """Whether the very same event may have been written by somebody else since, so that it tells nothing.

    A lease may: another thread under the same session claims the run, and where a clock was set back, both say the
    last instant that the run's history knows.  Of two who took it for theirs, both would execute the attempt.
    """
    return event[2] == _LEASED


class Passing:
    """A transaction of this process that is under way.

    `leased` says whether it may have written a lease, true until it is known; `met_lease` whether one that ended
    meanwhile may have.
    """

    __slots__ = ("leased", "met_lease", "over")

    def __init__(self) -> None:
        self.leased = True
        self.met_lease = self.over = False

    def ends(self, written: Sequence[EventRow]) -> None:
        """Note what it has written; leases come last."""
        self.leased = bool(written) and written[-1][2] == _LEASED


class Passings:
    """All of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: list[Passing] = []

    @contextmanager
    def one(self) -> Iterator[Passing]:
        """Around a transaction."""
        mine = Passing()
        with self._lock:
            self._under_way.append(mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._under_way.remove(mine)
                if mine.leased:
                    for other in self._under_way:
                        other.met_lease = True
                mine.over = True  # last, as whoever waits for it looks without the lock

    def may_mistake(self, mine: Passing) -> bool:
        """Whether another one may have written a lease beside `mine`; waits a moment for those under way."""
        with self._lock:
            others = [other for other in self._under_way if other is not mine]
        deadline = time.monotonic() + 1.0
        while not all(other.over for other in others) and time.monotonic() < deadline:
            time.sleep(0.01)
        return mine.met_lease or not all(other.over for other in others)


@contextmanager
def stating(ids: Sequence[UUID], where: str) -> Iterator[None]:
    """Around a statement that commits itself.

    Raises:
        StorageUnavailable: the answer never came; ``meta["outcome"]`` is ``unknown``.
        DBAPIError: the database refused, and nothing was written.
    """
    try:
        yield
    except DBAPIError as error:
        if faults.is_broken_off(error):
            raise unknown(ids, where) from error
        raise


def find_out(
    ask: Callable[[float], T], patience: float, unknown: StorageUnavailable, passes: Callable[[RunlaneError], bool]
) -> T:
    """Ask what became of a commit, again and again until there is an answer.

    Args:
        ask: gets the seconds that are left.
        patience: seconds after which `unknown` is raised.
        passes: whether it may help to ask again after this error; `unknown` is raised at once if not.
    """
    deadline = time.monotonic() + patience
    pause = 0.01
    while True:
        try:
            return ask(deadline - time.monotonic())
        except RunlaneError as error:
            if not passes(error) or deadline - time.monotonic() < pause:
                raise unknown from error
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def is_unknown(error: BaseException) -> bool:
    """Whether it says that nobody knows whether something was committed."""
    return isinstance(error, StorageUnavailable) and outcome(error) == UNKNOWN


def unknown(ids: Iterable[UUID], where: str) -> StorageUnavailable:
    """The error that says so; `ids` are those of the streams, such as runs, that may have been written."""
    names = [str(stream_id) for stream_id in dict.fromkeys(ids)]
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return StorageUnavailable(
        f"{where} was lost during a commit, and it is unknown whether that happened"
        + (f"; look for {some} before you repeat the call" if names else ""),
        meta={"outcome": UNKNOWN, "ids": names},
    )


def of_one(error: RunlaneError, stream_id: UUID, where: str) -> RunlaneError:
    """An error that many callers share, for the one of them whose run this is."""
    if outcome(error) == UNKNOWN:
        return unknown([stream_id], where)
    return copy(error)


def undone(where: str) -> StorageUnavailable:
    """The error of a commit that was lost and is known not to have happened."""
    return StorageUnavailable(
        f"{where} was lost before it had committed; nothing was written", meta={"outcome": UNDONE}
    )


def outcome(error: RunlaneError) -> Any:
    """What is known about a commit, None if the error has nothing to do with one."""
    return error.meta.get("outcome")


def _is_refusal(error: DBAPIError, connection: Connection) -> bool:
    """Whether the database itself answered that it did not commit."""
    if connection.dialect.name == "postgresql":
        return not faults.is_broken_off(error)  # an error on a connection that lives on is an answer
    driver_connection = connection.connection.driver_connection
    # Still in the transaction, or rolled back by SQLite itself for want of room.
    return bool(getattr(driver_connection, "in_transaction", False)) or faults.is_full(error)
