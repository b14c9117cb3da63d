"""What is measured on a peer.

The figures come from the database, watched from outside, or from stamps that all drivers take in the same lines; what
a driver says it has stored is counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from attrs import frozen

from benchmarks.peers.driven import Driven, DriverFailed, Worker
from benchmarks.peers.server import Database

Figures = dict[str, float]

BATCHES = (100, 1000, 5000)
CALLERS = 64
CONNECTIONS = (4, 8, 16)
PAYLOAD = 178  # bytes of JSON
_PRELOAD = 1000  # jobs in a batch before a drain
_SAMPLES = 200
_GAP = 0.03  # seconds between two stamped jobs
_FIRST = 5  # stamped jobs that wake everything up and are not counted
_LOOK = 0.02  # seconds between two looks at a drain
_SHARE = 10  # a look that takes t seconds is followed by a pause of at least _SHARE times t
_PATIENCE = 600.0  # seconds for a drain


@frozen
class Sizes:
    """How large the measurements are: jobs of a drain and of a bulk enqueue; the others follow from it."""

    runs: int = 20_000

    @property
    def single(self) -> int:
        """Jobs of one caller."""
        return max(100, self.runs // 10)

    @property
    def concurrent(self) -> int:
        """Jobs of many callers together."""
        return max(10 * CALLERS, self.runs // 4)

    @property
    def stored(self) -> int:
        """Jobs whose bytes are counted."""
        return max(1000, self.runs // 4)


def drain(workers: int) -> Callable[[Driven, Database, Sizes], Figures]:
    """No-op jobs finished per second by so many worker processes that start together on a backlog."""

    def measure(peer: Driven, database: Database, sizes: Sizes) -> Figures:
        _preloaded(peer, database, sizes.runs, 0)
        with peer.working(database, workers, "drain") as crew:
            return {"jobs_per_s": _drained(peer, database, crew, sizes.runs)}

    return measure


def bulk(peer: Driven, database: Database, sizes: Sizes) -> Figures:
    """Jobs enqueued per second in batches: the best of the batch sizes that the peer is to be tried with."""
    rates: Figures = {}
    stored = 0
    for batch in peer.meta.get("batches", BATCHES):
        told = peer.ask(database, "bulk", sizes.runs, batch)
        stored = _stored(peer, database, told, stored)
        rates[f"batch_of_{batch}_per_s"] = told["jobs"] / told["seconds"]
    return {"jobs_per_s": max(rates.values()), **rates}


def single(peer: Driven, database: Database, sizes: Sizes) -> Figures:
    """Jobs enqueued per second by one caller, each with a commit of its own."""
    told = peer.ask(database, "single", sizes.single)
    _stored(peer, database, told, 0)
    return {"jobs_per_s": told["jobs"] / told["seconds"]}


def concurrent(peer: Driven, database: Database, sizes: Sizes) -> Figures:
    """Jobs enqueued per second by many callers of one process at once, and how long a call takes.

    The best of the pools that the peer is to be tried with.
    """
    tried: dict[int, Figures] = {}
    stored = 0
    for connections in peer.meta.get("connections", CONNECTIONS):
        told = peer.ask(database, "concurrent", sizes.concurrent, CALLERS, connections)
        stored = _stored(peer, database, told, stored)
        rate = told["jobs"] / told["seconds"]
        tried[connections] = {"jobs_per_s": rate, "p50_ms": told["p50_ms"], "p99_ms": told["p99_ms"]}
    rates = {f"connections_{connections}_per_s": figures["jobs_per_s"] for connections, figures in tried.items()}
    return {**max(tried.values(), key=lambda figures: figures["jobs_per_s"]), **rates}


def latency(peer: Driven, database: Database, sizes: Sizes) -> Figures:
    """Milliseconds from before the enqueue call to the first line of the job, in an idle worker of another process."""
    with peer.working(database, 1, "latency") as (worker,):
        peer.ask(database, "latency", _FIRST, _GAP)
        _delays(worker, _FIRST)
        peer.ask(database, "latency", _SAMPLES, _GAP)
        delays = _delays(worker, _FIRST + _SAMPLES)[_FIRST:]
    cuts = statistics.quantiles(delays, n=100, method="inclusive")
    return {"p50_ms": cuts[49], "p99_ms": cuts[98]}


def size(peer: Driven, database: Database, sizes: Sizes) -> Figures:
    """Bytes (tables and indexes) and rows per finished job, right after a drain of jobs with a payload."""
    empty, rows = database.size(), database.rows()
    _preloaded(peer, database, sizes.stored, PAYLOAD)
    with peer.working(database, 1, "drain") as crew:
        _look_until(database, peer.meta["any_open"], False, crew)
        _finished(peer, database, sizes.stored)
    return {
        "bytes_per_job": (database.size() - empty) / sizes.stored,
        "rows_per_job": (database.rows() - rows) / sizes.stored,
    }


MEASURES: dict[str, Callable[[Driven, Database, Sizes], Figures]] = {
    "drain1": drain(1),
    "drain2": drain(2),
    "bulk": bulk,
    "single": single,
    "concurrent": concurrent,
    "latency": latency,
    "bytes": size,
}


def _preloaded(peer: Driven, database: Database, jobs: int, payload: int) -> None:
    _stored(peer, database, peer.ask(database, "bulk", jobs, _PRELOAD, payload), 0)
    database.settle()


def _stored(peer: Driven, database: Database, told: Figures, before: int) -> int:
    """Make sure that what the driver says it stored is there; returns how many there are now."""
    expected, found = before + int(told["stored"]), int(database.value(peer.meta["stored"]))
    if found != expected:
        raise DriverFailed(f"{peer.name}: its driver says that {expected} jobs are stored; there are {found}")
    return found


def _drained(peer: Driven, database: Database, crew: list[Worker], jobs: int) -> float:
    """Jobs per second from the first look that finds a finished job to the first that finds no open one."""
    _look_until(database, peer.meta["any_finished"], True, crew)
    began = time.perf_counter()
    done = int(database.value(peer.meta["finished"]))
    if done > jobs / 2:
        raise DriverFailed(
            f"{peer.name}: {done} of {jobs} jobs were finished at the first look; a rate takes more jobs"
        )
    _look_until(database, peer.meta["any_open"], False, crew)
    seconds = time.perf_counter() - began
    _finished(peer, database, jobs)
    return (jobs - done) / seconds


def _finished(peer: Driven, database: Database, jobs: int) -> None:
    finished = int(database.value(peer.meta["finished"]))
    if finished != jobs:
        raise DriverFailed(f"{peer.name}: {jobs} jobs were to be finished; the database has {finished}")


def _look_until(database: Database, statement: str, wanted: bool, crew: list[Worker]) -> None:
    """Look every 20 ms, or less often if a look is expensive: watching takes at most a tenth of one core."""
    end = time.monotonic() + _PATIENCE
    while True:
        began = time.perf_counter()
        if bool(database.value(statement)) is wanted:
            return
        for worker in crew:
            worker.check()
        if time.monotonic() > end:
            raise DriverFailed(f"{crew[0].name}: not done after {_PATIENCE:.0f} s: {statement}")
        time.sleep(max(_LOOK, _SHARE * (time.perf_counter() - began)))


def _delays(worker: Worker, wanted: int) -> list[float]:
    """The delays that a worker has reported, once there are as many as wanted."""
    end = time.monotonic() + 30
    while True:
        delays = [float(one["delay_ms"]) for one in worker.figures() if "delay_ms" in one]
        if len(delays) >= wanted:
            return delays
        worker.check()
        if time.monotonic() > end:
            raise DriverFailed(f"{worker.name}: {wanted} stamped jobs were sent; {len(delays)} began within 30 s")
        time.sleep(0.01)
