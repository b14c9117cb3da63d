"""Importing an export into a database: the same history, and every row that it folds to.

The file is replayed first, so that nothing is written of one that is damaged.  Then its streams are written in the
order of the file, whole ones, some thousand events in a transaction.  What was interrupted goes on where it ended: the
events that are there already are compared with the file, line by line, and nothing else may be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from attrs import frozen

from runlane.errors import ConfigurationInvalid, InvariantViolation
from runlane.events import Recorded
from runlane.export import folding, formats, replaying
from runlane.export.folding import State
from runlane.export.formats import Envelope
from runlane.export.keys import KeyIndex
from runlane.export.manifest import Manifest
from runlane.lanes import Lane, lane_of
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.storage import extracts, restore
from runlane.storage.database import Database
from runlane.storage.dialect import EventRow
from runlane.storage.transaction import Transaction
from runlane.values import file_path

#: A transaction ends with the stream that fills it; longer streams are written in several statements of as many.
_BATCH = 5000
#: Streams with much data fill a transaction, and a statement, by its characters.
_BATCH_DATA = 32 * 1024 * 1024

Progress = Callable[[int], None]


@frozen
class Imported:
    """What an import has written.

    Args:
        environment: where to: the one the events come from.
        events, streams, runs: of the export, all of which are there now.
        found: how many of the events an earlier, interrupted import had written.
    """

    environment: str
    events: int
    streams: int
    runs: int
    found: int = 0


def import_events(
    path: str | Path,
    database: Lane | str,
    *,
    environment: str | None = None,
    public_key: str | Path | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Write the events of an export, and all that is folded from them, into an environment that has none.

    The tables are created or upgraded.  Repeated after an interruption, it goes on; repeated after it was done, it
    finds everything there.

    Args:
        path: the data file, in JSON Lines, with its manifest beside it.
        database: where to, as a URL or a lane.
        environment: if given, the environment that the export must be of.
        public_key: whose signature the manifest must have, a PEM file.
        progress: called with the number of events written so far.

    Raises:
        ConfigurationInvalid: the export cannot be read, or the environment has events that are not of it.
        InvariantViolation: the export is damaged; nothing was written.
    """
    place = file_path("path", path)
    told = replaying.readable(place)
    if environment not in (None, told.environment):
        raise ConfigurationInvalid(f"{place} is an export of environment {told.environment!r}, not {environment!r}")
    lane = lane_of(database)
    with closing(KeyIndex()) as keys:
        found = replaying.replay(place, public_key=public_key, ended=keys.note)
        if found.problems:
            more = "" if len(found.problems) == 1 else f" (and {len(found.problems) - 1:,} more)"
            raise InvariantViolation(f"{place} is damaged, and nothing was imported: {found.problems[0]}{more}")
        keys.settle()
        try:
            lane.database.migrate()
            there = _Import(place, told, lane.database, keys, progress).run()
        finally:
            if lane is not database:
                lane.database.dispose()
    return Imported(told.environment, found.events, found.streams, sum(found.by_status.values()), there)


@frozen
class _Standing:
    """How far an earlier import has come: where in the file to go on, and how many events are there.

    Streams in `late` are written when all others are; those of them that are there already are in `late_found`.
    """

    offset: int
    events: int = 0
    late_found: frozenset[UUID] = frozenset()


class _Import:
    """One import into one database."""

    def __init__(
        self, path: Path, told: Manifest, database: Database, keys: KeyIndex, progress: Progress | None
    ) -> None:
        self._path = path
        self._told = told
        self._database = database
        self._keys = keys
        self._progress = progress

    def run(self) -> int:
        """Write what is not there yet; how many events were there."""
        begun = self._standing()
        done = begun.events
        offset: int | None = begun.offset
        while offset is not None:
            offset, written = self._database.transact(partial(self._write_batch, offset))
            done = self._tell(done + written)
        for stream_id, offset in self._keys.late():
            if stream_id not in begun.late_found:
                done = self._tell(done + self._database.transact(partial(self._write_one, offset)))
        return begun.events

    def _tell(self, done: int) -> int:
        if self._progress is not None:
            self._progress(done)
        return done

    def _write_batch(self, offset: int, tx: Transaction) -> tuple[int | None, int]:
        """Write whole streams from a place in the file on; where the next batch begins, and how many events."""
        writing = _Writing(tx, self._keys)
        with replaying.opened(self._path) as file:
            file.seek(offset)
            for stream_id, events in groupby(_events(file), _stream_of):
                if writing.is_full:
                    writing.finish()
                    return offset, writing.written
                late = self._keys.is_late(UUID(stream_id))
                for raw, event in events:
                    offset += len(raw)
                    if not late:
                        writing.add(event)
                writing.end_stream()
        writing.finish()
        return None, writing.written

    def _write_one(self, offset: int, tx: Transaction) -> int:
        """Write the stream that begins at this place."""
        writing = _Writing(tx, self._keys)
        with replaying.opened(self._path) as file:
            file.seek(offset)
            _, events = next(groupby(_events(file), _stream_of))
            for _, event in events:
                writing.add(event)
        writing.end_stream()
        writing.finish()
        return writing.written

    def _standing(self) -> _Standing:
        """What is there already, which must be what an import of this file had written when it was interrupted.

        Raises:
            ConfigurationInvalid: something else is there.
        """
        with self._database.snapshot() as tx:
            if not restore.holds(tx, self._told.environment):
                return _Standing(0)
            with closing(extracts.read(tx, self._told.environment)) as rows:
                stored = map(formats.envelope, rows)
                return self._compared(stored)

    def _compared(self, stored: Iterator[Envelope]) -> _Standing:
        """Both are in the same order; of the file, whole streams may be missing, but none before one that is there."""
        offset, there, begun = 0, 0, None
        late_found: set[UUID] = set()
        mine = next(stored, None)
        with replaying.opened(self._path) as file:
            for stream_id, events in groupby(_events(file), _stream_of):
                is_there = mine is not None and mine.stream_id == stream_id
                late = self._keys.is_late(UUID(stream_id))
                if not is_there and not late and begun is None:
                    begun = offset
                for raw, event in events:
                    offset += len(raw)
                    if is_there:
                        if mine != event:
                            raise self._refused(mine or event)
                        there += 1
                        mine = next(stored, None)
                if is_there and late:
                    late_found.add(UUID(stream_id))
                elif is_there and begun is not None:
                    raise self._refused(None)
        if mine is not None:
            raise self._refused(mine)
        if late_found and begun is not None:
            raise self._refused(None)
        return _Standing(offset if begun is None else begun, there, frozenset(late_found))

    def _refused(self, event: Envelope | None) -> ConfigurationInvalid:
        what = "" if event is None else f": event {event.sequence} of {event.stream_id} is not as in the file"
        return ConfigurationInvalid(
            f"environment {self._told.environment!r} of {self._database.where} has events of its own{what}; "
            "import into an empty database"
        )


def _events(file: BinaryIO) -> Iterator[tuple[bytes, Envelope]]:
    """The events from where a file stands, each with its line."""
    for raw in formats.lines(file):
        yield raw, formats.parse(raw)


def _stream_of(line: tuple[bytes, Envelope]) -> str:
    return line[1].stream_id


class _Writing:
    """The streams of one transaction, event by event."""

    def __init__(self, tx: Transaction, keys: KeyIndex) -> None:
        self._tx = tx
        self._keys = keys
        self._rows: list[EventRow] = []
        self._fired: list[Recorded] = []
        self._states: list[tuple[State, str]] = []
        self._owned: list[restore.OwnedKey] = []
        self._state: State | None = None
        self._digest = ""
        self._size = 0
        self.written = 0

    @property
    def is_full(self) -> bool:
        """Whether a statement was filled: then the transaction ends with the stream at hand."""
        return self.written > 0

    def add(self, event: Envelope) -> None:
        """The next event of the stream at hand."""
        record = formats.recorded(event)
        self._state, self._digest = folding.after(self._state, record), event.digest
        self._rows.append(formats.row(event, record))
        self._size += len(event.data)
        if isinstance(self._state, ScheduleState):
            self._fired.append(record)
        if len(self._rows) >= _BATCH or self._size >= _BATCH_DATA:
            self._flush()

    def end_stream(self) -> None:
        """No more events of the stream at hand, which may have had none that are to be written."""
        state, self._state = self._state, None
        if state is None:
            return
        if isinstance(state, ScheduleState):
            restore.occurrences(self._tx, state, self._fired)
            self._fired = []
        if isinstance(state, Run) and state.idempotency_key is not None:
            self._owned.append(self._keys.owned(state))
        self._states.append((state, self._digest))

    def finish(self) -> None:
        """Write what is left."""
        self._flush()
        restore.states(self._tx, self._states)
        restore.keys(self._tx, self._owned)

    def _flush(self) -> None:
        restore.events(self._tx, self._rows)
        self.written += len(self._rows)
        self._rows, self._size = [], 0
        if isinstance(self._state, ScheduleState):
            restore.occurrences(self._tx, self._state, self._fired)
            self._fired = []
