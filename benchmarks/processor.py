"""CPU time of processes, on this side of the socket and on the database's."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.places import execute
from runlane import Runlane

PROC = Path("/proc")


def used_by(roots: set[int]) -> float:
    """CPU seconds of process trees: what the living have used, and what they say of children that have ended."""
    parents, used = {}, {}
    for folder in PROC.glob("[0-9]*"):
        if (told := _stat(folder)) is not None:
            parents[int(folder.name)] = int(told[1])
            used[int(folder.name)] = sum(map(int, told[11:15]))
    ours = {process for process in parents if _descends(process, roots, parents)}
    return sum(used[process] for process in ours) / os.sysconf("SC_CLK_TCK")


def server_of(app: Runlane) -> int | None:
    """The main process of the PostgreSQL server, if that is on this machine; None for SQLite, too."""
    if app.lane.database.schema is None:
        return None
    backend = PROC / str(execute(app, "select pg_backend_pid()")[0][0])
    told = _stat(backend)
    if told is None or not (backend / "comm").read_text().startswith("postgres"):
        return None
    return int(told[1])


class Shares:
    """What a stretch of time costs the processors, from when this is made.

    Args:
        server: its main process, or None if it cannot be looked at.
    """

    def __init__(self, server: int | None) -> None:
        self._server = server
        self._before = self._used()

    def server_s(self) -> float | None:
        """CPU seconds of the server since then: those that answered, and those that write to the disk behind them."""
        before, now = self._before, self._used()
        return None if before is None or now is None else now - before

    def per_run(self, runs: int) -> dict[str, float]:
        """The same as a figure, if it is known."""
        used = self.server_s()
        return {} if used is None else {"server_us_per_run": used / runs * 1e6}

    def _used(self) -> float | None:
        return None if self._server is None else used_by({self._server})


def _stat(folder: Path) -> list[str] | None:
    """What follows the name of a process in its ``stat``: state, parent, …; None if it has ended."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _descends(process: int, roots: set[int], parents: dict[int, int]) -> bool:
    while process not in roots and process in parents:
        process = parents[process]
    return process in roots
