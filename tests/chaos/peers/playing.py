"""Plays the course of strikes for one contestant, waits until everything is over, and counts."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

from attrs import Factory, define, frozen

from tests.chaos.peers.contestants import Contestant
from tests.chaos.peers.counting import Counts, count
from tests.chaos.peers.processes import Place, Terms, until
from tests.chaos.peers.strikes import Strike
from tests.chaos.server import OwnPostgres

#: Seconds within which everything has to be over once the strikes are.
RECOVERY = 60.0


@frozen
class Played:
    """What came of a course: `recovery` is how long it took until nothing was pending, None if something still is."""

    counts: Counts
    strikes: dict[str, int]
    ended_by_themselves: int
    recovery: float | None
    complaints: str


@define
class Crew:
    """Workers in their places; one that has ended is replaced at once, as a supervisor would."""

    place: Place
    size: int
    ended_by_themselves: int = 0
    tally: Counter[str] = Factory(Counter)
    _workers: list[subprocess.Popen[bytes]] = Factory(list)
    _asleep: dict[int, float] = Factory(dict)
    _number: int = 0

    def start(self) -> None:
        """Everybody."""
        self._workers = [self._new() for _ in range(self.size)]

    def look(self) -> None:
        """Wake who has slept long enough, replace who has ended."""
        now = time.monotonic()
        for slot in [slot for slot, until_ in self._asleep.items() if until_ <= now]:
            self.wake(slot)
        for slot, worker in enumerate(self._workers):
            if worker.poll() is not None:
                self.ended_by_themselves += 1
                self._asleep.pop(slot, None)
                self._workers[slot] = self._new()

    def strike(self, blow: Strike) -> None:
        """Carry out one blow."""
        if blow.kind == "kill":
            self._asleep.pop(blow.worker, None)
            self._workers[blow.worker].kill()
            self._workers[blow.worker].wait()
            self._workers[blow.worker] = self._new()
        elif blow.kind == "pause":
            self._workers[blow.worker].send_signal(signal.SIGSTOP)
            self._asleep[blow.worker] = time.monotonic() + blow.seconds
        elif not _terminate(self.place, blow.which):
            return
        self.tally[blow.kind] += 1

    def wake(self, slot: int) -> None:
        """Let a sleeper go on."""
        self._asleep.pop(slot, None)
        self._workers[slot].send_signal(signal.SIGCONT)

    def relent(self) -> None:
        """Let all of them go on."""
        for slot in list(self._asleep):
            self.wake(slot)

    def _new(self) -> subprocess.Popen[bytes]:
        self._number += 1
        return self.place.start("worker", f"w{self._number}")


def played(
    contestant: Contestant,
    server: OwnPostgres,
    folder: Path,
    terms: Terms,
    strikes: list[Strike],
    jobs: list[dict[str, Any]],
    workers: int,
) -> Played:
    """The whole course, on a database with the library's tables and nothing in them."""
    place = Place(contestant, server, "course", folder, terms)
    try:
        place.write_jobs(jobs)
        crew = Crew(place, workers)
        crew.start()
        client = place.start("client")
        _rage(crew, strikes)
        crew.relent()
        began = time.monotonic()
        recovered = until(lambda: _is_over(crew, client), RECOVERY, every=0.2)
        recovery = time.monotonic() - began if recovered else None
        counts = count(place.acknowledged().values(), place.states(), place.executions())
        return Played(counts, dict(crew.tally), crew.ended_by_themselves, recovery, place.complaints())
    finally:
        place.close()


def _rage(crew: Crew, strikes: list[Strike]) -> None:
    began = time.monotonic()
    for blow in strikes:
        while (left := began + blow.at - time.monotonic()) > 0:
            crew.look()
            time.sleep(min(left, 0.05))
        crew.look()
        crew.strike(blow)


def _is_over(crew: Crew, client: subprocess.Popen[bytes]) -> bool:
    """Whether the client has enqueued everything and nothing of it is pending, with workers kept alive meanwhile."""
    crew.look()
    if client.poll() is None:
        return False
    return all(state.status != "pending" for state in crew.place.states().values())


def _terminate(place: Place, which: float) -> bool:
    """End the connection that stands at this part of all that there are; whether there was one."""
    found = place.server.execute(
        "select pid from pg_stat_activity where backend_type = 'client backend'"
        f" and datname = '{place.database}' order by pid"
    )
    if not found:
        return False
    (pid,) = found[int(which * len(found))]
    place.server.execute(f"select pg_terminate_backend({pid})")
    return True
