"""How quiet and how fast the machine was during a measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define, frozen

from benchmarks import machine
from benchmarks.processor import PROC, used_by

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
    began, busy, ours = time.perf_counter(), _busy(), used_by(roots)
    yield found
    seconds = time.perf_counter() - began
    busy_now, ours_now = _busy(), used_by(roots)
    others = None
    if busy is not None and busy_now is not None:
        others = max(0.0, (busy_now - busy - (ours_now - ours)) / seconds)
    found.conditions = Conditions((speed + machine.speed(_PROBE)) / 2, others, seconds)


def _busy() -> float | None:
    """Seconds that all cores together have been busy or stolen, since the start of the system."""
    try:
        fields = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
