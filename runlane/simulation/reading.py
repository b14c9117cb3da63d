"""Traces of a log in a database, and of an export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

from runlane.errors import ConfigurationInvalid, InvariantViolation
from runlane.events import QueuePaused, QueueResumed, Recorded
from runlane.export import formats
from runlane.export.formats import Envelope, Malformed
from runlane.export.replaying import opened, readable
from runlane.shown import shown
from runlane.simulation.scratch import Scratch
from runlane.simulation.trace import Reader, Selection, Trace
from runlane.storage import streams
from runlane.storage.transaction import Transaction
from runlane.tasks import Queue, Task
from runlane.values import file_path, free_text, instant

#: Events between two reports of progress.
_STRIDE = 1000
_DAMAGED = "damaged history"
Progress = Callable[[int], None] | None


def selection(
    since: datetime | None, until: datetime | None, tasks: Iterable[Any] | None, queues: Iterable[Any] | None
) -> Selection:
    """Which runs are meant.

    Raises:
        ConfigurationInvalid: naming the argument that is not valid.
    """
    begin = None if since is None else instant("since", since)
    end = None if until is None else instant("until", until)
    if begin is not None and end is not None and begin >= end:
        raise ConfigurationInvalid(f"since ({begin.isoformat()}) must lie before until ({end.isoformat()})")
    return Selection(begin, end, _names("tasks", tasks), _names("queues", queues))


def _names(what: str, given: Iterable[Any] | None) -> frozenset[str] | None:
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationInvalid(f"{what} must be a list, such as {what}=[{shown(given)}]; got {shown(given)}")
    names = [one.id if isinstance(one, Task) else one.name if isinstance(one, Queue) else one for one in given]
    return frozenset(free_text(f"an entry of {what}", name) for name in names)


def of_log(tx: Transaction, environment: str, chosen: Selection, scratch: Scratch, progress: Progress = None) -> Trace:
    """The trace of an environment, in that file."""
    reader, events, reported = Reader(chosen, scratch), 0, 0
    with closing(streams.read_streams(tx, "queue.", environment)) as found:
        for stream in found:
            reader.add_queue(stream.records)
    with closing(streams.read_streams(tx, "run.", environment, chosen.since)) as found:
        for stream in found:
            if stream.damage is not None or stream.forged is not None:
                reader.leave_out(_DAMAGED)
            else:
                reader.add_run(stream.records)
            events += len(stream.records)
            if progress is not None and events >= reported + _STRIDE:
                reported = events
                progress(events)
    return reader.trace()


def of_export(path: str | Path, chosen: Selection, scratch: Scratch, progress: Progress = None) -> Trace:
    """The trace of an export in JSON Lines, in that file; what is wrong with it, ``runlane audit replay`` says.

    Raises:
        ConfigurationInvalid: it cannot be read: a file is missing, it is in another format or of another version, or a
            line is no event.
    """
    place = file_path("path", path)
    readable(place)
    reader, events, reported = Reader(chosen, scratch), 0, 0
    with opened(place) as file:
        for _, group in groupby(_envelopes(place, file), key=attrgetter("stream_id")):
            envelopes = list(group)
            _add(reader, envelopes)
            events += len(envelopes)
            if progress is not None and events >= reported + _STRIDE:
                reported = events
                progress(events)
    return reader.trace()


def _envelopes(path: Path, file: BinaryIO) -> Iterator[Envelope]:
    for number, raw in enumerate(formats.lines(file), 1):
        try:
            yield formats.parse(raw)
        except Malformed as error:
            raise ConfigurationInvalid(f"{path} line {number} {error}; see `runlane audit replay {path}`") from error


def _add(reader: Reader, envelopes: list[Envelope]) -> None:
    try:
        records: list[Recorded] = [formats.recorded(one) for one in envelopes]
    except (InvariantViolation, ValueError):
        if envelopes[0].type.startswith("run."):
            reader.leave_out(_DAMAGED)
        return
    if isinstance(records[0].event, (QueuePaused, QueueResumed)):
        reader.add_queue(records)
    elif envelopes[0].type.startswith("run."):
        reader.add_run(records)
