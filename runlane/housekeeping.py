"""Maintenance in the background of a process that executes runs."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from attrs import asdict

from runlane.engine.tick import TickReport
from runlane.errors import RunlaneError
from runlane.runtime import Runtime

log = logging.getLogger("runlane.worker")

#: Seconds that a pass under way gets to end when its process stops; a transport that hangs must not hold that up.
_PATIENCE = 5.0
#: After so many passes in a row that failed, another process gets the house.
_ENOUGH = 3
_ELSEWHERE = TickReport()


class Housekeeper:
    """Makes a maintenance pass every `interval` seconds, unless another process with the same definitions does."""

    def __init__(self, runtime: Runtime, interval: float) -> None:
        self._runtime = runtime
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="runlane-maintenance", daemon=True)

    def start(self, again: Callable[[], bool] = lambda: False) -> None:
        """Make one pass now and go on in the background.

        Args:
            again: whether to make another pass first, where the one before has left work and got on.

        Raises:
            StorageUnavailable: the database cannot be reached.
        """
        while (report := self._runtime.tick()).more and _got_on(report) and again():
            pass
        self._thread.start()

    def close(self) -> None:
        """Let the pass under way end, and another process take over at once."""
        self._stop.set()
        self._thread.join(_PATIENCE)
        if not self._thread.is_alive():
            self._leave()

    def _leave(self) -> None:
        try:
            self._runtime.leave_house(self._interval)
        except RunlaneError as error:
            log.debug("others keep house only after a while: %s", error)

    def _loop(self) -> None:
        wait, failures = self._interval, 0
        while not self._stop.wait(wait * random.uniform(0.9, 1.1)):  # noqa: S311
            report = self._keep_house()
            wait = 0.001 if report is not None and report.more else self._interval
            if report is None or (report.wakeups_failed > 0 and not report.wakeups_published):
                failures += 1
            elif report.wakeups_published or report is _ELSEWHERE:  # a pass with nothing to publish says nothing
                failures = 0
            if failures == _ENOUGH:  # what fails here may work elsewhere
                self._leave()
                wait, failures = _ENOUGH * self._interval, 0

    def _keep_house(self) -> TickReport | None:
        """The report of a pass, or of another process's; None if it failed."""
        try:
            return self._runtime.keep_house(self._interval) or _ELSEWHERE
        except RunlaneError as error:
            log.warning("maintenance has to wait: %s", error)
        except Exception:
            log.exception("maintenance failed")
        return None


def _got_on(report: TickReport) -> bool:
    return any(count for name, count in asdict(report).items() if name not in ("wakeups_failed", "errors", "more"))
