"""Whether archives are what the log tells of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import groupby
from pathlib import Path
from uuid import UUID

from attrs import field, frozen

from runlane.decisions import environment_stream
from runlane.errors import ConfigurationInvalid
from runlane.events import Recorded, RunsPruned
from runlane.export import archiving, formats
from runlane.export.replaying import replay
from runlane.export.signing import Checker
from runlane.storage import streams
from runlane.storage.transaction import Transaction
from runlane.values import Actor, file_path

#: Of what is wrong with one archive, so much is told.
_TOLD = 20
_AT_ONCE = 100
_DIGEST = re.compile("[0-9a-f]{64}")
#: The last event of each run: its sequence and its digest.
_Ends = Mapping[UUID, tuple[int, str]]


@frozen
class Kept:
    """Runs that were pruned into one archive, as the log tells, and whether that holds.

    Args:
        digest: the SHA-256 (hex) that the log tells.
        path: the file, None if it is not there.
        runs, events: how many were removed.
        pruned_at, actor: when, and by whom.
        problems: in what the file is not what the log tells; empty if it is.
    """

    digest: str
    path: Path | None
    runs: int
    events: int
    pruned_at: datetime
    actor: Actor
    problems: tuple[str, ...] = ()


@frozen
class Archives:
    """What a check of archives found.

    Args:
        kept: one for each archive that the log tells of, oldest first.
        untold: files that it does not tell of: left over where a prune did not come to its end, or of other logs.
        unarchived: how many runs were pruned without an archive.
        alone: whether one file was checked, not a folder.
    """

    kept: tuple[Kept, ...]
    untold: tuple[Path, ...]
    unarchived: int
    alone: bool = field(default=False, eq=False)

    @property
    def intact(self) -> bool:
        """Whether every archive that the log tells of is there, and exactly what was removed; of one file, whether it
        is such an archive."""
        return not any(one.problems for one in self.kept) and not (self.alone and self.untold)


def told(reading: Callable[[], AbstractContextManager[Transaction]], environment: str) -> Iterator[Recorded]:
    """The events of an environment's own stream, some at a time, each time in a transaction of its own."""
    stream_id, behind = environment_stream(environment), 0
    while True:
        with reading() as tx:
            some = streams.read_after(tx, stream_id, behind, _AT_ONCE)
        yield from some
        if len(some) < _AT_ONCE:
            return
        behind = some[-1].sequence


def check(
    told: Iterable[Recorded],
    path: str | Path,
    *,
    public_key: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Archives:
    """Compare archives with the ``environment.pruned`` events among `told`, in the order of their stream.

    Args:
        path: the folder of archives, or one of them; then only what the log tells of that one is checked, by what is in
            it and by its name.
        public_key: whose signature the manifests must have, a PEM file.
        progress: called with the number of archives so far.

    Raises:
        ConfigurationInvalid: there is no such folder or file, or the key cannot be used.
    """
    place = file_path("path", path)
    try:
        there = place.exists()
    except OSError:  # too long for a name
        there = False
    if not there:
        raise ConfigurationInvalid(f"{place} is neither a folder of archives nor an archive")
    if public_key is not None:
        Checker(public_key)
    only = None if place.is_dir() else {_sha256(place), place.stem}
    kept: list[Kept] = []
    unarchived = 0
    # What is removed in one transaction goes into one archive, so its events stand one behind the other.
    for digest, group in groupby(_prunings(told), key=lambda pruning: pruning[1].archive):
        if digest is None:
            unarchived += sum(event.runs for _, event in group)
        elif only is None or digest in only:
            file = place if only is not None else archiving.path_of(place, digest)
            kept.append(_check(digest, file, list(group), public_key))
            if progress is not None:
                progress(len(kept))
    files = {place} if only is not None else set(place.glob(f"*{archiving.SUFFIX}"))
    untold = tuple(sorted(files - {one.path for one in kept}))
    return Archives(tuple(kept), untold, unarchived, only is not None)


def _prunings(told: Iterable[Recorded]) -> Iterator[tuple[Recorded, RunsPruned]]:
    for record in told:
        if isinstance(record.event, RunsPruned):
            yield record, record.event


def _check(digest: str, file: Path, told: Sequence[tuple[Recorded, RunsPruned]], public_key: str | Path | None) -> Kept:
    first, events = told[0][0], [event for _, event in told]
    there = _DIGEST.fullmatch(digest) is not None and file.is_file()
    wrong = _wrong(digest, file, _ends_told(events), public_key) if there else iter(["is not there"])
    problems = [problem for problem, _ in zip(wrong, range(_TOLD), strict=False)]
    counts = sum(event.runs for event in events), sum(event.events for event in events)
    return Kept(digest, file if there else None, *counts, first.occurred_at, first.actor, tuple(problems))


def _wrong(digest: str, file: Path, told: _Ends, public_key: str | Path | None) -> Iterator[str]:
    """In what an archive is not what the log tells."""
    if _sha256(file) != digest:
        yield "is not the file that was archived, by its SHA-256"
    try:
        yield from map(str, replay(file, public_key=public_key, most=_TOLD).problems)
    except ConfigurationInvalid as error:
        yield error.message
    found = _ends_of(file)
    for run_id in sorted(told.keys() - found.keys()):
        yield f"lacks run {run_id}"
    for run_id in sorted(found.keys() - told.keys()):
        yield f"has run {run_id}, which the log does not tell of"
    for run_id in sorted(told.keys() & found.keys()):
        if told[run_id] != found[run_id]:
            yield f"ends run {run_id} with event {found[run_id][0]}, and not as the log tells, {told[run_id][0]}"


def _ends_told(events: Iterable[RunsPruned]) -> _Ends:
    ends: dict[UUID, tuple[int, str]] = {}
    for event in events:
        for head in event.heads:
            ends[head.stream_id] = max(ends.get(head.stream_id, (0, "")), (head.sequence, head.digest))
    return ends


def _ends_of(file: Path) -> _Ends:
    ends: dict[UUID, tuple[int, str]] = {}
    with file.open("rb") as data:
        for raw in formats.lines(data):
            try:
                event = formats.parse(raw)
                ends[formats.uuid_of(event.stream_id)] = (event.sequence, event.digest)
            except ValueError:  # told by the replay
                continue
    return ends


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationInvalid(f"{file} cannot be read: {error.strerror or error}") from error
