"""One job, two workers, and the late outcome: what does the database say while the second execution is under way?

Worker A takes the job and is stopped.  When the window is over, worker B takes the job over and starts on it.  A goes
on and comes to its end; B waits until we have looked.
"""

from __future__ import annotations

import signal
from pathlib import Path

from attrs import frozen

from tests.chaos.peers.contestants import Contestant
from tests.chaos.peers.counting import Execution, State
from tests.chaos.peers.processes import Place, Terms, until
from tests.chaos.server import OwnPostgres

#: Seconds that the late outcome gets to arrive.
_LOOK = 3.0
_PATIENCE = 30.0


@frozen
class Trial:
    """What was seen.

    Args:
        problem: why the scenario did not come about; nothing is counted then.
        finished: whether the handler of A came to its end after it went on.
        accepted: whether the job was done by the tables while B was at it.
        settled: what the tables said when B had come to its end.
    """

    problem: str | None = None
    finished: bool = False
    accepted: bool = False
    settled: str = ""


def forced(contestant: Contestant, server: OwnPostgres, database: str, folder: Path, terms: Terms) -> Trial:
    """Play it once, on a database with the library's tables and nothing in them."""
    place = Place(contestant, server, database, folder, terms)
    try:
        return _played(place)
    finally:
        place.close()


def _played(place: Place) -> Trial:
    place.write_jobs([{"n": 1, "at": 0.0, "gated": True}])
    first = place.start("worker", "a")
    place.start("client", "client")
    if not until(lambda: _begun(place, "a"), _PATIENCE):
        return Trial("A did not start on the job")
    place.signal(first, signal.SIGSTOP)
    place.start("worker", "b")
    if not until(lambda: _begun(place, "b"), place.terms.window + _PATIENCE):
        return Trial("B did not take the job over")
    (place.folder / "gate-a").touch()
    place.signal(first, signal.SIGCONT)
    # A handler whose worker has heard that its lease is gone may be cancelled instead: then there is no late outcome.
    until(lambda: _ended(place, "a"), _LOOK)
    accepted = until(lambda: _state(place).status == "done", _LOOK)
    if _ended(place, "b"):
        return Trial("B did not wait")
    finished = _ended(place, "a")
    (place.folder / "gate-b").touch()
    if not until(lambda: _ended(place, "b"), _PATIENCE):
        return Trial("B did not come to its end", finished, accepted)
    until(lambda: _state(place).status != "pending", _PATIENCE)
    return Trial(None, finished, accepted, _state(place).status)


def _of(place: Place, worker: str) -> list[Execution]:
    return [one for one in place.executions() if one.worker == worker]


def _begun(place: Place, worker: str) -> bool:
    return bool(_of(place, worker))


def _ended(place: Place, worker: str) -> bool:
    return any(one.ended is not None for one in _of(place, worker))


def _state(place: Place) -> State:
    return place.states().get(1, State("missing"))
