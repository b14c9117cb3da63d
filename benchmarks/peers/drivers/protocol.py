"""What every driver speaks: the same commands, the same loops around the peer's calls, the same stamps.

A driver is a script that runs inside its peer's own environment, so nothing here needs more than the standard library.
``script.py COMMAND …`` works on the database that BENCH_DATABASE names and prints JSON, one object a line:

    meta                    versions, settings, and the SQL that counts its jobs
    setup                   create the peer's tables in an empty database
    single N                N jobs, one call and one commit after the other
    bulk N BATCH [BYTES]    N jobs in batches, each job with a payload of BYTES of JSON, or with none
    concurrent N CALLERS CONNECTIONS
                            N jobs by so many callers at once over a pool, each waiting for its call to return
    latency N GAP           N jobs that carry the moment they were sent, GAP seconds apart
    worker PURPOSE          says that it is ready, waits for a line, and works until it is ended; the purpose, drain or
                            latency, is for peers with no one setting that is best at both

The loops stand here once, so that no peer is timed in another way than the others.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from importlib.metadata import version
from typing import Any, Protocol

#: Calls before the clock starts: connections are open and statements prepared.
WARM_UP = 20


class Calls(Protocol):
    """Ways to enqueue no-op jobs; ``None`` is a job without a payload."""

    def enqueue(self, data: dict[str, Any] | None) -> Any:
        """One job, committed when this returns."""

    def enqueue_many(self, jobs: list[dict[str, Any] | None]) -> Any:
        """Many jobs at once, in the best way that the peer has."""


class Driver(Protocol):
    """A peer whose calls block; an ``AsyncDriver`` is the same with awaitable ones."""

    def setup(self) -> Any:
        """Create the tables."""

    def producing(self, connections: int) -> AbstractContextManager[Calls]:
        """A client with a pool of so many connections, if it has a say in that."""

    def work(self, start: Callable[[], None], purpose: str) -> Any:
        """Be a worker: connect, call `start`, then work on; `purpose` is ``drain`` or ``latency``."""


class AsyncCalls(Protocol):
    """``Calls`` to be awaited."""

    def enqueue(self, data: dict[str, Any] | None) -> Awaitable[Any]:
        """See ``Calls``."""

    def enqueue_many(self, jobs: list[dict[str, Any] | None]) -> Awaitable[Any]:
        """See ``Calls``."""


class AsyncDriver(Protocol):
    """A peer for asyncio."""

    async def setup(self) -> None:
        """See ``Driver``."""

    def producing(self, connections: int) -> AbstractAsyncContextManager[AsyncCalls]:
        """See ``Driver``."""

    async def work(self, start: Callable[[], Awaitable[None]], purpose: str) -> None:
        """See ``Driver``."""


def database() -> str:
    """The URL of the database to work on."""
    return os.environ["BENCH_DATABASE"]


def versions(*packages: str) -> dict[str, str]:
    """What is installed here, and the Python it runs on."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in packages}}


def began(data: dict[str, Any] | None) -> None:
    """The first line of every job: says how long ago a stamped job was sent."""
    if data is None:
        return
    now = time.monotonic_ns()
    if "sent_ns" in data:
        emit(delay_ms=(now - data["sent_ns"]) / 1e6)


def emit(**figures: Any) -> None:
    """One line of output."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def payload(size: int) -> dict[str, Any] | None:
    """A payload of `size` bytes of JSON; no payload if that is 0."""
    if size == 0:
        return None
    frame = len(json.dumps({"text": ""}, separators=(",", ":")))
    return {"text": "x" * (size - frame)}


def serve(meta: dict[str, Any], driver: Driver) -> None:
    """Carry out the command line on a peer whose calls block."""
    command, arguments = _command()
    if command == "meta":
        emit(**meta)
    elif command == "setup":
        driver.setup()
        emit(done=True)
    elif command == "worker":
        driver.work(_gate, arguments[0])
    else:
        with driver.producing(int(arguments[2]) if command == "concurrent" else 1) as calls:
            emit(**_PRODUCE[command](calls, *map(float, arguments)))


def serve_async(meta: dict[str, Any], driver: AsyncDriver) -> None:
    """Carry out the command line on a peer for asyncio, on uvloop where its environment has that."""
    try:
        from uvloop import run
    except ModuleNotFoundError:
        from asyncio import run

    command, arguments = _command()
    if command == "meta":
        emit(**meta)
    else:
        run(_serve_async(driver, command, arguments))


async def _serve_async(driver: AsyncDriver, command: str, arguments: list[str]) -> None:
    if command == "setup":
        await driver.setup()
        emit(done=True)
    elif command == "worker":
        await driver.work(lambda: asyncio.to_thread(_gate), arguments[0])
    else:
        async with driver.producing(int(arguments[2]) if command == "concurrent" else 1) as calls:
            emit(**await _PRODUCE_ASYNC[command](calls, *map(float, arguments)))


def _command() -> tuple[str, list[str]]:
    command, *rest = sys.argv[1:] or [""]
    if command not in ("meta", "setup", "worker", *_PRODUCE):
        raise SystemExit(f"no command {command!r}; there are meta, setup, worker, {', '.join(_PRODUCE)}")
    return command, rest


def _gate() -> None:
    emit(ready=True)
    sys.stdin.readline()


def _single(calls: Calls, jobs: float) -> dict[str, float]:
    for _ in range(WARM_UP):
        calls.enqueue(None)
    start = time.perf_counter()
    for _ in range(int(jobs)):
        calls.enqueue(None)
    return _timed(jobs, time.perf_counter() - start, WARM_UP)


async def _single_async(calls: AsyncCalls, jobs: float) -> dict[str, float]:
    for _ in range(WARM_UP):
        await calls.enqueue(None)
    start = time.perf_counter()
    for _ in range(int(jobs)):
        await calls.enqueue(None)
    return _timed(jobs, time.perf_counter() - start, WARM_UP)


def _batches(jobs: float, batch: float, size: float) -> Iterator[list[dict[str, Any] | None]]:
    data = payload(int(size))
    for first in range(0, int(jobs), int(batch)):
        yield [data] * min(int(batch), int(jobs) - first)


def _bulk(calls: Calls, jobs: float, batch: float, size: float = 0) -> dict[str, float]:
    start = time.perf_counter()
    for some in _batches(jobs, batch, size):
        calls.enqueue_many(some)
    return _timed(jobs, time.perf_counter() - start)


async def _bulk_async(calls: AsyncCalls, jobs: float, batch: float, size: float = 0) -> dict[str, float]:
    start = time.perf_counter()
    for some in _batches(jobs, batch, size):
        await calls.enqueue_many(some)
    return _timed(jobs, time.perf_counter() - start)


def _concurrent(calls: Calls, jobs: float, callers: float, connections: float) -> dict[str, float]:
    def caller(share: int) -> list[float]:
        delays = []
        for _ in range(share):
            start = time.perf_counter()
            calls.enqueue(None)
            delays.append(time.perf_counter() - start)
        return delays

    shares = _shares(jobs, callers)
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(caller, [2] * len(shares)))  # connections and prepared statements
        start = time.perf_counter()
        delays = list(itertools.chain.from_iterable(pool.map(caller, shares)))
        seconds = time.perf_counter() - start
    return _timed(len(delays), seconds, 2 * len(shares)) | _percentiles(delays)


async def _concurrent_async(calls: AsyncCalls, jobs: float, callers: float, connections: float) -> dict[str, float]:
    async def caller(share: int) -> list[float]:
        delays = []
        for _ in range(share):
            start = time.perf_counter()
            await calls.enqueue(None)
            delays.append(time.perf_counter() - start)
        return delays

    shares = _shares(jobs, callers)
    await asyncio.gather(*[caller(2) for _ in shares])
    start = time.perf_counter()
    delays = list(itertools.chain.from_iterable(await asyncio.gather(*map(caller, shares))))
    return _timed(len(delays), time.perf_counter() - start, 2 * len(shares)) | _percentiles(delays)


def _shares(jobs: float, callers: float) -> list[int]:
    return [max(1, int(jobs) // int(callers))] * int(callers)


def _latency(calls: Calls, jobs: float, gap: float) -> dict[str, float]:
    for _ in range(int(jobs)):
        calls.enqueue({"sent_ns": time.monotonic_ns()})
        time.sleep(gap)
    return {"jobs": jobs}


async def _latency_async(calls: AsyncCalls, jobs: float, gap: float) -> dict[str, float]:
    for _ in range(int(jobs)):
        await calls.enqueue({"sent_ns": time.monotonic_ns()})
        await asyncio.sleep(gap)
    return {"jobs": jobs}


def _timed(jobs: float, seconds: float, besides: int = 0) -> dict[str, float]:
    return {"jobs": int(jobs), "stored": int(jobs) + besides, "seconds": seconds}


def _percentiles(delays: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(delays, n=100, method="inclusive")
    return {"p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}


_PRODUCE: dict[str, Callable[..., dict[str, float]]] = {
    "single": _single,
    "bulk": _bulk,
    "concurrent": _concurrent,
    "latency": _latency,
}
_PRODUCE_ASYNC: dict[str, Callable[..., Awaitable[dict[str, float]]]] = {
    "single": _single_async,
    "bulk": _bulk_async,
    "concurrent": _concurrent_async,
    "latency": _latency_async,
}
