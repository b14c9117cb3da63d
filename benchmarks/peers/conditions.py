"""How quiet and how fast the machine was during a measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, frozen

from benchmarks import machine

_PROC = Path("/proc")
#: Seconds of a look at the machine's speed.
_PROBE = 0.2


@frozen
class Conditions:
    """What surrounded a measurement.

    Args:
        speed: empty Python loops per second, the mean of a look before it and one after it.
        others: cores that processes other than ours and PostgreSQL used, or that the host took away; None if the
            system does not tell.
        seconds: how long it took.
    """

    speed: float
    others: float | None
    seconds: float


@define
class Observation:
    """Filled in when the block has ended without an exception."""

    conditions: Conditions | None = None


@contextmanager
def observed(server: int | None) -> Iterator[Observation]:
    """Watch the machine during the block.

    Args:
        server: the id of PostgreSQL's main process; it counts as ours, with this process and all that it starts.
    """
    found = Observation()
    roots = {os.getpid()} | ({server} if server is not None else set())
    speed = machine.speed(_PROBE)
    began, busy, ours = time.perf_counter(), _busy(), _used_by(roots)
    yield found
    seconds = time.perf_counter() - began
    busy_now, ours_now = _busy(), _used_by(roots)
    others = None
    if busy is not None and busy_now is not None:
        others = max(0.0, (busy_now - busy - (ours_now - ours)) / seconds)
    found.conditions = Conditions((speed + machine.speed(_PROBE)) / 2, others, seconds)


def _busy() -> float | None:
    """Seconds that all cores together have been busy or stolen, since the start of the system."""
    try:
        fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _used_by(roots: set[int]) -> float:
    """CPU seconds of process trees: what the living have used, and what they say of children that have ended."""
    parents, used = {}, {}
    for folder in _PROC.glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = int(fields[1])
        used[int(folder.name)] = sum(map(int, fields[11:15]))
    ours = {process for process in parents if _descends(process, roots, parents)}
    return sum(used[process] for process in ours) / os.sysconf("SC_CLK_TCK")


def _descends(process: int, roots: set[int], parents: dict[int, int]) -> bool:
    while process not in roots and process in parents:
        process = parents[process]
    return process in roots
