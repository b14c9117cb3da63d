"""Settings of the engine that can be turned for a measurement; each left at None stays at Runlane's own default.

Those that no public option reaches yet are set on the module that holds them, in the process that measures.
"""

from __future__ import annotations

import inspect
from functools import wraps
from typing import Any

from attrs import frozen

import runlane.exchange
import runlane.worker
from runlane import Runlane


@frozen
class Knobs:
    """What is turned.

    Args:
        batch: the most outcomes, and the most claims, of one transaction of a worker.
        lanes: how many transactions a worker has in flight at once.
        heartbeat: such as ``"1s"``; leases last three times as long.
        fillfactor: of the table of runs, in percent (PostgreSQL).
        relaxed: commit without waiting for the disk.
    """

    batch: int | None = None
    lanes: int | None = None
    heartbeat: str | None = None
    fillfactor: int | None = None
    relaxed: bool = False

    def turn(self) -> None:
        """Set in this process what is kept in modules.

        Raises:
            SystemExit: this Runlane keeps it elsewhere, so that turning it would change nothing.
        """
        if self.batch is not None:
            if not hasattr(runlane.exchange, "BATCH"):
                raise SystemExit("runlane.exchange has no BATCH: teach benchmarks/knobs.py where the batch size is now")
            runlane.exchange.BATCH = self.batch
        if self.lanes is not None:
            _limit_lanes(self.lanes)


def default_lanes(app: Runlane) -> int:
    """How many transactions in flight a worker of `app` asks for by itself."""
    asked: list[int] = []

    @wraps(_EXCHANGE)
    def exchange(*args: Any, **kwargs: Any) -> Any:
        asked.append(inspect.signature(_EXCHANGE).bind(*args, **kwargs).arguments["lanes"])
        return _EXCHANGE(*args, **kwargs)

    runlane.worker.Exchange = exchange  # type: ignore[misc, assignment]
    try:
        app.worker().stop()
    finally:
        runlane.worker.Exchange = _EXCHANGE  # type: ignore[misc]
    return asked[0]


_EXCHANGE = runlane.worker.Exchange


def _limit_lanes(lanes: int) -> None:
    """Have workers make their exchange with so many lanes, whatever they ask for."""
    signature = inspect.signature(_EXCHANGE)
    if "lanes" not in signature.parameters:
        raise SystemExit("Exchange takes no lanes: teach benchmarks/knobs.py how transactions in flight are set now")

    @wraps(_EXCHANGE)
    def exchange(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["lanes"] = lanes
        return _EXCHANGE(*bound.args, **bound.kwargs)

    runlane.worker.Exchange = exchange  # type: ignore[misc, assignment]
