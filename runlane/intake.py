"""Triggers of one process, with as few commits for them as there can be.

Whoever comes while nobody is at the database goes there at once; those who come meanwhile wait, and the next one takes
all of them along in one transaction.  So a lone caller waits for nobody, and the batches grow with the load by
themselves.  Each caller gets its own outcome, and its own error.

Only plain runs go together: what has a key may have to wait for somebody else's transaction, and nobody else should.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from runlane.bridge import ThreadCalls
from runlane.engine.trigger import (
    NewRun,
    Triggered,
    are_alike,
    is_plain,
    sealed,
    shown,
    trigger,
    trigger_alike,
    trigger_unless_done,
)
from runlane.errors import ConfigurationInvalid, RunlaneError, StorageConflict, StorageUnavailable
from runlane.pouring import PART, can_pour, pour
from runlane.requests import Trigger, build, each, entries, listed, maker
from runlane.runtime import Runtime
from runlane.storage import commits
from runlane.storage.borrow import joined
from runlane.tasks import Task
from runlane.values import TriggerOutcome

#: The most runs of one transaction.
_MOST = 1000


class _Request:
    """One run that somebody waits for; `leads` says that it is its turn to go to the database."""

    __slots__ = ("leads", "new", "outcome")

    def __init__(self, new: NewRun) -> None:
        self.new = new
        self.leads = False
        self.outcome: Triggered | BaseException | None = None

    def lead(self) -> None:
        """Go, or have somebody go, to the database."""
        raise NotImplementedError


class _Blocking(_Request):
    """Of a caller whose thread waits, and goes itself."""

    __slots__ = ("woken",)

    def __init__(self, new: NewRun) -> None:
        super().__init__(new)
        self.woken = threading.Lock()
        self.woken.acquire()

    def lead(self) -> None:
        if self.woken.locked():  # it may be told twice
            self.woken.release()


class _Awaiting(_Request):
    """Of a caller on an event loop, for whom another thread goes."""

    __slots__ = ("_steps", "future", "loop")

    def __init__(self, new: NewRun, threads: ThreadCalls, go: Callable[[], None]) -> None:
        super().__init__(new)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Triggered] = self.loop.create_future()
        self._steps = [(threads, go)]

    def lead(self) -> None:
        try:
            threads, go = self._steps.pop()
        except IndexError:  # it may be told twice
            return
        threads.submit(go)


class Intake:
    """Creates plain runs for any number of callers at once."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._leader: _Request | None = None
        self._batch: list[_Request] = []
        self._commit = partial(create, runtime)

    def ask(self, asked: Trigger, connection: Any = None) -> Triggered:
        """Create a run, or find the owner of its key; blocks, and raises as ``Runlane.trigger``."""
        new = build(self._runtime.registry, asked)
        if connection is not None or not is_plain(new):
            return self.ask_all([new], connection)[0]
        self._runtime.start_to_work(looks=False)  # what is plain has no keys that the lane would have to enforce
        return self._create(new)

    async def submit(self, asked: Trigger, threads: ThreadCalls) -> Triggered:
        """The same for a caller on an event loop."""
        threads.require()
        new = build(self._runtime.registry, asked)
        if not is_plain(new):
            return (await threads(self.ask_all, [new]))[0]
        self._runtime.start_to_work(looks=False)
        request = _Awaiting(new, threads, self._go)
        if self._comes_first(request):
            request.lead()
        return await request.future

    def ask_many(
        self, task: Task[..., Any] | str | Iterable[Trigger], payloads: Iterable[Any] | None, connection: Any = None
    ) -> list[Triggered]:
        """Create many runs, all or none; blocks, and raises as ``Runlane.trigger_many``."""
        runtime = self._runtime
        if isinstance(task, (Task, str)):
            payloads = listed(payloads)
            if connection is None and len(payloads) > PART and can_pour(runtime.database):
                make = maker(runtime.registry, task)
                if make is not None:
                    runtime.start_to_work()
                    return pour(runtime, make, payloads)
        wanted = list(each(partial(build, runtime.registry), entries(task, payloads)))
        return self.ask_all(wanted, connection) if wanted else []

    def ask_all(self, wanted: Sequence[NewRun], connection: Any = None) -> list[Triggered]:
        """Create runs in a transaction of their own, or in the caller's.

        Raises:
            ConfigurationInvalid: the memory lane, not yet started, is to be joined.
        """
        runtime = self._runtime
        if connection is not None and runtime.database.is_memory and not runtime.started:
            # To start needs the one connection that there is, and would wait for it until the pool gives up.
            raise ConfigurationInvalid("a transaction on the memory lane cannot be joined before app.start() is called")
        for new in wanted:
            runtime.lane.require_keys(new.created)
        runtime.start_to_work(looks=False)
        if connection is not None:
            with joined(runtime.database, connection, runtime.clock) as tx:
                runtime.require_codec(tx)
                stored = sealed(runtime.vault, runtime.environment, wanted, tx)
                done = trigger(tx, runtime.environment, stored)
                return shown(runtime.vault, wanted, done, tx)
        return create(self._runtime, wanted)

    def _create(self, new: NewRun) -> Triggered:
        request = _Blocking(new)
        try:
            if not self._comes_first(request):
                request.woken.acquire()
            if request.outcome is None:
                self._go()
        except BaseException:  # Ctrl-C: nobody waits for this run any more
            self._leave(request)
            raise
        if isinstance(request.outcome, Triggered):
            return request.outcome
        raise request.outcome or AssertionError("unreachable")

    def _comes_first(self, request: _Request) -> bool:
        """Let a request wait; whether nobody is at the database, so that it goes itself."""
        with self._lock:
            first = self._leader is None
            if first:
                request.leads, self._leader = True, request
            self._waiting.append(request)
        return first

    def _go(self) -> None:
        """Commit what waits, and hand over to somebody who came meanwhile."""
        with self._lock:
            leader = self._leader
            while self._waiting and len(self._batch) < _MOST:
                self._batch.append(self._waiting.popleft())
        try:
            self._settle(self._batch)
            self._hand_over(leader)
        except BaseException:
            self._recover(leader)
            raise

    def _hand_over(self, leader: _Request | None) -> None:
        """Let somebody else lead, if `leader` still does; may be begun again where it was interrupted."""
        with self._lock:
            if leader is None or self._leader is not leader:
                return
            self._batch = []
            following = self._waiting[0] if self._waiting else None
            if following is not None:
                following.leads = True
            self._leader = following
        if following is not None:
            following.lead()

    def _leave(self, request: _Request) -> None:
        with self._lock:
            if request in self._waiting:
                self._waiting.remove(request)
        if request.leads:
            self._recover(request)

    def _recover(self, leader: _Request | None) -> None:
        """After an interrupt: whoever was taken along is told, and somebody else leads."""
        if leader is not None and self._leader is leader:
            _wake(self._batch, self._runtime.lane.database.where)
            self._hand_over(leader)
        elif (following := self._leader) is not None:
            following.lead()

    def _settle(self, batch: Sequence[_Request]) -> None:
        """Commit, and let everybody know."""
        try:
            self._store(batch)
        finally:
            _wake(batch, self._runtime.lane.database.where)

    def _store(self, batch: Sequence[_Request]) -> None:
        try:
            for request, done in zip(batch, self._commit([request.new for request in batch]), strict=True):
                request.outcome = done
        except RunlaneError as error:
            self._tell_apart(batch, error)
        except Exception as error:  # of a clock or a codec of the application's
            if len(batch) > 1:
                raise
            batch[0].outcome = error

    def _tell_apart(self, batch: Sequence[_Request], error: RunlaneError) -> None:
        """To each its own error, if it is one of the database, which all of them have; else find out whose it is."""
        if len(batch) == 1:
            batch[0].outcome = error
        elif error.retryable and isinstance(error, (StorageConflict, StorageUnavailable)):
            for request in batch:
                request.outcome = commits.of_one(error, request.new.id, self._runtime.database.where)
        else:
            middle = len(batch) // 2
            self._store(batch[:middle])
            self._store(batch[middle:])


def create(runtime: Runtime, wanted: Sequence[NewRun]) -> list[Triggered]:
    """Create runs in one transaction, all or none, and wake workers for them."""
    database, environment = runtime.database, runtime.environment
    runtime.start_to_work()
    asked, wanted = wanted, sealed(runtime.vault, environment, wanted)
    if database.stamps and runtime.clock is None and not database.publishes and are_alike(wanted):
        done = database.state(
            lambda tx: trigger_alike(tx, environment, wanted),
            lambda tx: trigger_unless_done(tx, environment, wanted),
            [new.id for new in wanted],
        )
    else:
        done = database.transact(lambda tx: trigger(tx, environment, wanted), runtime.clock)
    runtime.announce([one.run for one in done if one.outcome is TriggerOutcome.CREATED])
    return shown(runtime.vault, asked, done)


def _wake(batch: Sequence[_Request], where: str) -> None:
    of_loops: dict[asyncio.AbstractEventLoop, list[_Awaiting]] = defaultdict(list)
    for request in batch:
        if request.outcome is None:  # the thread that went was interrupted in the middle
            request.outcome = commits.unknown([request.new.id], where)
        if isinstance(request, _Awaiting):
            of_loops[request.loop].append(request)
        elif isinstance(request, _Blocking) and request.woken.locked():
            request.woken.release()
    for loop, requests in of_loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, requests)
        except RuntimeError:  # it was closed meanwhile, and nobody waits there
            continue


def _resolve(requests: Sequence[_Awaiting]) -> None:
    for request in requests:
        if request.future.done():  # cancelled
            continue
        if isinstance(request.outcome, Triggered):
            request.future.set_result(request.outcome)
        elif request.outcome is not None:
            request.future.set_exception(request.outcome)
