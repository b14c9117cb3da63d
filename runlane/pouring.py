"""Many runs of one task: while the database stores some, the next ones are made ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import evolve

from runlane.engine.trigger import NewRun, Triggered, sealed, shown, trigger_alike
from runlane.requests import each
from runlane.runtime import Runtime
from runlane.storage.database import Database
from runlane.storage.pipeline import pipelined
from runlane.storage.transaction import Transaction

#: Runs of the first statement, beside whose making nobody works; each has twice as many as the one before it, up to
#: `PART`.  Of 1,000 runs each took 17.9 µs in four parts of `PART`, 16.9 µs in growing ones (medians of four rounds).
_FIRST = 50
PART = 250


def can_pour(database: Database) -> bool:
    """Whether statements can go out there before the answers to those before them have come."""
    return database.stamps and not database.publishes


def pour(runtime: Runtime, make: Callable[[Any], NewRun], payloads: Sequence[Any]) -> list[Triggered]:
    """Create runs that are alike in one transaction, all or none, and wake workers for them.

    Raises:
        PayloadInvalid: one does not fit, naming its place; nothing is written.
    """
    ready: list[NewRun] = []  # for good: if the transaction has to be repeated, the runs are the same
    stored: Sequence[NewRun] = ready
    vault, environment = runtime.vault, runtime.environment
    if vault.codec is not None:
        # All at once, as their keys are made by other transactions.
        ready.extend(each(make, payloads))
        stored = sealed(vault, environment, ready)

    def parts() -> Iterator[Sequence[NewRun]]:
        start, size = 0, _FIRST
        while start < len(payloads):
            if start == len(ready):
                ready.extend(each(make, payloads[start : start + size], start))
            yield stored[start : start + size]
            start, size = start + size, min(PART, 2 * size)

    def work(tx: Transaction) -> list[Triggered]:
        now = tx.now()
        at_once = evolve(tx, clock=lambda: now)
        with pipelined(tx):
            return [done for part in parts() for done in trigger_alike(at_once, environment, part)]

    done = runtime.database.transact(work, runtime.clock)
    runtime.announce([one.run for one in done])
    return shown(vault, ready, done)
