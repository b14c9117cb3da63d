"""One thread, many actors: who goes on next is drawn, and time moves only when everybody waits.

An actor is a fiber (a greenlet): code of the product that runs until it comes to a transaction, or has to wait, and
then hands over to the kernel.  `Lock`, `Condition`, `Thread` and so on are what the product takes for those of
``threading``; `patching` sees to that.  Nothing here sleeps, and nothing depends on anything but the seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet


class Crash(BaseException):
    """The process is dead: raised in all that it was doing, wherever it goes on."""


class Process:
    """A process as the kernel knows it: it lives, or is stopped for a while, or does not reach the database."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen_until = 0.0
        self.away_until = 0.0
        self.fibers: dict[Fiber, None] = {}
        self.app: Any = None
        self.worker: Any = None


class Fiber(greenlet):
    """One thread of a process."""

    def __init__(self, kernel: Kernel, process: Process, work: Callable[[], object], name: str) -> None:
        super().__init__(self._main, kernel.hub)
        self.kernel, self.process, self.work, self.name = kernel, process, work, name
        self.ticket = 0  # of the wait under way; timers of earlier ones are void
        self.parked = False
        self.woken = False
        self.ended = False
        self.away_until = 0.0
        self.joiners: list[Fiber] = []

    def _main(self) -> None:
        try:
            if self.process.alive:
                self.work()
        except Crash:
            pass
        except BaseException as error:
            if self.process.alive:  # of the dead nobody hears any more
                self.kernel.fail(error)
        finally:
            self.ended = True
            self.process.fibers.pop(self, None)
            for joiner in self.joiners:
                self.kernel.wake(joiner)


class Kernel:
    """The scheduler, its clock, and the fibers that are ready.

    Args:
        rng: draws who goes on, and how long everything takes.
        moved: called with the seconds by which time has moved.
    """

    def __init__(self, rng: Random, moved: Callable[[float], object]) -> None:
        self.hub = getcurrent()
        self.rng = rng
        self.now = 1000.0
        self.current: Fiber | None = None
        #: The first thing that went wrong.
        self.error: BaseException | None = None
        self._moved = moved
        self._ready: list[Fiber] = []
        self._timers: list[tuple[float, int, Fiber | Callable[[], object], int, bool]] = []
        self._numbers = 0

    # -- from outside of all fibers

    def spawn(self, process: Process, work: Callable[[], object], name: str) -> Fiber:
        """Begin a fiber; it runs when it is drawn."""
        fiber = Fiber(self, process, work, name)
        process.fibers[fiber] = None
        self._ready.append(fiber)
        return fiber

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call something after so many seconds, outside of all fibers; it must not wait."""
        self._at(self.now + seconds, call, 0, False)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Let fibers go on until it is over, something has gone wrong, or nobody ever will."""
        while self.error is None and not is_over():
            fiber = self._next()
            if fiber is None:
                return
            self.current = fiber
            fiber.switch()
            self.current = None

    def kill(self, process: Process) -> None:
        """Nothing that the process was doing goes on; what it has open is let go of."""
        process.alive = False
        for fiber in process.fibers:
            if fiber is not self.current and fiber.parked:
                self._make_ready(fiber, False)

    def end(self, processes: Iterable[Process]) -> None:
        """Kill these, and let all that they were doing unwind."""
        known = list(processes)
        for process in known:
            self.kill(process)
        error, self.error = self.error, None
        self._timers = [timer for timer in self._timers if isinstance(timer[2], Fiber)]
        while self.error is None and any(process.fibers for process in known) and self._ready:
            self.run(lambda: not self._ready)
        self.error = error or self.error

    def fail(self, error: BaseException) -> None:
        """Note what has gone wrong; the first of it counts."""
        if self.error is None:
            self.error = error

    # -- from inside of a fiber

    def boundary(self) -> None:
        """Before or after a transaction: others may go on, and time may pass."""
        draw = self.rng.random()
        if draw < 0.6:
            # With nobody else to go on there is nothing to draw.
            if self._ready or self._mine().process.frozen_until > self.now:
                self._pass()
        elif draw < 0.98:
            self.park(self.now + (draw - 0.6) * 0.1)
        else:
            self.park(self.now + self.rng.random() * 4.0)

    def sleep(self, seconds: float) -> None:
        """Go on after so many seconds."""
        self.park(self.now + seconds)

    def park(self, at: float | None) -> bool:
        """Wait until somebody wakes this fiber, or until an instant; whether it was woken."""
        fiber = self._mine()
        fiber.ticket += 1
        fiber.parked = True
        if at is not None:
            self._at(at, fiber, fiber.ticket, False)
        self._away(fiber)
        return fiber.woken

    def wake(self, fiber: Fiber) -> None:
        """Let a fiber that waits go on."""
        if fiber.parked:
            self._make_ready(fiber, True)

    @property
    def is_dead(self) -> bool:
        """Whether the process of the fiber that runs is dead."""
        return self.current is not None and not self.current.process.alive

    def _mine(self) -> Fiber:
        fiber = self.current
        if fiber is None:
            raise RuntimeError("only a fiber can wait")
        if not fiber.process.alive:
            raise Crash
        return fiber

    def _pass(self) -> None:
        fiber = self._mine()
        self._ready.append(fiber)
        self._away(fiber)

    def _away(self, fiber: Fiber) -> None:
        self.hub.switch()
        if not fiber.process.alive:
            raise Crash

    # -- who goes on

    def _make_ready(self, fiber: Fiber, woken: bool) -> None:
        fiber.ticket += 1
        fiber.parked = False
        fiber.woken = woken
        self._ready.append(fiber)

    def _at(self, at: float, what: Fiber | Callable[[], object], ticket: int, woken: bool) -> None:
        self._numbers += 1
        heappush(self._timers, (at, self._numbers, what, ticket, woken))

    def _next(self) -> Fiber | None:
        while True:
            while self._ready:
                place = int(self.rng.random() * len(self._ready))
                fiber = self._ready[place]
                self._ready[place] = self._ready[-1]
                self._ready.pop()
                process = fiber.process
                if process.frozen_until > self.now and process.alive:
                    fiber.ticket += 1
                    fiber.parked = True
                    self._at(process.frozen_until, fiber, fiber.ticket, fiber.woken)
                    continue
                return fiber
            if not self._timers:
                return None
            self._pass_time()
            if self.error is not None:
                return None

    def _pass_time(self) -> None:
        """To the next instant at which something is due, and all that is due then."""
        at = self._timers[0][0]
        if at > self.now:
            self._moved(at - self.now)
            self.now = at
        while self._timers and self._timers[0][0] <= self.now:
            _, _, what, ticket, woken = heappop(self._timers)
            if not isinstance(what, Fiber):
                what()
            elif what.parked and what.ticket == ticket:
                self._make_ready(what, woken)


#: The one that the primitives below belong to.
_kernels: list[Kernel] = []


def activate(kernel: Kernel) -> None:
    """From now on the primitives are this kernel's."""
    _kernels[:] = [kernel]


def kernel() -> Kernel:
    """The kernel at work."""
    return _kernels[0]


class RLock:
    """As of ``threading``, for fibers."""

    reentrant = True

    def __init__(self) -> None:
        self._owner: Any = None
        self._count = 0
        self._line: deque[Fiber] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it; whoever is dead gets whatever it wants, as nobody sees that any more."""
        own = kernel()
        if own.is_dead:
            return True
        me = own.current or own
        if self.reentrant and self._owner is me:
            self._count += 1
            return True
        deadline = None if timeout is None or timeout < 0 else own.now + timeout
        while self._count:
            if not blocking or (deadline is not None and own.now >= deadline):
                return False
            if own.current is None:
                raise RuntimeError("a lock is held across a transaction that the kernel itself would wait for")
            self._line.append(own.current)
            own.park(deadline)
            if own.current in self._line:
                self._line.remove(own.current)
        self._owner, self._count = me, 1
        return True

    def release(self) -> None:
        """Give it back."""
        own = kernel()
        if own.is_dead:
            return
        self._count -= 1
        if self._count == 0:
            self._owner = None
            if self._line:
                own.wake(self._line.popleft())

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._count > 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Lock(RLock):
    """As of ``threading``, for fibers."""

    reentrant = False


class Condition:
    """As of ``threading``, for fibers."""

    def __init__(self, lock: RLock | None = None) -> None:
        self._lock = lock or RLock()
        self._line: list[Fiber] = []
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until told, or until the time is over."""
        own = kernel()
        me = own._mine()
        held, self._lock._count, self._lock._owner = self._lock._count, 0, None
        if self._lock._line:
            own.wake(self._lock._line.popleft())
        self._line.append(me)
        try:
            return own.park(None if timeout is None else own.now + max(0.0, timeout))
        finally:
            if me in self._line:
                self._line.remove(me)
            if not own.is_dead:
                self._lock.acquire()
                self._lock._count = held

    def notify(self, n: int = 1) -> None:
        """Tell so many of those who wait."""
        for fiber in self._line[:n]:
            self._line.remove(fiber)
            kernel().wake(fiber)

    def notify_all(self) -> None:
        """Tell all of them."""
        self.notify(len(self._line))


class Event:
    """As of ``threading``, for fibers."""

    def __init__(self) -> None:
        self._set = False
        self._line: list[Fiber] = []

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._set

    def set(self) -> None:
        """It happens."""
        self._set = True
        line, self._line = self._line, []
        for fiber in line:
            kernel().wake(fiber)

    def clear(self) -> None:
        """It has not happened."""
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for it; whether it has happened."""
        own = kernel()
        if self._set:
            return True
        me = own._mine()
        self._line.append(me)
        own.park(None if timeout is None else own.now + max(0.0, timeout))
        if me in self._line:
            self._line.remove(me)
        return self._set


class Thread:
    """As of ``threading``: a fiber of the process that starts it."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str = "thread",
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self.name, self.daemon = name, daemon
        self._call = lambda: None if target is None else target(*args, **(kwargs or {}))
        self._fiber: Fiber | None = None

    def start(self) -> None:
        """Begin."""
        own = kernel()
        self._fiber = own.spawn(own._mine().process, self._call, self.name)

    @property
    def ident(self) -> int | None:
        """A number once it has begun."""
        return None if self._fiber is None else id(self._fiber)

    def is_alive(self) -> bool:
        """Whether it has begun and not ended."""
        return self._fiber is not None and not self._fiber.ended

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or the time is over."""
        own = kernel()
        if self._fiber is not None and not self._fiber.ended:
            self._fiber.joiners.append(own._mine())
            own.park(None if timeout is None else own.now + max(0.0, timeout))


class SimpleQueue:
    """As of ``queue``, for fibers."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._line: list[Fiber] = []

    @classmethod
    def __class_getitem__(cls, _: object) -> type[SimpleQueue]:
        return cls

    def put(self, item: Any) -> None:
        """Add an item."""
        self._items.append(item)
        if self._line:
            kernel().wake(self._line.pop(0))

    def get(self) -> Any:
        """Wait for an item, and take it."""
        own = kernel()
        while not self._items:
            me = own._mine()
            self._line.append(me)
            own.park(None)
            if me in self._line:
                self._line.remove(me)
        return self._items.popleft()

    def empty(self) -> bool:
        """Whether there is none."""
        return not self._items

    def qsize(self) -> int:
        """How many there are."""
        return len(self._items)


class Threading:
    """What the product has for the module ``threading``."""

    Condition, Event, Lock, RLock, Thread = Condition, Event, Lock, RLock, Thread

    @staticmethod
    def current_thread() -> object:
        """The fiber that runs."""
        return kernel().current

    @staticmethod
    def main_thread() -> object:
        """None of them."""
        return None


class Time:
    """What the product has for the module ``time``."""

    @staticmethod
    def sleep(seconds: float) -> None:
        """Let virtual time pass."""
        kernel().sleep(seconds)

    @staticmethod
    def monotonic() -> float:
        """Virtual seconds."""
        return kernel().now

    perf_counter = monotonic
