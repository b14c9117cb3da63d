"""Workers: claim, execute, store, and keep house, until told to stop or nothing is due."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum

from runlane.errors import ConfigurationInvalid
from runlane.exchange import Exchange
from runlane.housekeeping import Housekeeper
from runlane.runtime import Runtime
from runlane.shown import shown
from runlane.stopping import stopped_by_signals, wait_heeding_signals

log = logging.getLogger("runlane.worker")

#: Seconds that a graceful stop waits for attempts before it gives them back.
STOP_TIMEOUT = 30.0


def limit_of(timeout: float | None) -> float | None:
    """For how long to wait, in seconds; None is for ever."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout != timeout:
        raise ConfigurationInvalid(f"timeout must be a number of seconds; got {shown(timeout)}")
    return min(timeout, 1e9)


class _RareCollections:
    """Batches of runs live for milliseconds and hold no cycles: looking for cycles in them is wasted.

    The thresholds are the process's: the first one that enters raises them, the last one that leaves puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = gc.get_threshold()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            before = self._before = gc.get_threshold()
            if before[0]:
                gc.set_threshold(max(before[0], 20_000), max(before[1], 50), max(before[2], 100))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                gc.set_threshold(*self._before)


_rare_collections = _RareCollections()


class WorkerMode(StrEnum):
    """Whether a worker goes on when nothing is due."""

    POLL = "poll"
    DRAIN = "drain"


def check_concurrency(value: object) -> None:
    """Raise ConfigurationInvalid if no worker can make so many attempts at once."""
    if type(value) is not int or not 1 <= value <= 10_000:
        raise ConfigurationInvalid(f"concurrency must be an integer from 1 to 10000; got {shown(value)}")


class Worker:
    """A worker of this process; make one with ``app.worker(…)``."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        mode: str = "poll",
        queues: Sequence[str] | None = None,
        concurrency: int = 10,
        maintenance: bool = True,
        poll_interval: float = 1.0,
        maintenance_interval: float = 1.0,
    ) -> None:
        if not isinstance(mode, str) or mode not in tuple(WorkerMode):
            raise ConfigurationInvalid(f"mode must be 'poll' or 'drain'; got {shown(mode)}")
        check_concurrency(concurrency)
        for name, value in (("poll_interval", poll_interval), ("maintenance_interval", maintenance_interval)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.001 <= value <= 3600:
                raise ConfigurationInvalid(f"{name} must be from 0.001 to 3600 seconds; got {shown(value)}")
        self._runtime = runtime
        # SQLite has one writer at a time: a second transaction would only wait for the first.
        lanes = 1 if runtime.lane.database.dialect.name == "sqlite" else 2
        wanted = list(dict.fromkeys(runtime.registry.queues if queues is None else queues))
        self._drains = mode == WorkerMode.DRAIN
        self._exchange = Exchange(runtime, wanted, concurrency, poll_interval, lanes, self._drains)
        self._stop = threading.Event()
        self._closed = threading.Event()
        self._closing = threading.Lock()
        self._tells: list[Callable[[], object]] = []
        self._starting = threading.Lock()
        self._started = False
        self._housekeeper = Housekeeper(runtime, maintenance_interval) if maintenance else None

    @property
    def closed(self) -> bool:
        """Whether the worker has ended, with everything it had in hand."""
        return self._closed.is_set()

    @property
    def completed(self) -> int:
        """How many attempts it has brought to an end, those apart that it has given back to be executed again."""
        return self._exchange.completed

    def start(self) -> None:
        """Begin to work in the background.

        Raises:
            StorageUnavailable: the database cannot be reached.
        """
        with self._starting:
            if self._started:
                raise ConfigurationInvalid("a worker can be started once; make another with app.worker(…)")
            if self._stop.is_set():
                return
            self._runtime.session()
            if self._housekeeper is not None:
                # A poll worker has the rest of a pile made beside its work; a drain would end without it.
                self._housekeeper.start(lambda: self._drains and not self._stop.is_set())
            self._started = True
            try:
                self._exchange.start()
                threading.Thread(target=self._watch, name="runlane-worker", daemon=True).start()
            except BaseException:  # as where the system has no thread left: what has begun ends again
                self._exchange.cut_off()
                self._watch()
                raise

    def run(self) -> None:
        """Work until stopped (or, draining, until nothing is due); a signal stops it gracefully, a second one at once.

        The signals are SIGINT and SIGTERM, and are heeded only in the main thread.  Meanwhile the garbage collector
        looks less often than Python's default, which would cost a busy worker a fifth of its time.

        Raises:
            RunlaneError: the worker could not go on.
            InternalError: this is a forked child, which has none of the worker's threads.
        """
        self._runtime._in_this_process()
        with stopped_by_signals(self.stop, self._exchange.cut_off), _rare_collections:
            if not self._started:
                self.start()
            wait_heeding_signals(self._closed)
        self._raise()

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Stop gracefully: no new claims, handlers are told, and get `timeout` seconds to end by themselves.

        What is cut off then is queued again (``run.interrupted``), or, if the database is away, when its lease expires;
        until then outcomes are kept for a database that comes back.

        Raises:
            RunlaneError: the worker could not go on.
            ConfigurationInvalid: `timeout` is no number.
            InternalError: this is a forked child, which has none of the worker's threads.
        """
        self._runtime._in_this_process()
        limit = limit_of(timeout)
        self._stop.set()
        with self._starting:  # a start under way ends first; a later one finds that it is not wanted
            if not self._started:
                self._end()
                return
        self._exchange.stop()
        if not self._closed.wait(limit):
            self._exchange.cut_off()
            self._closed.wait()
        self._raise()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the worker has ended, at most `timeout` seconds; whether it has.

        Raises:
            ConfigurationInvalid: `timeout` is no number.
            InternalError: this is a forked child, which has none of the worker's threads.
        """
        self._runtime._in_this_process()
        return self._closed.wait(limit_of(timeout))

    def _watch(self) -> None:
        # Whatever fails in here, who waits for the end must hear of it.
        try:
            self._exchange.join()
            self._stop.set()
            if self._housekeeper is not None:
                self._housekeeper.close()
        except BaseException as error:
            log.exception("the worker could not clear up")
            self._exchange.error = self._exchange.error or error
        finally:
            self._stop.set()
            self._end()

    def _end(self) -> None:
        with self._closing:
            self._closed.set()
            tells, self._tells = self._tells, []
        for tell in tells:
            tell()

    @contextmanager
    def _telling(self, tell: Callable[[], object]) -> Iterator[None]:
        """Within it, `tell` is called when the worker has ended, on whatever thread that is."""
        self._runtime._in_this_process()
        with self._closing:
            if not self.closed:
                self._tells.append(tell)
        if self.closed:
            tell()
        try:
            yield
        finally:
            with self._closing:
                if tell in self._tells:
                    self._tells.remove(tell)

    def _raise(self) -> None:
        if self._exchange.error is not None:
            raise self._exchange.error
