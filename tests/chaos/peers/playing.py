"""Plays the course of strikes for one contestant, waits until everything is over, and counts."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from attrs import Factory, asdict, define, frozen

from tests.chaos.peers.contestants import Contestant
from tests.chaos.peers.counting import Counts, count
from tests.chaos.peers.processes import Place, Terms, until
from tests.chaos.peers.strikes import Strike
from tests.chaos.server import OwnPostgres

#: Seconds within which everything has to be over once the strikes are.
RECOVERY = 60.0
_PATIENCE = 30.0


@frozen
class Played:
    """What came of a course: `recovery` is how long it took until nothing was pending, None if something still is."""

    counts: Counts
    strikes: dict[str, int]
    ended_by_themselves: int
    recovery: float | None


@define
class Crew:
    """Workers in their places; one that has ended is replaced at once, as a supervisor would."""

    place: Place
    size: int
    ended_by_themselves: int = 0
    tally: Counter[str] = Factory(Counter)
    _workers: list[tuple[int, str]] = Factory(list)
    _asleep: dict[int, float] = Factory(dict)
    _number: int = 0

    def start(self) -> None:
        """Everybody, and wait until they work."""
        self._workers = [self._new() for _ in range(self.size)]
        for slot in range(self.size):
            self._wait_for(slot)

    def look(self) -> None:
        """Wake who has slept long enough, replace who has ended."""
        now = time.monotonic()
        for slot in [slot for slot, end in self._asleep.items() if end <= now]:
            self._wake(slot)
        for slot, (pid, _) in enumerate(self._workers):
            if self.place.has_ended(pid):
                self.ended_by_themselves += 1
                self._asleep.pop(slot, None)
                self._workers[slot] = self._new()

    def strike(self, blow: Strike) -> None:
        """Carry out one blow, on a worker that works."""
        if blow.kind == "terminate":
            self.tally[blow.kind] += _terminate(self.place, blow.which)
            return
        self._wait_for(blow.worker)
        pid, _ = self._workers[blow.worker]
        if blow.kind == "kill":
            self._asleep.pop(blow.worker, None)
            self.place.signal(pid, signal.SIGKILL)
            until(lambda: self.place.has_ended(pid), _PATIENCE, every=0.005)
            self._workers[blow.worker] = self._new()
        else:
            self.place.signal(pid, signal.SIGSTOP)
            self._asleep[blow.worker] = time.monotonic() + blow.seconds
        self.tally[blow.kind] += 1

    def relent(self) -> None:
        """Let all of them go on."""
        for slot in [*self._asleep]:
            self._wake(slot)

    def _wake(self, slot: int) -> None:
        self._asleep.pop(slot, None)
        self.place.signal(self._workers[slot][0], signal.SIGCONT)

    def _wait_for(self, slot: int) -> None:
        """Until the worker in a place, or who has replaced it, has begun to work."""

        def works() -> bool:
            self.look()
            return self.place.is_ready(self._workers[slot][1])

        if not until(works, _PATIENCE, every=0.02):
            raise RuntimeError(
                f"{self.place.contestant.title}: a worker did not begin: {self.place.complaints()[-600:]}"
            )

    def _new(self) -> tuple[int, str]:
        self._number += 1
        name = f"w{self._number}"
        return self.place.start("worker", name), name


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
        client = place.start("client", "client")
        _rage(crew, strikes)
        crew.relent()
        began = time.monotonic()
        recovered = until(lambda: _is_over(crew, client), RECOVERY, every=0.2)
        recovery = time.monotonic() - began if recovered else None
        states = place.states()
        (folder / "states").write_text(json.dumps({job: asdict(state) for job, state in states.items()}))
        counts = count(place.acknowledged().values(), states, place.executions())
        return Played(counts, dict(crew.tally), crew.ended_by_themselves, recovery)
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


def _is_over(crew: Crew, client: int) -> bool:
    """Whether the client has enqueued everything and nothing of it is pending, with workers kept alive meanwhile."""
    crew.look()
    if not crew.place.has_ended(client):
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
