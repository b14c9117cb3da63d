"""A check of the whole log by several processes, each with ranges of ids.

A stream and its row have the same id, so ranges are compared apart from each other; what is about more than one stream
is checked at the end, here.  On PostgreSQL all processes read the very snapshot of the first one.  A SQLite file cannot
lend its snapshot: there each range is read as of a moment of its own, in which stream and row are of one state.

The processes hear on their standard input what to do and have nothing of the caller's program in them, which therefore
needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import os
import pickle
import queue
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from typing import IO, Any

from attrs import frozen
from sqlalchemy import text

from runlane.errors import ConfigurationInvalid, InternalError, StorageUnavailable
from runlane.storage import replay
from runlane.storage.database import Database
from runlane.storage.findings import Verification
from runlane.storage.replay import MOST, Part
from runlane.storage.scan import Range
from runlane.storage.sealed import NOTHING, Evidence
from runlane.storage.transaction import Transaction

#: Ranges for each process: they are not equally long, as runs are not, and who is done takes the next.
_RANGES = 8
_SERVE = "from runlane.storage.sharing import serve; serve()"
_LENGTH = struct.Struct(">Q")


@frozen
class _Place:
    """Where to read, and what; travels to the processes."""

    url: str
    schema: str | None
    snapshot: str | None
    environment: str | None
    since: datetime | None


def verify(
    database: Database,
    environment: str | None,
    processes: int,
    progress: Callable[[int], None] | None = None,
    since: datetime | None = None,
    evidence: Evidence = NOTHING,
) -> Verification:
    """``replay.verify`` by so many processes.

    Raises:
        RunlaneError: one of them could not go on.
    """
    with database.snapshot() as tx:
        place = _Place(_url(database), database.schema, _exported(tx), environment, since)
        whole = Part(environments=set() if environment is None else {environment})
        with ExitStack() as stack:
            idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
            # The processes end first: threads wait for their answers, and whoever is interrupted would for threads.
            threads = stack.enter_context(ThreadPoolExecutor(processes, "runlane-verify"))
            for _ in range(processes):
                idle.put(stack.enter_context(_process(place)))
            left = {threads.submit(_asked, idle, within) for within in _ranges(tx, processes * _RANGES)}
            for part in _done(left):
                whole.add(part)
                if progress is not None:
                    progress(whole.counts["events"])
                if len(whole.differences) >= MOST:
                    break
        return replay.conclude(tx, environment, whole, since, evidence)


def _url(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def _exported(tx: Transaction) -> str | None:
    if tx.schema is None:
        return None
    # Whoever shares it out asks for nothing while the others read.
    tx.connection.exec_driver_sql("set local idle_in_transaction_session_timeout = '1h'")
    return str(tx.connection.execute(text("select pg_export_snapshot()")).scalar_one())


def _ranges(tx: Transaction, wanted: int) -> list[Range]:
    """Everything in about so many pieces, as equal as the ids of the runs make them."""
    runs = "runs" if tx.schema is None else f'"{tx.schema}".runs'
    as_text = "id" if tx.schema is None else "id::text"
    count = int(tx.connection.exec_driver_sql(f"select count(*) from {runs}").scalar_one())
    every = max(1, count // wanted)
    numbered = f"select {as_text} as id, row_number() over (order by id) as n from {runs}"
    found = tx.connection.execute(text(f"select id from ({numbered}) r where n % {every} = 0 order by n"))
    cuts = [row[0] for row in found][: wanted - 1]
    return [Range(*bounds) for bounds in zip([None, *cuts], [*cuts, None], strict=True)]


def _done(left: set[Future[Part]]) -> Iterator[Part]:
    """What came of each range, in no order; those that are not wanted any more are not begun."""
    try:
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for one in done:
                yield one.result()
    finally:
        for one in left:
            one.cancel()


class _Process:
    """A process that compares ranges, one after the other."""

    def __init__(self, place: _Place) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            process_group=0,  # a terminal's Ctrl-C is for the caller, who ends them
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._place = place
        self._begun = False

    def compare(self, within: Range) -> Part:
        """What comes of a range."""
        try:
            if not self._begun:
                _send(self._to, self._place)
                self._begun = True
            _send(self._to, within)
            answer = _receive(self._from)
        except (OSError, EOFError) as error:
            raise InternalError(f"a process that verified ended with code {self._process.poll()}") from error
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Part)
        return answer

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._to, self._from):
            with suppress(OSError):  # what it was not told yet
                stream.close()


@contextmanager
def _process(place: _Place) -> Iterator[_Process]:
    process = _Process(place)
    try:
        yield process
    finally:
        process.close()


def _asked(idle: queue.SimpleQueue[_Process], within: Range) -> Part:
    process = idle.get()
    try:
        return process.compare(within)
    finally:
        idle.put(process)


def _send(stream: IO[bytes], value: object) -> None:
    data = pickle.dumps(value)
    try:
        stream.write(_LENGTH.pack(len(data)) + data)
        stream.flush()
    except ValueError as error:  # closed meanwhile
        raise EOFError from error


def _receive(stream: IO[bytes]) -> Any:
    """The next value that another process of this very program has sent."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    return pickle.loads(stream.read(_LENGTH.unpack(head)[0]))  # noqa: S301


def serve() -> None:
    """Compare ranges until nobody asks any more; what the processes execute."""
    asked, told = sys.stdin.buffer, sys.stdout.buffer
    try:
        place: _Place = _receive(asked)
    except EOFError:
        return
    options: dict[str, Any] = {} if place.schema is None else {"schema": place.schema}
    database = Database(place.url, pool_size=1, **options)
    try:
        while True:
            within: Range = _receive(asked)
            try:
                with database.snapshot(place.snapshot) as tx:
                    answer: Part | BaseException = replay.compare(tx, place.environment, place.since, within)
            except (StorageUnavailable, ConfigurationInvalid) as error:
                answer = error
            except Exception as error:
                answer = InternalError(f"{type(error).__name__}: {error}")
            _send(told, answer)
    except EOFError:
        return
    finally:
        database.dispose()
