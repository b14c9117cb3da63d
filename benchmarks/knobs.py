"""Settings of the engine that can be turned for a measurement; each left at None stays at Runlane's own default.

Those that no public option reaches yet are set on the module that holds them, in the process that measures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from attrs import frozen

import runlane.exchange
import runlane.worker
from runlane import Runlane

_EXCHANGE = runlane.worker.Exchange  # type: ignore[attr-defined]
#: Runlane's own batch size; None if it is kept elsewhere than is known here.
DEFAULT_BATCH: int | None = getattr(runlane.exchange, "BATCH", None)


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
        """Set in this process what is kept in modules, and set back there what is left at its default.

        Raises:
            SystemExit: this Runlane keeps it elsewhere, so that turning it would change nothing.
        """
        if DEFAULT_BATCH is not None:
            runlane.exchange.BATCH = self.batch or DEFAULT_BATCH
        elif self.batch is not None:
            raise SystemExit("runlane.exchange has no BATCH: teach benchmarks/knobs.py where the batch size is now")
        _make_exchanges_by(_EXCHANGE if self.lanes is None else _with_lanes(lambda _: self.lanes))


def default_lanes(app: Runlane) -> int:
    """How many transactions in flight a worker of `app` asks for by itself."""
    asked: list[int] = []

    def heard(lanes: int) -> int:
        asked.append(lanes)
        return lanes

    _make_exchanges_by(_with_lanes(heard))
    try:
        app.worker().stop()
    finally:
        _make_exchanges_by(_EXCHANGE)
    return asked[0]


def _with_lanes(choose: Callable[[int], Any]) -> Callable[..., Any]:
    """The exchange of a worker, made with as many lanes as `choose` makes of those that are asked for."""
    signature = inspect.signature(_EXCHANGE)
    if "lanes" not in signature.parameters:
        raise SystemExit("Exchange takes no lanes: teach benchmarks/knobs.py how transactions in flight are set now")

    @wraps(_EXCHANGE)
    def exchange(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["lanes"] = choose(bound.arguments["lanes"])
        return _EXCHANGE(*bound.args, **bound.kwargs)

    return exchange


def _make_exchanges_by(maker: Callable[..., Any]) -> None:
    runlane.worker.Exchange = maker  # type: ignore[attr-defined, assignment]
