"""The processes of one contestant on one database: started, stopped, continued and killed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import Factory, define, field, frozen

from tests.chaos.nursery import Nursery
from tests.chaos.peers.contestants import Contestant
from tests.chaos.peers.counting import Execution, State, executions_of
from tests.chaos.server import OwnPostgres

_FAREWELL = 5.0


@frozen
class Terms:
    """What is equal for everybody: seconds after which a silent worker's jobs are another's, and so on."""

    window: float = 5.0
    poll: float = 1.0
    concurrency: int = 4


@define
class Place:
    """A contestant, its database and the folder of its notes; use it from one thread, and close it."""

    contestant: Contestant
    server: OwnPostgres
    database: str
    folder: Path
    terms: Terms
    _nursery: Nursery | None = field(init=False, default=None)
    _alive: dict[int, str] = field(init=False, factory=dict)
    #: Exit codes of processes that have ended, by their ids.
    ended: dict[int, int] = field(init=False, default=Factory(dict))

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def setup(self) -> None:
        """Create the library's tables."""
        done = subprocess.run(
            self._command("setup"), env=self._environment(), capture_output=True, text=True, timeout=60
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.contestant.title}: setup ended with {done.returncode}: {done.stderr[-600:]}")

    def start(self, role: str, name: str) -> int:
        """Start a ``worker`` or a ``client``; its id."""
        if self._nursery is None:
            self._nursery = Nursery(self.folder / "errors", self._environment(), self._command("nursery"))
        pid = self._nursery.spawn(role, name=name)
        self._alive[pid] = name
        return pid

    def signal(self, pid: int, number: int) -> None:
        """Send a signal, if the process is there still."""
        assert self._nursery is not None
        self._nursery.signal(pid, number)

    def has_ended(self, pid: int) -> bool:
        """Whether a process is gone."""
        assert self._nursery is not None
        for other, code in self._nursery.ends().items():
            self.ended[other] = code
            self._alive.pop(other, None)
        return pid in self.ended

    def close(self) -> None:
        """Ask everybody to end, and kill who does not."""
        if self._nursery is None:
            return
        for pid in [*self._alive]:
            self.signal(pid, signal.SIGCONT)
            self.signal(pid, signal.SIGTERM)
        until(lambda: all(self.has_ended(pid) for pid in [*self._alive]), _FAREWELL)
        self._nursery.close()

    def is_ready(self, name: str) -> bool:
        """Whether a worker has begun to work."""
        return any(note["worker"] == name for note in self.notes("ready"))

    def notes(self, file: str) -> list[dict[str, Any]]:
        """The lines of a file that processes wrote."""
        path = self.folder / file
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def executions(self) -> list[Execution]:
        """What handlers have noted so far."""
        return executions_of(self.notes("effects"))

    def acknowledged(self) -> dict[str, int]:
        """The jobs that clients got an answer for, by the ids that the library gave them."""
        return {note["id"]: note["n"] for note in self.notes("acknowledged")}

    def states(self) -> dict[int, State]:
        """What the tables say of the jobs that were acknowledged."""
        numbers = self.acknowledged()
        rows = self.server.execute(self.contestant.states, self.database)
        return {numbers[job]: State(status, at) for job, status, at in rows if job in numbers}

    def write_jobs(self, jobs: list[dict[str, Any]]) -> None:
        """What the client is to enqueue."""
        (self.folder / "jobs").write_text("".join(json.dumps(job) + "\n" for job in jobs))

    def complaints(self) -> str:
        """What processes said on standard error."""
        return (self.folder / "errors").read_text(errors="replace")

    def _command(self, command: str) -> list[str]:
        return [str(self.contestant.python()), str(self.contestant.script), command]

    def _environment(self) -> dict[str, str]:
        return {
            **self.contestant.environment(),
            "PEERS_DATABASE": self.server.url(self.database),
            "PEERS_FOLDER": str(self.folder),
            "PEERS_WINDOW": str(self.terms.window),
            "PEERS_POLL": str(self.terms.poll),
            "PEERS_CONCURRENCY": str(self.terms.concurrency),
        }


def until(holds: Callable[[], Any], seconds: float, every: float = 0.05) -> bool:
    """Wait until something holds; whether it did in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
