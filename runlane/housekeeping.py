"""Maintenance in the background of a process that executes runs."""

from __future__ import annotations

import logging
import random
import threading

from runlane.errors import RunlaneError
from runlane.runtime import Runtime

log = logging.getLogger("runlane.worker")


class Housekeeper:
    """Makes a maintenance pass every `interval` seconds, unless another process with the same definitions does."""

    def __init__(self, runtime: Runtime, interval: float) -> None:
        self._runtime = runtime
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="runlane-maintenance", daemon=True)

    def start(self) -> None:
        """Make one pass now and go on in the background.

        Raises:
            StorageUnavailable: the database cannot be reached.
        """
        self._runtime.tick()
        self._thread.start()

    def close(self) -> None:
        """Let the pass under way end, and another process take over at once."""
        self._stop.set()
        self._thread.join()
        try:
            self._runtime.leave_house()
        except RunlaneError as error:
            log.debug("others keep house only after a while: %s", error)

    def _loop(self) -> None:
        wait = self._interval
        while not self._stop.wait(wait * random.uniform(0.9, 1.1)):  # noqa: S311
            try:
                report = self._runtime.keep_house(self._interval)
                wait = 0.001 if report is not None and report.more else self._interval
            except RunlaneError as error:
                log.warning("maintenance has to wait: %s", error)
            except Exception:
                log.exception("maintenance failed")
