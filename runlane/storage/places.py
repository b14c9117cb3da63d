"""Places in a log, and the opaque texts that stand for them: cursors.

A cursor is the epoch it was made in (number and token), the position of the last event that lies before it, and a mark
of that event: the end of its stream's id and its sequence.  The mark is compared when the cursor is used again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import bindparam, select

from runlane.errors import ConfigurationInvalid
from runlane.shown import shown
from runlane.storage import epochs, tables
from runlane.storage.epochs import Epoch
from runlane.storage.transaction import Transaction

_EVENTS = tables.events.c
_AT = select(_EVENTS.stream_id, _EVENTS.sequence).where(_EVENTS.position == bindparam("position"))
_TEXT = re.compile(r"(\d{1,9})\.([0-9a-f]{8})\.(\d{1,18})(?:\.([0-9a-f]{8}-\d{1,10}))?", re.ASCII)


@frozen
class Place:
    """Behind this position in an epoch; `mark` tells the event there from another one, if there is one."""

    epoch: int
    token: str
    position: int
    mark: str | None = None

    @property
    def text(self) -> str:
        """The cursor."""
        return f"{self.epoch}.{self.token}.{self.position}" + (f".{self.mark}" if self.mark else "")


def mark_of(event: Any) -> str:
    """The mark of an event, of which a row or a record has `stream_id` and `sequence`."""
    return f"{event.stream_id.hex[-8:]}-{event.sequence}"


def parsed(cursor: str) -> Place:
    """The place that a cursor's text stands for.

    Raises:
        ConfigurationInvalid: it is none.
    """
    found = _TEXT.fullmatch(cursor)
    if found is None:
        raise ConfigurationInvalid(
            f"cursor must be 'start', 'end', 'name:…' or the cursor of a batch; got {shown(cursor)}"
        )
    return Place(int(found[1]), found[2], int(found[3]), found[4])


def check(tx: Transaction, place: Place, known: Sequence[Epoch]) -> Place:
    """The same place in the epoch of today.

    Args:
        known: the log's epochs.

    Raises:
        ConfigurationInvalid: what lies before the cursor is not the history of this log.
    """
    of_it = next((n for n, one in enumerate(known) if (one.number, one.token) == (place.epoch, place.token)), None)
    if of_it is None:
        raise _refused(place, "it belongs to another database, or to what was written after this backup was made")
    if of_it + 1 < len(known):
        last, until = known[of_it + 1].since, "when this database was restored"
    else:
        last, until = epochs.last_position(tx), "so far"
    if place.position > last:
        raise _refused(place, f"it speaks of the future: the log had reached position {last} {until}")
    if place.mark is not None:
        found = tx.execute(_AT, {"position": place.position}).first()  # none, if that run has been pruned
        if found is not None and mark_of(found) != place.mark:
            raise _refused(place, "another event stands at its position: the log was restored to before it")
    now = known[-1]
    return Place(now.number, now.token, place.position, place.mark)


def _refused(place: Place, why: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"cursor {place.text} cannot be followed from here: {why}; compare what you hold with the log, and begin again "
        "at a cursor of this database",
        meta={"cursor": place.text},
    )
