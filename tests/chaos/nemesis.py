"""Breaks things at random, and counts what it broke."""

from __future__ import annotations

import heapq
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Set
from itertools import count
from typing import Any, Protocol

from attrs import frozen

from tests.chaos.nursery import Nursery
from tests.chaos.pooler import OwnBouncer
from tests.chaos.proxy import Proxy
from tests.chaos.server import OwnPostgres

#: How often each fault happens, in a second.
ON_POSTGRES: Mapping[str, float] = {
    "worker_kill": 2.0,
    "worker_pause": 0.8,
    "worker_stop": 0.15,
    "client_kill": 0.1,
    "backend_terminate": 0.5,
    "backend_kill": 0.02,
    "postmaster_kill": 0.05,
    "postmaster_quit": 0.02,
    "proxy_cut": 0.5,
    "proxy_half_open": 0.15,
    "proxy_swallow": 0.3,
    "proxy_delay": 0.3,
}
#: The same beside those, where a part of the processes is behind PgBouncer.
BEHIND_PGBOUNCER: Mapping[str, float] = {"pgbouncer_kill": 0.08, "pgbouncer_pause": 0.08}
ON_SQLITE: Mapping[str, float] = {
    "worker_kill": 4.0,
    "worker_pause": 0.5,
    "worker_stop": 0.15,
    "client_kill": 0.4,
}
#: Seconds that a worker gets to stop when it is asked to: its handlers take one, a database may be away.
_STOPPING = 50.0


class Cast(Protocol):
    """Who makes new processes."""

    def worker(self, beside: Set[int]) -> int:
        """A new worker beside those that are there; its id."""

    def client(self) -> int:
        """A new client; its id."""


@frozen
class Stage:
    """What can be broken; `ready` are the processes that have begun to work, others are seldom worth it.

    Of those that are `busy`, in the middle of an attempt, one is paused if there is any: it has something to say when
    it goes on, and is too late.
    """

    nursery: Nursery
    cast: Cast
    lease: float
    ready: Callable[[], set[int]]
    server: OwnPostgres | None = None
    proxy: Proxy | None = None
    database: str = ""
    pooler: OwnBouncer | None = None
    busy: Callable[[], set[int]] = set


class Nemesis:
    """Keeps so many workers and clients alive, and breaks what it can reach."""

    def __init__(
        self, stage: Stage, rates: Mapping[str, float], rng: random.Random, workers: int, clients: int
    ) -> None:
        self._stage = stage
        self._rates = rates
        self._rng = rng
        self._wanted = workers, clients
        self.workers: set[int] = set()
        self.clients: set[int] = set()
        self._paused: set[int] = set()
        self._stopping: dict[int, float] = {}
        self._condemned: set[int] = set()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self.tally: Counter[str] = Counter()
        #: Processes that ended as they should not have, or would not end.
        self.findings: list[str] = []

    def rage(self, seconds: float) -> None:
        """Break things for so long: one of each kind first, then at random."""
        until = time.monotonic() + seconds
        total = sum(self._rates.values())
        first = [kind for kind in self._rng.sample(sorted(self._rates), len(self._rates)) if not self.tally[kind]]
        following = time.monotonic() + self._rng.expovariate(total)
        while (now := time.monotonic()) < until:
            self.look(clients=True)
            if now >= following:
                kind = first.pop() if first else self._any_kind()
                if not self._strikes(kind) and not self.tally[kind]:
                    first.insert(0, kind)
                    self._strikes(self._any_kind())  # whoever comes in its place may be one that it is possible for
                following = max(following, now - 1.0) + self._rng.expovariate(total)
            next_due = self._due[0][0] if self._due else until
            time.sleep(max(0.0, min(following, next_due, now + 0.05, until) - time.monotonic()))

    def _any_kind(self) -> str:
        return self._rng.choices(list(self._rates), list(self._rates.values()))[0]

    def _strikes(self, kind: str) -> bool:
        struck = self._strike(kind)
        self.tally[kind] += struck
        return struck

    def owes(self) -> bool:
        """Whether there is a kind of fault that has not been possible so far."""
        return not all(self.tally[kind] for kind in self._rates)

    def relent(self) -> None:
        """Let everything live again."""
        self._due.clear()
        for pid in list(self._paused):
            self._go_on(pid)
        if self._stage.proxy is not None:
            self._stage.proxy.heal()
        if self._stage.server is not None:
            self._stage.server.start()
        if self._stage.pooler is not None:
            self._stage.pooler.start()

    def look(self, workers: bool = True, clients: bool = False) -> None:
        """See who has ended, do what is due, and send others in their places, if such are wanted."""
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        for pid, code in self._stage.nursery.ends().items():
            self._ended(pid, code)
        for pid, deadline in list(self._stopping.items()):
            if time.monotonic() > deadline:
                del self._stopping[pid]
                self.findings.append(f"worker {pid} did not stop within {_STOPPING:g} s; errors.log has its stacks")
                self._stage.nursery.signal(pid, signal.SIGUSR1)
                time.sleep(0.5)  # to write them
                self._kill(pid)
        most_workers, most_clients = self._wanted
        while workers and len(self.workers) < most_workers:
            self.workers.add(self._stage.cast.worker(self.workers))
        while clients and len(self.clients) < most_clients:
            self.clients.add(self._stage.cast.client())

    def stop_all(self) -> None:
        """Ask every worker to stop, and wait until they have; clients end by themselves."""
        for pid in list(self.workers):
            self._stop(pid)
        deadline = time.monotonic() + _STOPPING + 5
        while (self._stopping or self.clients) and time.monotonic() < deadline:
            self.look(workers=False)
            time.sleep(0.01)
        self.findings += [f"client {pid} did not end" for pid in self.clients]

    def _ended(self, pid: int, code: int) -> None:
        expected = pid in self._condemned or (pid in self._stopping and code in (0, -signal.SIGTERM))
        if pid in self.clients:
            expected = expected or code == 0
        if not expected:
            self.findings.append(f"process {pid} ended with {code}, which nobody had asked for")
        for known in (self.workers, self.clients, self._paused, self._condemned):
            known.discard(pid)
        if self._stopping.pop(pid, None) is not None and pid not in self._condemned:
            self.tally["stopped_gracefully"] += code == 0

    def _strike(self, kind: str) -> bool:
        """Do it; whether that was possible."""
        what = getattr(self, f"_{kind.partition('_')[0]}")
        return bool(what(kind.partition("_")[2]))

    def _worker(self, how: str) -> bool:
        known = self.workers if self._rng.random() < 0.1 else self.workers & self._stage.ready()
        awake = sorted(known - self._paused - self._condemned)
        if how == "kill":
            awake = sorted(known - self._condemned)  # also one that stands still
        elif how == "pause" and len(self._paused) >= self._wanted[0] // 2:
            return False
        if not awake:
            return False
        if how == "pause":
            awake = sorted(self._stage.busy() & set(awake)) or awake
        pid = self._rng.choice(awake)
        if how == "kill":
            self._kill(pid)
        elif how == "pause":
            self._pause(pid)
        else:
            self._stop(pid)
        return True

    def _client(self, how: str) -> bool:
        alive = sorted(self.clients - self._condemned)
        if not alive:
            return False
        self._kill(self._rng.choice(alive))
        return True

    def _backend(self, how: str) -> bool:
        server = self._stage.server
        assert server is not None
        strike = server.kill_backend if how == "kill" else server.terminate_backend
        try:
            return strike(self._stage.database)
        except Exception:  # the server may be on its knees already
            return False

    def _postmaster(self, how: str) -> bool:
        server = self._stage.server
        assert server is not None
        server.kill(signal.SIGKILL if how == "kill" else signal.SIGQUIT)
        time.sleep(self._rng.uniform(0, 1.0))
        self.tally["seconds_of_restarts"] += round(server.start())
        return True

    def _pgbouncer(self, how: str) -> bool:
        pooler = self._stage.pooler
        assert pooler is not None
        if how == "pause":
            if not pooler.pause():
                return False
            self._later(self._rng.uniform(0.5, 5.0), pooler.resume)
            return True
        pooler.kill()
        time.sleep(self._rng.uniform(0, 1.0))
        pooler.start()
        return True

    def _proxy(self, how: str) -> bool:
        assert self._stage.proxy is not None
        seconds = self._rng.uniform(0.05, 0.5) if how == "delay" else self._rng.uniform(0.5, 12.0)
        return self._stage.proxy.strike(how, seconds)

    def _kill(self, pid: int) -> None:
        self._condemned.add(pid)
        self.workers.discard(pid)
        self._stage.nursery.signal(pid, signal.SIGKILL)

    def _pause(self, pid: int) -> None:
        """For longer than its lease, as a machine that sleeps or is short of memory would."""
        self._paused.add(pid)
        self._stage.nursery.signal(pid, signal.SIGSTOP)
        self._later(self._stage.lease * self._rng.uniform(1.1, 1.8), lambda: self._go_on(pid))

    def _go_on(self, pid: int) -> None:
        if pid in self._paused:
            self._paused.discard(pid)
            self._stage.nursery.signal(pid, signal.SIGCONT)

    def _stop(self, pid: int) -> None:
        self._go_on(pid)
        self.workers.discard(pid)
        self._stopping[pid] = time.monotonic() + _STOPPING
        self._stage.nursery.signal(pid, signal.SIGTERM)

    def _later(self, seconds: float, what: Callable[[], Any]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), what))
