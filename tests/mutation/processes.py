"""Works done each in a forked process, a few at once, and none for longer than it may take."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

#: A change that makes something without end may take this much memory; bytes.
_MEMORY = 4 * 2**30
OUT_OF_TIME = "out of time"


@frozen
class Limits:
    """How many processes work at once, and until when by the monotonic clock."""

    processes: int
    until: float


@frozen
class Work:
    """Something to do: its number, the seconds that it may take, and what makes its answer, any JSON."""

    number: int
    seconds: float
    answer: Callable[[], Any]


def in_processes(works: Iterable[Work], limits: Limits, *, quiet: bool = True) -> Iterator[tuple[int, Any]]:
    """The number and answer of each work as it ends, or ``OUT_OF_TIME``; None if its process came to nothing.

    What has not begun when the time of all is over does not begin.
    """
    waiting = iter(works)
    running: dict[int, tuple[int, float]] = {}
    with tempfile.TemporaryDirectory(prefix="runlane-mutants-") as folder:
        while True:
            while len(running) < limits.processes and time.monotonic() < limits.until:
                work = next(waiting, None)
                if work is None:
                    break
                pid = _begin(work, Path(folder), quiet)
                running[pid] = (work.number, time.monotonic() + work.seconds)
            if not running:
                return
            yield from _ended(running, Path(folder))
            time.sleep(0.001)


def _ended(running: dict[int, tuple[int, float]], folder: Path) -> Iterator[tuple[int, Any]]:
    for pid, (number, deadline) in list(running.items()):
        if os.waitpid(pid, os.WNOHANG)[0]:
            del running[pid]
            answer = folder / str(number)
            yield number, json.loads(answer.read_text("utf-8")) if answer.exists() else None
        elif time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            del running[pid]
            yield number, OUT_OF_TIME


def _begin(work: Work, folder: Path, quiet: bool) -> int:
    """Begin a work; the id of its process."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        if quiet:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        answer = work.answer()
        # Whole or not at all, whatever becomes of this process.
        made = folder / f"{work.number}.new"
        made.write_text(json.dumps(answer), "utf-8")
        made.rename(folder / str(work.number))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
