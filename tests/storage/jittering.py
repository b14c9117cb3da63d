"""Writers that append in no order that anybody could foresee, for those who follow the log meanwhile."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from uuid import UUID

from runlane.events import Recorded, RunDeliveryRequested
from runlane.storage import log
from runlane.storage.database import Database
from tests.support import birth, execute, step

Key = tuple[UUID, int]


def keys(records: Sequence[Recorded]) -> list[Key]:
    """Which events they are."""
    return [(record.stream_id, record.sequence) for record in records]


def stored(database: Database) -> list[Key]:
    """Every event of the log, in the order of positions."""
    found = execute(database, "select stream_id, sequence from {events} order by position")
    return [(UUID(str(row[0])), row[1]) for row in found]


def in_order(seen: Sequence[Key]) -> None:
    """Each stream's sequences are 1, 2, 3 … and nothing comes twice."""
    lengths: dict[UUID, int] = defaultdict(int)
    for stream, sequence in seen:
        lengths[stream] += 1
        assert sequence == lengths[stream]


def write(database: Database, seed: int, goes_on: Callable[[], bool], pause_s: float = 0.004) -> None:
    """Make runs and move them on, a transaction each: some of them old when they append, one in five rolled back.

    Args:
        pause_s: how long a transaction rests at most before it appends, and before it commits.
    """
    rng, pause = random.Random(seed), threading.Event()
    first = birth()
    with database.write() as tx:
        assert not log.append_runs(tx, [first])
    runs = [first.after]
    while goes_on():
        try:
            with database.write() as tx:
                n = rng.randrange(len(runs))
                old = rng.random() < 0.5
                change = birth() if rng.random() < 0.4 else step(runs[n], RunDeliveryRequested())
                if old:
                    tx.connection.exec_driver_sql("select pg_current_xact_id()")
                    pause.wait(rng.random() * pause_s)
                assert not log.append_runs(tx, [change])
                pause.wait(rng.random() * pause_s)
                if rng.random() < 0.2:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            continue
        if change.before is None:
            runs.append(change.after)
        else:
            runs[n] = change.after
