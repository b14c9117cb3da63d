"""Folding and checking an export without any database."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from attrs import frozen

from runlane.digests import START
from runlane.errors import ConfigurationInvalid, InvariantViolation
from runlane.export import folding, formats, manifest
from runlane.export.aligning import Aligned, Differing
from runlane.export.folding import State
from runlane.export.formats import Envelope, Malformed
from runlane.export.manifest import Manifest
from runlane.export.signing import Checker
from runlane.export.writing import DIGEST
from runlane.projections.queues import QueueControl
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.shown import shown, words_of
from runlane.storage.tables import VERSION
from runlane.values import RunStatus, file_path

#: Events between two reports of progress.
_STEP = 1000
_BUFFER = 1024 * 1024

#: Called with the state that a whole stream folds to, and where in the file it begins.
Ended = Callable[[State, int], None]


@frozen
class Problem:
    """Something in an export that cannot be: in which line (from 1; None for the export as a whole), of which event."""

    line: int | None
    stream_id: UUID | None
    sequence: int | None
    what: str

    def __str__(self) -> str:
        event = "" if self.stream_id is None else f"event {self.sequence or '?'} of {self.stream_id} "
        return self.what if self.line is None else f"line {self.line}: {event}{self.what}"


@frozen
class Replayed:
    """What a replay found.

    Args:
        manifest: what the export says of itself.
        events, streams: how many the file has.
        by_status: the runs that its events fold to.
        schedules, queues: how many of them.
        problems: what is wrong, at most a thousand.
        signed: whether the signature is that of the given key; None if no key was given.
    """

    manifest: Manifest
    events: int
    streams: int
    by_status: Mapping[RunStatus, int]
    schedules: int
    queues: int
    problems: tuple[Problem, ...]
    signed: bool | None = None

    @property
    def clean(self) -> bool:
        """Whether the export is exactly what was exported, and a legal history."""
        return not self.problems


def replay(
    path: str | Path,
    *,
    public_key: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
    ended: Ended | None = None,
    most: int = 1000,
) -> Replayed:
    """Fold and check an export in JSON Lines; needs no database, and constant memory.

    Checked are the signature (with `public_key`, a PEM file), counts and digests of the manifest, each line against
    its digest, sequences without gaps, and that every event may follow the ones before.

    Args:
        public_key: whose signature the manifest must have.
        progress: called with the number of events so far.
        ended: called with what each legal stream folds to, and the place in the file where the stream begins.
        most: of the problems found, so many are told.

    Raises:
        ConfigurationInvalid: it cannot be checked: a file is missing or unreadable, or of another format or version.
    """
    place = file_path("path", path)
    told = readable(place)
    checker = None if public_key is None else Checker(public_key)
    checking = _Checking(told, _digests(place, told), ended, most)
    signed = None if checker is None else checking.check_signature(checker)
    with opened(place) as file:
        for raw in formats.lines(file):
            checking.feed(raw)
            if progress is not None and checking.events % _STEP == 0:
                progress(checking.events)
    checking.end()
    if progress is not None:
        progress(checking.events)
    return checking.found(signed)


def readable(path: Path) -> Manifest:
    """The manifest of an export that this Runlane can replay.

    Raises:
        ConfigurationInvalid: saying why it cannot.
    """
    told = manifest.read(path)
    if told.format != formats.CANONICAL:
        raise ConfigurationInvalid(f"{path} is an export in {told.format}; only {formats.CANONICAL} can be replayed")
    if told.schema_version > VERSION:
        raise ConfigurationInvalid(
            f"{path} was made by Runlane {told.runlane_version}, whose events this one may not know; upgrade it"
        )
    return told


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The data file of an export.

    Raises:
        ConfigurationInvalid: it cannot be read.
    """
    try:
        with path.open("rb", buffering=_BUFFER) as file:
            yield file
    except OSError as error:
        raise ConfigurationInvalid(f"{path} cannot be read: {error.strerror or error}") from error


@frozen
class _Digests:
    """The digests of the exported lines, or why there are none."""

    exported: Iterator[bytes] | None
    problem: str | None = None


def _digests(path: Path, told: Manifest) -> _Digests:
    place = manifest.lines_of(path)
    if not place.exists():
        return _Digests(None)
    sha256 = hashlib.sha256()
    with opened(place) as file:
        for part in iter(partial(file.read, _BUFFER), b""):
            sha256.update(part)
    if sha256.hexdigest() != told.lines_sha256:
        return _Digests(None, f"{place.name} is not the one that was exported")
    return _Digests(_read_digests(place))


def _read_digests(place: Path) -> Iterator[bytes]:
    with opened(place) as file:
        while digest := file.read(DIGEST):
            yield digest


@frozen
class _Line:
    """A line of the file, as far as it could be read."""

    number: int | None
    stream_id: UUID | None
    sequence: int | None


class _Checking:
    """One pass over the lines."""

    def __init__(self, told: Manifest, digests: _Digests, ended: Ended | None, most: int) -> None:
        self._told = told
        self._ended = ended
        self._most = most
        self._problems: list[Problem] = []
        self._numbers = count(1)
        self._aligned = None if digests.exported is None else Aligned[_Line](digests.exported)
        self._without_digests = digests.exported is None
        self._offset = 0
        self._sha256 = hashlib.sha256()
        self._stream: _Stream | None = None
        self._first_at: str | None = None
        self._last_at: str | None = None
        self._by_type: Counter[str] = Counter()
        self._states: Counter[type | RunStatus] = Counter()
        self.events = 0
        self._streams = 0
        if digests.problem is not None:
            self._wrong(None, digests.problem)

    def check_signature(self, checker: Checker) -> bool:
        """Whether the manifest is signed with this key; if not, that is a problem."""
        told = self._told
        if told.signature is None:
            self._wrong(None, "the manifest is not signed")
        elif told.key != checker.fingerprint:
            self._wrong(None, f"the manifest is signed with another key, {told.key}")
        elif not checker.holds(told.canonical(), told.signature):
            self._wrong(None, "the manifest is not as it was signed")
        else:
            return True
        return False

    def feed(self, raw: bytes) -> None:
        """The next line."""
        offset, self._offset = self._offset, self._offset + len(raw)
        self._sha256.update(raw)
        self.events += 1
        number = next(self._numbers)
        try:
            event = formats.parse(raw)
            line = _Line(number, formats.uuid_of(event.stream_id), event.sequence)
        except Malformed as error:
            line = _Line(number, error.stream_id, error.sequence)
            self._wrong(line, str(error))
            if self._stream is not None:
                self._stream.pass_over(error)
        except ValueError:
            line = _Line(number, None, None)
            self._wrong(line, "has a stream_id that is no UUID")
        else:
            self._event(event, line, offset)
        if self._aligned is not None:
            self._differ(self._aligned.feed(hashlib.sha256(raw).digest()[:DIGEST], line))

    def _event(self, event: Envelope, line: _Line, offset: int) -> None:
        self._by_type[event.type] += 1
        at = event.occurred_at
        self._first_at = at if self._first_at is None else min(at, self._first_at)
        self._last_at = at if self._last_at is None else max(at, self._last_at)
        if event.environment != self._told.environment:
            self._wrong(line, f"is of environment {shown(event.environment)}, not {shown(self._told.environment)}")
        stream = self._stream
        if stream is None or stream.id != event.stream_id:
            self._end_stream()
            if stream is not None and event.stream_id < stream.id:
                self._wrong(line, "stands out of order: streams come by their ids")
            stream = self._stream = _Stream(event.stream_id, offset)
            self._streams += 1
        for what in stream.add(event):
            self._wrong(line, what)

    def _end_stream(self) -> None:
        stream = self._stream
        if stream is None or stream.state is None or stream.is_broken:
            return
        state = stream.state
        self._states[state.status if isinstance(state, Run) else type(state)] += 1
        if self._ended is not None:
            self._ended(state, stream.offset)

    def end(self) -> None:
        """No more lines: compare with the manifest."""
        self._end_stream()
        if self._aligned is not None:
            self._differ(self._aligned.end())
        told = self._told
        for what, wanted, found in (
            ("events", told.events, self.events),
            ("streams", told.streams, self._streams),
            ("bytes", told.size, self._offset),
        ):
            if wanted != found:
                self._wrong(None, f"the manifest tells of {wanted:,} {what}, and the file has {found:,}")
        for kind in sorted({*told.by_type, *self._by_type}):
            if told.by_type.get(kind, 0) != self._by_type[kind]:
                counts = f"{told.by_type.get(kind, 0):,} {kind}, and the file has {self._by_type[kind]:,}"
                self._wrong(None, f"the manifest tells of {counts}")
        times = (told.first_at, told.last_at) == (_instant(self._first_at), _instant(self._last_at))
        if not times:
            self._wrong(None, "the first and last times of the manifest are not those of the events")
        sha256 = self._sha256.hexdigest()
        if sha256 != told.sha256 or sha256 != told.events_sha256:
            named = "; without its file of line digests nobody can say which line" if self._without_digests else ""
            self._wrong(None, f"the file is not the one that was exported, by its SHA-256{named}")

    def found(self, signed: bool | None) -> Replayed:
        """What there is to tell."""
        return Replayed(
            self._told,
            self.events,
            self._streams,
            {status: self._states[status] for status in RunStatus if self._states[status]},
            self._states[ScheduleState],
            self._states[QueueControl],
            tuple(self._problems),
            signed,
        )

    def _differ(self, differing: Iterator[Differing[_Line]]) -> None:
        for one in differing:
            if one.place is None:
                self._wrong(None, f"the last {one.missing:,} of the exported events are missing")
            elif one.missing:
                events = "an event" if one.missing == 1 else f"{one.missing:,} events"
                self._wrong(one.place, f"does not follow what it followed: {events} before it are missing")
            elif one.is_new:
                self._wrong(one.place, "was not exported, or not here")
            else:
                self._wrong(one.place, "is not the event that was exported here")

    def _wrong(self, line: _Line | None, what: str) -> None:
        if len(self._problems) < self._most:
            at = line or _Line(None, None, None)
            self._problems.append(Problem(at.number, at.stream_id, at.sequence, what))


class _Stream:
    """A stream while it is folded."""

    def __init__(self, id: str, offset: int) -> None:
        self.id = id
        self.offset = offset
        self.state: State | None = None
        self.is_broken = False
        self._last = 0
        self._digest = START.hex()

    def add(self, event: Envelope) -> Iterator[str]:
        """The next event; yields what is wrong with it."""
        expected, self._last = self._last + 1, event.sequence
        if event.sequence != expected:
            self.is_broken = True
            if event.sequence > expected:
                last = event.sequence - 1
                missing = f"event {last}" if last == expected else f"events {expected} to {last}"
                yield f"comes too early: {missing} of its stream should stand before it"
            else:
                yield f"comes again or too late, behind event {expected - 1} of its stream"
        before, self._digest = self._digest, event.digest
        try:
            record = formats.recorded(event)
            if formats.digest(before, event, record) != event.digest:
                self.is_broken = True
                yield "has a digest that does not follow from it and the event before it"
            if not self.is_broken:
                self.state = folding.after(self.state, record)
        except Exception as error:  # what a stranger has written may be of any kind, at any place of it
            self.is_broken = True
            yield _said(error)

    def pass_over(self, error: Malformed) -> None:
        """A line of it, by its place, cannot be read."""
        self.is_broken = True
        if error.stream_id is None or str(error.stream_id) == self.id:
            self._last = self._last + 1 if error.sequence is None else error.sequence


def _said(error: Exception) -> str:
    if isinstance(error, Malformed):
        return str(error)
    told = error.message if isinstance(error, InvariantViolation) else words_of(error)
    return f"is not possible there: {told[:500]}"


def _instant(text: str | None) -> object:
    try:
        return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return text
