"""What every driver speaks: the same handler, the same client, the same notes.

A driver is a script that runs inside its library's own environment, so nothing here needs more than the standard
library.  ``script.py COMMAND`` works on the database and in the folder that the environment names:

    setup       create the library's tables in an empty database
    client      enqueue the jobs of the file ``jobs``, each at its time, and note which were acknowledged
    worker      work until ended
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

URL = os.environ["PEERS_DATABASE"]
FOLDER = Path(os.environ["PEERS_FOLDER"])
NAME = os.environ.get("PEERS_NAME", "nobody")
#: Seconds after which the jobs of a silent worker are another's.
WINDOW = float(os.environ["PEERS_WINDOW"])
#: Seconds between looks for such jobs, and for others.
POLL = float(os.environ["PEERS_POLL"])
#: Jobs at once in a worker.
CONCURRENCY = int(os.environ["PEERS_CONCURRENCY"])

Enqueue = Callable[[dict[str, Any]], Awaitable[object]]


class Driver(Protocol):
    """One library."""

    async def setup(self) -> None:
        """Create the tables."""

    def connected(self) -> AbstractAsyncContextManager[Enqueue]:
        """A client: a call that enqueues a job, and returns its id when it is committed."""

    def work(self) -> None:
        """Be a worker; every job is handed to ``perform``."""


async def perform(job: dict[str, Any]) -> None:
    """The handler of everybody: takes its time, or waits for the gate of this worker, and notes start and end."""
    told = {"n": job["n"], "execution": uuid4().hex, "worker": NAME}
    note("effects", **told, what="started")
    try:
        if job.get("gated"):
            while not (FOLDER / f"gate-{NAME}").exists():
                await asyncio.sleep(0.02)
        else:
            await asyncio.sleep(job["seconds"])
    except asyncio.CancelledError:
        note("effects", **told, what="cancelled")
        raise
    note("effects", **told, what="ended")


def note(file: str, **record: Any) -> None:
    """One line, by one write: lines of several processes do not mix, and a SIGKILL tears none."""
    line = json.dumps({**record, "at": time.time()}) + "\n"
    descriptor = os.open(FOLDER / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


async def be_client(driver: Driver) -> None:
    """Enqueue one job after the other; one whose call failed is not asked for again, as it may be there."""
    jobs = [json.loads(line) for line in (FOLDER / "jobs").read_text().splitlines()]
    began = time.monotonic()
    while jobs:
        try:
            async with driver.connected() as enqueue:
                while jobs:
                    await asyncio.sleep(max(0.0, jobs[0]["at"] - (time.monotonic() - began)))
                    job = jobs.pop(0)
                    note("acknowledged", n=job["n"], id=str(await enqueue(job)))
        except Exception:
            traceback.print_exc()
            await asyncio.sleep(0.1)


def serve(driver: Driver) -> None:
    """Carry out the command line."""
    command = sys.argv[1]
    if command == "setup":
        asyncio.run(driver.setup())
    elif command == "client":
        asyncio.run(be_client(driver))
    elif command == "worker":
        driver.work()
    else:
        raise SystemExit(f"no such command: {command}")
