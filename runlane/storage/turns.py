"""Writers of one process take turns, rather than spinning on SQLite's file lock."""

from __future__ import annotations

import threading
from types import TracebackType

from runlane.errors import ConfigurationInvalid, StorageUnavailable


class Turns:
    """A context in which one thread is at a time.

    Args:
        where: the database, for messages.
        patience: seconds after which a thread that waits is told.
    """

    def __init__(self, where: str, patience: float) -> None:
        self._where = where
        self._patience = patience
        self._lock = threading.Lock()
        self._owner: int | None = None

    def __enter__(self) -> None:
        """Wait for a turn.

        Raises:
            ConfigurationInvalid: this very thread has it, and would wait for itself.
            StorageUnavailable: another one has it, for longer than this one has patience.
        """
        me = threading.get_ident()
        if self._owner == me:
            raise ConfigurationInvalid(
                f"this thread is inside a transaction that writes to {self._where} (a block of batch.transaction(), a "
                "projection's fold) and cannot begin another one: give its connection (connection=), or call behind it"
            )
        if not self._lock.acquire(timeout=self._patience):
            raise StorageUnavailable(
                f"{self._where} is busy: another thread of this process has been writing for {self._patience:g} s"
            )
        self._owner = me

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._owner = None
        self._lock.release()
