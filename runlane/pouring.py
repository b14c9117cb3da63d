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

#: Runs of one statement.  Medians of six rounds: in parts of 125, 250 and 500 each of 1,000 runs took 17, 18 and 20 µs,
#: all in one 25 µs.
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
        for start in range(0, len(payloads), PART):
            if start == len(ready):
                ready.extend(each(make, payloads[start : start + PART], start))
            yield stored[start : start + PART]

    def work(tx: Transaction) -> list[Triggered]:
        now = tx.now()
        at_once = evolve(tx, clock=lambda: now)
        with pipelined(tx):
            return [done for part in parts() for done in trigger_alike(at_once, environment, part)]

    done = runtime.database.transact(work, runtime.clock)
    runtime.announce([one.run for one in done])
    return shown(vault, ready, done)
