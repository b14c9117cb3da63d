"""What every driver speaks: the same handler, the same client, the same notes.

A driver is a script that runs inside its library's own environment, so nothing here needs more than the standard
library.  ``script.py COMMAND`` works on the database and in the folder that the environment names:

    setup       create the library's tables in an empty database
    nursery     fork a worker or a client when told to, as ``tests/chaos/nursery.py`` does: a process that has imported
                everything is replaced in no time, so that blows do not fall on who has not begun to work

A client enqueues the jobs of the file ``jobs``, each at its time, and notes which were acknowledged.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
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
#: Of this process.
NAME = "nobody"
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
        """Be a worker: connect, call ``ready``, and hand every job to ``perform``."""


async def perform(job: dict[str, Any]) -> None:
    """The handler of everybody: takes its time, or waits for the gate of this worker, and notes start and end.

    Raises:
        RuntimeError: the gate says that it shall fail.
    """
    told = {"n": job["n"], "execution": uuid4().hex, "worker": NAME}
    note("effects", **told, what="started")
    try:
        if job.get("gated"):
            gate = FOLDER / f"gate-{NAME}"
            while not gate.exists():
                await asyncio.sleep(0.02)
            if gate.read_text() == "fails":
                note("effects", **told, what="failed")
                raise RuntimeError("it came to nothing")
        else:
            await asyncio.sleep(job["seconds"])
    except asyncio.CancelledError:
        note("effects", **told, what="cancelled")
        raise
    note("effects", **told, what="ended")


def ready() -> None:
    """Say that this worker has begun to work."""
    note("ready", worker=NAME)


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
    elif command == "nursery":
        be_nursery({"worker": driver.work, "client": lambda: asyncio.run(be_client(driver))})
    else:
        raise SystemExit(f"no such command: {command}")


def be_nursery(roles: dict[str, Callable[[], None]]) -> None:
    """Serve until nobody is there to ask any more; then everybody dies."""
    gc.collect()
    gc.freeze()
    children: set[int] = set()
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {"ended": _reap(children)}
        if asked["do"] == "spawn":
            answer["pid"] = pid = os.fork()
            if pid == 0:
                _become(roles[asked["role"]], **asked["arguments"])
            children.add(pid)
        elif asked["do"] == "signal":
            answer["sent"] = asked["pid"] in children
            if answer["sent"]:
                os.kill(asked["pid"], asked["number"])
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _reap(children: set[int]) -> list[tuple[int, int]]:
    ended = []
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.discard(pid)
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def _become(role: Callable[[], None], name: str) -> None:
    """In the child: play a role under a name, and die with the parent."""
    global NAME
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        NAME = name
        role()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
