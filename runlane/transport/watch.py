"""Rings between processes that share a SQLite file: whoever commits changes its write-ahead log, which others see.

Looking at a file's size and time costs a microsecond and no lock, so it can be done a hundred times a second.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from pathlib import Path

from runlane.transport import Bell
from runlane.transport.local import LocalTransport

#: Seconds between looks.
INTERVAL = 0.01
#: How many looks after a change ring too: file times move in steps of several milliseconds, so that a commit just
#: after the change may look like nothing.
_AGAIN = 2


class FileTransport(LocalTransport):
    """Rings within this process at once, and whenever `file` was written to by anybody.

    Args:
        file: the SQLite database.
        interval: seconds between looks at its write-ahead log.
    """

    name = "file"

    def __init__(self, file: Path, interval: float = INTERVAL) -> None:
        super().__init__()
        self._files = (Path(f"{file}-wal"), file)
        self._interval = interval
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def listen(self, environment: str, queues: Collection[str], bell: Bell) -> None:
        """Ring `bell` whenever one of `queues` is rung for here, or the file has changed."""
        super().listen(environment, queues, bell)
        with self._lock:
            if self._watcher is None:
                self._stop = threading.Event()
                self._watcher = threading.Thread(
                    target=self._watch, args=(self._stop,), name="runlane-watch", daemon=True
                )
                self._watcher.start()

    def unlisten(self, bell: Bell) -> None:
        """The inverse of ``listen``; nobody watches for nobody."""
        super().unlisten(bell)
        self.close()

    def close(self) -> None:
        """Stop watching, unless somebody still listens."""
        with self._lock:
            if self.is_listening:  # as somebody may begin to at any moment outside of the lock
                return
            watcher, self._watcher = self._watcher, None
            self._stop.set()
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join()

    def _watch(self, stop: threading.Event) -> None:
        seen, again = self._state(), 0
        while not stop.wait(self._interval):
            now = self._state()
            again = _AGAIN if now != seen else again - 1
            seen = now
            if again >= 0:
                self.ring_all()

    def _state(self) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        for file in self._files:
            try:
                facts = os.stat(file)
                found.append((facts.st_mtime_ns, facts.st_size))
            except OSError:
                found.append(None)
        return found
