"""A peer at the end of its driver script: one command, one process, one JSON answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from benchmarks.peers.server import Database

DRIVERS = Path(__file__).parent / "drivers"
ROOT = Path(__file__).parents[2]
_PATIENCE = 600.0  # seconds for a command
_START = 60.0  # seconds until a worker is ready
_FAREWELL = 5.0  # seconds from SIGTERM to SIGKILL


class DriverFailed(Exception):
    """A driver ended with an error, gave no answer, or did not become ready in time."""


@define
class Driven:
    """One peer: its name, its script, and the Python of its environment."""

    name: str
    script: Path
    python: Path = field(factory=lambda: Path(sys.executable))
    meta: dict[str, Any] = field(factory=dict)

    def learn(self) -> None:
        """Ask the driver what it is."""
        self.meta = self.ask(None, "meta")

    def ask(self, database: Database | None, *command: object) -> dict[str, Any]:
        """Carry out one command; returns the figures of its last line.

        Raises:
            DriverFailed: with the last lines that it said on standard error.
        """
        try:
            done = subprocess.run(
                self._command(*command),
                env=self._environment(database),
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise DriverFailed(f"{self.name}: {' '.join(map(str, command))} had not ended after {_PATIENCE:.0f} s")
        said = _figures(done.stdout)
        if done.returncode != 0 or not said:
            raise DriverFailed(self._failure(command, done.returncode, done.stderr))
        return said[-1]

    @contextmanager
    def working(self, database: Database, count: int, purpose: str) -> Iterator[list[Worker]]:
        """`count` worker processes that begin at the same moment, when all are ready, and are ended with the block.

        Args:
            purpose: ``drain`` or ``latency``.
        """
        with ExitStack() as stack:
            workers = [stack.enter_context(self._started(database, purpose)) for _ in range(count)]
            for worker in workers:
                worker.wait_until_ready()
            for worker in workers:
                worker.go()
            yield workers

    @contextmanager
    def _started(self, database: Database, purpose: str) -> Iterator[Worker]:
        with tempfile.NamedTemporaryFile("w") as said, tempfile.NamedTemporaryFile("w") as complained:
            process = subprocess.Popen(
                self._command("worker", purpose),
                env=self._environment(database),
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=complained,
                text=True,
            )
            worker = Worker(self.name, process, Path(said.name), Path(complained.name))
            try:
                yield worker
            finally:
                worker.end()

    def _command(self, *command: object) -> list[str]:
        return [str(self.python), str(self.script), *map(str, command)]

    def _environment(self, database: Database | None) -> dict[str, str]:
        """Ours, but only the Python that runs us may import what we do: Runlane as it is checked out."""
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        environment.pop("PYTHONPATH", None)
        if self.python == Path(sys.executable):
            environment["PYTHONPATH"] = str(ROOT)
        if database is not None:
            environment["BENCH_DATABASE"] = database.url
        return environment

    def _failure(self, command: tuple[object, ...], code: int, stderr: str) -> str:
        last = "\n".join(stderr.strip().splitlines()[-6:])
        return f"{self.name}: {' '.join(map(str, command))} ended with {code}: {last or 'nothing on standard error'}"


@define
class Worker:
    """A worker process of a peer."""

    name: str
    process: subprocess.Popen[str]
    _said: Path
    _complained: Path

    def wait_until_ready(self) -> None:
        """Wait until it is connected and waits for the signal to begin.

        Raises:
            DriverFailed: it ended, or it took too long.
        """
        end = time.monotonic() + _START
        while not self.figures():
            self.check()
            if time.monotonic() > end:
                raise DriverFailed(f"{self.name}: a worker was not ready after {_START:.0f} s")
            time.sleep(0.01)

    def go(self) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def check(self) -> None:
        """Raise DriverFailed if it has ended, with its last words."""
        if self.process.poll() is not None:
            last = "\n".join(self._complained.read_text().strip().splitlines()[-6:])
            raise DriverFailed(f"{self.name}: a worker ended with {self.process.returncode}: {last}")

    def figures(self) -> list[dict[str, Any]]:
        """What it has said so far; the first line says that it is ready."""
        return _figures(self._said.read_text())

    def end(self) -> None:
        """End the process, and do not wait long for its goodbye: its database is thrown away."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


def _figures(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{") and line.endswith("}")]
