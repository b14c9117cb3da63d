"""For tests of programs that use Runlane: a clock that stands still, and a way to work everything off.

The conformance suites for adapters join this module with the lanes that others can write.
"""

from __future__ import annotations

from runlane.app import Runlane
from runlane.clock import SettableClock
from runlane.projections.runs import Run

__all__ = ["SettableClock", "drain"]


def drain(app: Runlane, limit: int = 10_000) -> list[Run]:
    """Execute every run that is due, one after the other in this thread; the runs as they are after their attempts.

    Raises:
        AssertionError: more than `limit` attempts were needed, as by a handler that releases its run for no time.
    """
    done: list[Run] = []
    while (run := app.execute_next()) is not None:
        done.append(run)
        if len(done) > limit:
            raise AssertionError(f"more than {limit} attempts; does a handler release its run without a delay?")
    return done
