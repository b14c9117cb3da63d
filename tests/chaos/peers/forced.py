"""One job, two workers, and the late outcome: what does the database say while the second execution is under way?

Worker A takes the job and is stopped.  When the window is over, worker B takes the job over and starts on it.  A goes
on, and ends well or fails; B waits until we have looked, and ends well.
"""

from __future__ import annotations

import signal
from pathlib import Path

from attrs import frozen

from tests.chaos.peers.contestants import Contestant
from tests.chaos.peers.counting import State
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
        finished: whether the handler of A ended, well or not, after it went on.
        accepted: whether the job was over by the tables while B was at it.
        settled: what the tables said of it when B had ended well.
    """

    problem: str | None = None
    finished: bool = False
    accepted: bool = False
    settled: str = ""


def forced(
    contestant: Contestant, server: OwnPostgres, database: str, folder: Path, terms: Terms, late: str = "ends"
) -> Trial:
    """Play it once, on a database with the library's tables and nothing in them.

    Args:
        late: whether the handler of A ``ends`` well or ``fails``.
    """
    place = Place(contestant, server, database, folder, terms)
    try:
        return _played(place, late)
    finally:
        place.close()


def _played(place: Place, late: str) -> Trial:
    place.write_jobs([{"n": 1, "at": 0.0, "gated": True}])
    first = place.start("worker", "a")
    place.start("client", "client")
    if not until(lambda: _noted(place, "a", "started"), _PATIENCE):
        return Trial("A did not start on the job")
    place.signal(first, signal.SIGSTOP)
    place.start("worker", "b")
    if not until(lambda: _noted(place, "b", "started"), place.terms.window + _PATIENCE):
        return Trial(f"B did not take the job over{_waits(place)}")
    _open(place, "a", late)
    place.signal(first, signal.SIGCONT)
    # A handler whose worker has heard that its lease is gone may be cancelled instead: then there is no late outcome.
    until(lambda: _noted(place, "a", "ended", "failed"), _LOOK)
    accepted = until(lambda: _state(place).status != "pending", _LOOK)
    if _noted(place, "b", "ended"):
        return Trial("B did not wait")
    finished = _noted(place, "a", "ended", "failed")
    _open(place, "b", "ends")
    if not until(lambda: _noted(place, "b", "ended"), _PATIENCE):
        return Trial("B did not come to its end", finished, accepted)
    until(lambda: _state(place).status != "pending", _PATIENCE)
    return Trial(None, finished, accepted, _state(place).status)


def _open(place: Place, worker: str, how: str) -> None:
    """Let the handler of a worker go on, to the end that is meant; the file is there at once with what it says."""
    prepared = place.folder / f"prepared-{worker}"
    prepared.write_text(how)
    prepared.rename(place.folder / f"gate-{worker}")


def _noted(place: Place, worker: str, *what: str) -> bool:
    return any(note["worker"] == worker and note["what"] in what for note in place.notes("effects"))


def _waits(place: Place) -> str:
    """Who waits in the database for whom."""
    rows = place.server.execute(
        "select waiting.query, holder.state, holder.query from pg_stat_activity waiting"
        " join pg_stat_activity holder on holder.pid = any(pg_blocking_pids(waiting.pid))"
        f" where waiting.datname = '{place.database}'"
    )
    told = [f"; {query[:80]!r} waits for who is {state} after {last[:80]!r}" for query, state, last in rows]
    return "".join(told)


def _state(place: Place) -> State:
    return place.states().get(1, State("missing"))
