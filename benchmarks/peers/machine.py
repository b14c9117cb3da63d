"""How quiet and how fast the machine was during a measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field, frozen

_PROC = Path("/proc")
#: Seconds of the probe; long enough to see the clock rate, short enough to be taken before every measurement.
_PROBE = 0.2


@frozen
class Conditions:
    """What surrounded a measurement.

    Args:
        speed: empty Python loops per second just before it.
        others: cores that processes other than ours and PostgreSQL used, or that the host took away; None if the
            system does not tell.
    """

    speed: float
    others: float | None


@define
class Observation:
    """Filled in when the block ends."""

    conditions: Conditions | None = field(default=None)


@contextmanager
def observed(server: int | None) -> Iterator[Observation]:
    """Watch the machine during the block.  Ours are this process, those that it starts, and the PostgreSQL `server`."""
    found = Observation()
    speed = _loops_per_second()
    roots = {os.getpid()} | ({server} if server is not None else set())
    began, busy, ours = time.perf_counter(), _busy(), _used_by(roots)
    yield found
    seconds = time.perf_counter() - began
    now, mine = _busy(), _used_by(roots)
    others = None if busy is None or now is None else max(0.0, (now - busy - (mine - ours)) / seconds)
    found.conditions = Conditions(speed, others)


def _loops_per_second() -> float:
    end, loops = time.perf_counter() + _PROBE, 0
    while time.perf_counter() < end:
        for _ in range(10_000):
            pass
        loops += 10_000
    return loops / _PROBE


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
