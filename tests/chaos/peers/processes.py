"""The processes of one contestant on one database: started, stopped, continued and killed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from attrs import define, field, frozen

from tests.chaos.nursery import die_with_parent
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
    """A contestant, its database and the folder of its notes."""

    contestant: Contestant
    server: OwnPostgres
    database: str
    folder: Path
    terms: Terms
    _errors: IO[bytes] = field(init=False)
    _running: set[subprocess.Popen[bytes]] = field(init=False, factory=set)

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._errors = (self.folder / "errors").open("ab")

    def run(self, command: str, timeout: float = 60.0) -> None:
        """Carry out a command of the driver, and wait for it."""
        code = self.start(command).wait(timeout)
        if code != 0:
            raise RuntimeError(f"{self.contestant.title}: {command} ended with {code}: {self.complaints()[-600:]}")

    def start(self, command: str, name: str = "nobody") -> subprocess.Popen[bytes]:
        """Start a process of the driver; it dies with the thread that starts it."""
        process = subprocess.Popen(
            [str(self.contestant.python()), str(self.contestant.script), command],
            env={
                **self.contestant.environment(),
                "PEERS_DATABASE": self.server.url(self.database),
                "PEERS_FOLDER": str(self.folder),
                "PEERS_NAME": name,
                "PEERS_WINDOW": str(self.terms.window),
                "PEERS_POLL": str(self.terms.poll),
                "PEERS_CONCURRENCY": str(self.terms.concurrency),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            preexec_fn=die_with_parent,
        )
        self._running.add(process)
        return process

    def close(self) -> None:
        """Ask everybody to end, and kill who does not."""
        alive = [process for process in self._running if process.poll() is None]
        for process in alive:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        deadline = time.monotonic() + _FAREWELL
        for process in alive:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._errors.close()

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


def until(holds: Callable[[], Any], seconds: float, every: float = 0.05) -> bool:
    """Wait until something holds; whether it did in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
