"""The row of a run beside what its history folds to, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runlane.projections import runs as run_fold
from runlane.projections.runs import Run
from runlane.storage import rows, tables
from runlane.storage.findings import Difference
from runlane.storage.scan import read_instant, stored_instant
from runlane.storage.streams import Stream
from runlane.storage.transaction import Transaction

#: The columns of a run as they are compared, and where ids and instants are among them.
COLUMNS = (*rows.BIRTH, "digest")
_OTHER_IDS = [
    place for place, name in enumerate(COLUMNS) if place and isinstance(tables.runs.c[name].type, tables.Guid)
]
_INSTANTS = [place for place, name in enumerate(COLUMNS) if isinstance(tables.runs.c[name].type, tables.Instant)]
_DIGEST = COLUMNS.index("digest")


def compare(tx: Transaction, run: Run, stream: Stream, row: Sequence[Any]) -> list[Difference]:
    """Where a row (``COLUMNS``, as ``scan`` gives it) is not what `stream` folds to, which is `run`."""
    folded = _as_stored(tx, run, stream)
    if folded == row:
        return []
    wrong = [place for place, stored in enumerate(row) if stored != folded[place]]
    begun = _parted(tx, stream, row, wrong)
    return [
        Difference(
            run.id, run.sequence, COLUMNS[place], _shown(place, row[place]), _shown(place, folded[place]), begun[place]
        )
        for place in wrong
    ]


def _as_stored(tx: Transaction, run: Run, stream: Stream) -> tuple[Any, ...]:
    """What the row of a run is to hold, as the database would give it."""
    values = [*rows.birth_values(run), stream.digest]
    values[0] = stream.name
    for place in _OTHER_IDS:
        if (id := values[place]) is not None:
            values[place] = str(id)
    stored = stored_instant(tx)
    for place in _INSTANTS:
        if (at := values[place]) is not None:
            values[place] = stored(at)
    return tuple(values)


def _parted(tx: Transaction, stream: Stream, row: Sequence[Any], wrong: Sequence[int]) -> dict[int, int]:
    """For each of these columns the event from which on the log and the row differ."""
    begun = dict.fromkeys(wrong, 1)
    state: Run | None = None
    for record in stream.records[:-1]:
        state = run_fold.born(record) if state is None else run_fold.after(state, record)
        values = _as_stored(tx, state, stream)
        for place in wrong:
            if values[place] == row[place]:
                begun[place] = record.sequence + 1
    if _DIGEST in begun:
        begun[_DIGEST] = next((n for n, one in enumerate(stream.digests, 2) if one == row[_DIGEST]), 1)
    return begun


def _shown(place: int, value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if place not in _INSTANTS or not isinstance(value, int):
        return value
    try:
        return read_instant(value)
    except ValueError as error:
        return str(error)
