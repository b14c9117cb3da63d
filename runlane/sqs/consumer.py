"""A process that takes wakeups from SQS by long polling and executes the runs that they are about."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from time import monotonic
from uuid import UUID

from runlane.aio import AsyncRunlane
from runlane.app import Runlane
from runlane.capabilities import Capability
from runlane.errors import ConfigurationInvalid, RunlaneError
from runlane.housekeeping import Housekeeper
from runlane.inline import Unwanted
from runlane.shown import shown, told
from runlane.sqs.backoff import Backoff
from runlane.sqs.faces import runlane_of, transport_of
from runlane.sqs.inflight import InFlight
from runlane.sqs.messages import Message
from runlane.sqs.polling import Poller
from runlane.stopping import stopped_by_signals, wait_heeding_signals
from runlane.tasks import Queue
from runlane.transport import Wakeup
from runlane.values import duration
from runlane.worker import STOP_TIMEOUT

log = logging.getLogger("runlane.sqs")

#: The longest that SQS keeps a message to one consumer.
_LONGEST = timedelta(hours=12)
#: Seconds for the last deletions of a stop, least (where its time is over) and most; what they miss is delivered once
#: more, and ignored.
_LAST = (0.5, 5.0)
#: Seconds between the times that handlers are told to stop: one may have begun just after the last.
_TELL = 0.5
#: Seconds for which what no handler is free for is kept from other consumers.  SQS counts how often a message was
#: received, and may have been told to put it aside for that: it is not to come and go all the time.
_LATE = 10.0
#: Seconds between maintenance passes.
_MAINTENANCE = 1.0


class SqsConsumer:
    """Executes runs as their wakeups arrive; ``run()`` in a process of its own, or ``start()`` and ``stop()``.

    A message is deleted when its delivery has come to an end, whether the run was executed or there was nothing to
    do.  If the database cannot be reached it is left, and SQS delivers it again after the visibility timeout.

    Args:
        app: a runtime whose lane has an ``SqsTransport``.
        queues: those to consume; else all of the runtime's.
        concurrency: the greatest number of handlers at once.
        wait_seconds: how long a poll waits for a message, 1 to 20; a graceful stop waits for the polls under way.
        visibility_timeout: how long SQS keeps a message from others, whole seconds, extended while its handler runs.
        maintenance: run ``tick()`` in the background, as a worker does.

    Raises:
        ConfigurationInvalid: naming the argument that is not valid.
    """

    def __init__(
        self,
        app: Runlane | AsyncRunlane,
        *,
        queues: Sequence[Queue] | None = None,
        concurrency: int = 10,
        wait_seconds: int = 20,
        visibility_timeout: timedelta | str = "60s",
        maintenance: bool = True,
    ) -> None:
        if type(concurrency) is not int or not 1 <= concurrency <= 1000:
            raise ConfigurationInvalid(f"concurrency must be an integer from 1 to 1000; got {shown(concurrency)}")
        if type(wait_seconds) is not int or not 1 <= wait_seconds <= 20:
            raise ConfigurationInvalid(f"wait_seconds must be an integer from 1 to 20; got {shown(wait_seconds)}")
        self._visibility = _whole_seconds(visibility_timeout)
        self._app = runlane_of(app)
        self._app.lane.require(Capability.LEASES_RUNS, "SqsConsumer")
        self._transport = transport_of(self._app)
        self._queues = _queues_of(self._app, queues)
        self._names = [queue.name for queue in self._queues]
        self._concurrency = concurrency
        self._wait = wait_seconds
        self._housekeeper = Housekeeper(self._app._runtime, _MAINTENANCE) if maintenance else None
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Message, Wakeup, float]] = deque()  # and since when
        self._executing: list[UUID] = []
        self._handlers = 0
        self._polling = 0
        self._stopping = self._cut = False
        self._until = 0.0  # when a stop is to have ended
        self._starting = threading.Lock()
        self._started = False
        self._closed = threading.Event()
        self._storage = Backoff()
        #: How many deliveries have come to an end, those with nothing to do included.
        self.completed = 0

    @property
    def closed(self) -> bool:
        """Whether the consumer has ended."""
        return self._closed.is_set()

    def start(self) -> None:
        """Begin to consume in the background.

        Raises:
            StorageUnavailable: the database cannot be reached.
            ConfigurationInvalid: it was started before, or an SQS queue does not exist.
        """
        with self._starting:
            if self._started:
                raise ConfigurationInvalid("a consumer can be started once; make another SqsConsumer(…)")
            if self._stopping:
                return
            self._app.start()
            if self._housekeeper is not None:
                self._housekeeper.start()
            self._in_flight = InFlight(self._transport.client, self._visibility)
            self._in_flight.start()
            self._started = True
            self._polling = len(self._queues)
            for queue in self._queues:
                poller = Poller(self._transport, queue.name, self._in_flight, self._wait, self._visibility)
                name = f"runlane-sqs-poll-{queue.name}"
                threading.Thread(target=self._poll, args=(poller,), name=name, daemon=True).start()
            threading.Thread(target=self._watch, name="runlane-sqs-consumer", daemon=True).start()

    def run(self) -> None:
        """Consume until stopped; SIGINT or SIGTERM stops it gracefully, a second one at once.

        Signals are heeded only in the main thread.

        Raises:
            StorageUnavailable: the database cannot be reached.
            ConfigurationInvalid: an SQS queue does not exist.
            InternalError: this is a forked child, which has none of the consumer's threads.
        """
        self._app._runtime._in_this_process()
        with stopped_by_signals(self.stop, self._cut_off):
            if not self._started:
                self.start()
            wait_heeding_signals(self._closed)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Stop gracefully: no new polls, messages whose handlers have not begun are made visible to others at once,
        handlers are told, and they and the polls under way get `timeout` seconds to end.

        What is cut off then is queued again (``run.interrupted``).

        Raises:
            InternalError: this is a forked child, which has none of the consumer's threads.
        """
        self._app._runtime._in_this_process()
        deadline = monotonic() + timeout
        with self._changed:
            self._until = deadline
            self._stopping = True
            unbegun = [message for message, _, _ in self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        with self._starting:  # a start under way ends first; a later one finds that it is not wanted
            if not self._started:
                self._closed.set()
                return
        self._in_flight.give_back(unbegun)
        while not self._closed.is_set() and (left := deadline - monotonic()) > 0:
            self._app._inline.stop(self._begun())
            self._closed.wait(min(left, _TELL))
        if not self._closed.is_set():
            self._cut_off()
            self._closed.wait()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the consumer has ended, at most `timeout` seconds; whether it has.

        Raises:
            InternalError: this is a forked child, which has none of the consumer's threads.
        """
        self._app._runtime._in_this_process()
        return self._closed.wait(timeout)

    def _begun(self) -> list[UUID]:
        with self._changed:
            return list(self._executing)

    def _cut_off(self) -> None:
        with self._changed:
            self._until = monotonic()
            self._stopping = self._cut = True
            self._changed.notify_all()

    def _watch(self) -> None:
        """Wait for the end, and clear up; whatever fails in that, who waits for the end hears of it."""
        try:
            with self._changed:
                while not (self._cut or (self._stopping and not (self._executing or self._polling))):
                    self._changed.wait(self._return_late())
            if self._cut:
                try:
                    self._app._inline.cut_off(self._begun())
                except RunlaneError as error:
                    log.warning("attempts could not be given back, their leases will expire: %s", error)
            least, most = _LAST
            self._in_flight.close(timeout=max(least, min(most, self._until - monotonic())))
            if self._housekeeper is not None:
                self._housekeeper.close()
        except BaseException:
            log.exception("the consumer could not clear up")
        finally:
            self._closed.set()

    def _return_late(self) -> float | None:
        """Give back what has waited for long while all handlers are busy; seconds until there may be more of it.

        Called with the lock held.
        """
        while self._waiting:
            message, _, since = self._waiting[0]
            if (left := since + _LATE - monotonic()) > 0:
                return left
            if len(self._executing) < self._concurrency:  # it is the database that they wait for
                return _LATE
            self._waiting.popleft()
            self._in_flight.give_back([message])
        return None

    def _poll(self, poller: Poller) -> None:
        try:
            while (room := self._room(poller.failures)) > 0:
                try:
                    self._enqueue(poller.poll(room))
                except Exception:  # as when the machine has no thread left
                    log.exception("a poll failed")
                    poller.failures.failed()
        finally:
            with self._changed:
                self._polling -= 1
                self._changed.notify_all()

    def _room(self, polls: Backoff) -> int:
        """How many handlers are free, once some are and nothing failed lately; 0 to end.

        Queues do not share them out: what several polls bring at once may wait here for a moment, kept invisible; what
        waits for longer goes back.
        Otherwise an idle queue's poll would hold handlers that a busy queue could use.
        """
        with self._changed:
            while not self._stopping:
                pause = max(polls.left(), self._storage.left())
                free = self._concurrency - len(self._executing) - len(self._waiting)
                if free > 0 and not pause:
                    return free
                self._changed.wait(pause or None)
            return 0

    def _enqueue(self, received: Sequence[tuple[Message, Wakeup]]) -> None:
        with self._changed:
            stopping = self._stopping
            if not stopping:
                now = monotonic()
                self._waiting.extend((message, wakeup, now) for message, wakeup in received)
                self._grow()
                self._changed.notify_all()
        if stopping:
            self._in_flight.give_back([message for message, _ in received])

    def _grow(self) -> None:
        """As many handler threads as there are messages for, up to the limit; called with the lock held."""
        wanted = min(self._concurrency, len(self._executing) + len(self._waiting))
        while self._handlers < wanted:
            # Daemons: a handler that ignores its signal must not keep the process from ending.
            name = f"runlane-sqs-handler-{self._handlers + 1}"
            threading.Thread(target=self._handle, name=name, daemon=True).start()
            self._handlers += 1

    def _handle(self) -> None:
        while (taken := self._next()) is not None:
            message, wakeup, _ = taken
            try:
                self._deliver(message, wakeup)
            finally:
                with self._changed:
                    self._executing.remove(wakeup.run_id)
                    self._changed.notify_all()

    def _next(self) -> tuple[Message, Wakeup, float] | None:
        with self._changed:
            while not self._stopping:
                pause = self._storage.left()
                if self._waiting and not pause:
                    taken = self._waiting.popleft()
                    self._executing.append(taken[1].run_id)
                    return taken
                self._changed.wait(pause or None)
            return None

    def _is_wanted(self) -> bool:
        return not self._stopping

    def _deliver(self, message: Message, wakeup: Wakeup) -> None:
        try:
            delivery = self._app._inline.execute_delivery(wakeup, self._names, self._is_wanted)
        except Unwanted:
            self._in_flight.give_back([message])
            return
        except Exception as error:
            log.warning("run %s: message %s is left to be delivered again: %s", wakeup.run_id, told(message.id), error)
            self._storage.failed()
            self._in_flight.leave(message)
            return
        self._storage.worked()
        self._in_flight.acknowledge(message)
        log.debug("run %s: %s %s", wakeup.run_id, delivery.outcome, delivery.reason or "")
        with self._changed:
            self.completed += 1


def _queues_of(app: Runlane, queues: Sequence[Queue] | None) -> list[Queue]:
    if queues is None:
        return list(app.registry.queues.values())
    names = dict.fromkeys(app.registry.registered(queue) for queue in queues)
    if not names:
        raise ConfigurationInvalid("queues must name at least one queue to consume")
    return [app.registry.queues[name] for name in names]


def _whole_seconds(value: timedelta | str) -> int:
    time = duration("visibility_timeout", value)
    if time % timedelta(seconds=1) or not timedelta(seconds=1) <= time <= _LONGEST:
        raise ConfigurationInvalid(f"visibility_timeout must be whole seconds, 1s to 12h; got {shown(value)}")
    return time // timedelta(seconds=1)
