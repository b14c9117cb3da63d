"""Checking checkpoints: that they are one chain, that each is what was kept of it elsewhere, and that its stretch of
the log still makes its root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any
from uuid import UUID

from attrs import asdict, field, frozen

from runlane import checkpoints, merkle
from runlane.checkpoints import Checker, Checkpoint, stated
from runlane.decisions import environment_stream
from runlane.errors import InvariantViolation
from runlane.events import LogCheckpointed, Part
from runlane.storage import leaves
from runlane.storage.checkpoints import CHECKPOINTED, read_event, tokens
from runlane.storage.findings import Difference
from runlane.storage.leaves import Gone, Leaf
from runlane.storage.scan import flow, stored_instant
from runlane.storage.transaction import Transaction

#: So many changes of one checkpoint are told.
_MOST = 50
_BATCH = 20
_CHECKPOINTS = {
    "postgresql": """
        select sequence, version, data::text, digest, position, occurred_at from {events}
        where stream_id = %s and type = %s order by sequence""",
    "sqlite": """
        select sequence, version, data, digest, position, occurred_at from {events}
        where stream_id = ? and type = ? order by sequence""",
}


@frozen
class Kept:
    """A checkpoint that was kept elsewhere, and the file it was read from."""

    path: str
    checkpoint: Checkpoint


@frozen
class Evidence:
    """What is known of an environment's checkpoints from elsewhere: public keys by fingerprint, and files."""

    checkers: Mapping[str, Checker] = field(factory=dict)
    kept: tuple[Kept, ...] = ()

    @property
    def is_asked_for(self) -> bool:
        """Whether whoever checks wants to have it proved."""
        return bool(self.checkers or self.kept)


NOTHING = Evidence()


def check(
    tx: Transaction, environment: str, evidence: Evidence, since: datetime | None, counts: Counter[str]
) -> list[Difference]:
    """What is wrong with an environment's checkpoints, and with the log as they sealed it; in constant memory.

    Args:
        since: only the stretches of checkpoints that were made at or after this instant are read again.
        counts: ``checkpoints`` and ``foreign`` grow by those that hold, and those of another log.
    """
    checking = _Checking(tx, environment, evidence, counts)
    stream: Any = checking.stream_id
    moment: Any = None if since is None else stored_instant(tx)(since)
    asked = [stream if tx.schema is not None else str(stream), CHECKPOINTED]
    with closing(flow(tx, leaves.statement(tx, _CHECKPOINTS), asked, _BATCH)) as rows:
        for sequence, version, data, digest, position, at in rows:
            recent = moment is None or (isinstance(at, type(moment)) and at >= moment)
            checking.take(sequence, version, data, digest, position, recent)
    return checking.end()


class _Checking:
    """One pass over the checkpoints of an environment."""

    def __init__(self, tx: Transaction, environment: str, evidence: Evidence, counts: Counter[str]) -> None:
        self._tx = tx
        self._environment = environment
        self._evidence = evidence
        self._counts = counts
        self._epochs = tokens(tx)
        self._before: Checkpoint | None = None
        self._numbers: set[int] = set()
        self._gone: Gone | None = None
        self._differences: list[Difference] = []
        self._sequence = 0
        self.stream_id = environment_stream(environment)

    def take(self, sequence: int, version: int, data: str, digest: bytes, position: int, recent: bool) -> None:
        """The next checkpoint, as it is stored."""
        self._sequence = sequence
        try:
            event = read_event(version, data)
            one = stated(self._environment, event, digest.hex())
        except (InvariantViolation, AttributeError) as error:
            number = 1 if self._before is None else self._before.number + 1
            self._wrong(number, str(error), "a readable checkpoint")
            return
        found = len(self._differences)
        self._check_chain(one)
        self._check_evidence(one)
        try:
            root = checkpoints.root_of(bytes.fromhex(part.root) for part in event.parts).hex()
        except ValueError as error:
            root = str(error)
        if root != one.root:
            self._wrong(one.number, f"root {one.root}", f"root {root}, as its parts make it")
        if one.epoch not in self._epochs:
            self._counts["foreign"] += 1
            if self._evidence.is_asked_for:
                self._wrong(one.number, f"of another log (epoch {one.epoch})", "a checkpoint of this log")
        else:
            if position <= one.to_position:
                self._wrong(one.number, f"at position {position}", f"behind {one.to_position}, which it sealed")
            if recent:
                self._check_stretch(event)
                self._counts["checkpoints"] += found == len(self._differences)
        self._before = one

    def end(self) -> list[Difference]:
        """What was found; all checkpoints have been seen."""
        if self._gone is not None:
            self._gone.close()
        for kept in self._evidence.kept:
            if kept.checkpoint.number not in self._numbers:
                self._wrong(kept.checkpoint.number, "absent", f"as kept in {kept.path}")
        return self._differences

    def _wrong(self, number: int, stored: object, expected: object) -> None:
        self._tell(number, self.stream_id, self._sequence, stored, expected)

    def _tell(self, number: int, stream_id: UUID, sequence: int, stored: object, expected: object) -> None:
        self._differences.append(Difference(stream_id, sequence, f"checkpoint {number}", stored, expected))

    def _check_chain(self, one: Checkpoint) -> None:
        before = self._before
        number = 1 if before is None else before.number + 1
        if one.number != number:
            self._wrong(one.number, f"number {one.number}", f"number {number}")
        previous = None if before is None else before.digest
        if one.previous != previous:
            self._wrong(one.number, f"behind {one.previous}", f"behind {previous}, the digest of the one before")
        begins = 0 if before is None else before.to_position
        # One that was made in a log that had been imported begins anew.
        if one.from_position != begins and (before is None or before.epoch == one.epoch or one.from_position):
            self._wrong(one.number, f"from position {one.from_position}", f"from position {begins}")
        if one.to_position < one.from_position:
            self._wrong(one.number, f"to position {one.to_position}", f"at least {one.from_position}")

    def _check_evidence(self, one: Checkpoint) -> None:
        self._numbers.add(one.number)
        if self._evidence.checkers:
            why = one.why_unsigned(self._evidence.checkers)
            if why is not None:
                self._wrong(one.number, why, "signed with the given key")
        for kept in self._evidence.kept:
            if kept.checkpoint.number == one.number and kept.checkpoint != one:
                mine, theirs = asdict(one), asdict(kept.checkpoint)
                odd = {name: value for name, value in mine.items() if value != theirs[name]}
                told = ", ".join(f"{name} {value}" for name, value in odd.items())
                expected = ", ".join(f"{name} {theirs[name]}" for name in odd)
                self._wrong(one.number, told, f"{expected}, as kept in {kept.path}")

    def _check_stretch(self, event: LogCheckpointed) -> None:
        """Whether the stretch still makes the root; what has changed in it, as far as the parts tell."""
        if self._gone is None:
            leaves.plan(self._tx)
            self._gone = Gone(self._tx, self._environment, event.from_position)
        begin, end = event.from_position, event.to_position
        told = len(self._differences)
        with closing(leaves.between(self._tx, self._gone, self._environment, begin, end)) as stretch:
            found = _Ahead(stretch)
            for part in event.parts:
                group = found.take(part.position)
                if group.root != part.root and len(self._differences) < told + _MOST:
                    self._tell_part(event, part, group, begin)
                begin = part.position
            rest = found.take(None)
        total = found.taken
        if rest.leaves and len(self._differences) < told + _MOST:
            self._tell_more(event.number, rest.first)
        if total != event.leaves and len(self._differences) == told:
            self._wrong(event.number, f"{total} streams", f"{event.leaves} streams")

    def _tell_part(self, event: LogCheckpointed, part: Part, group: _Group, begin: int) -> None:
        if len(event.parts) < event.leaves:  # each stands for several streams
            where = f"of positions {begin + 1} to {part.position}"
            stored = f"{group.leaves} last events {where}, with root {group.root}"
            self._wrong(event.number, stored, f"the last events {where} as they were sealed, with root {part.root}")
            return
        sealed = f"event {part.sequence} at position {part.position}"
        others = [leaf for leaf in group.first if leaf.stream_id != str(part.stream_id)]
        same = next((leaf for leaf in group.first if leaf.stream_id == str(part.stream_id)), None)
        if same is None:
            self._tell(event.number, part.stream_id, part.sequence, "absent", sealed)
        elif same.place != (str(part.stream_id), part.sequence, part.position):
            stored = f"event {same.sequence} at position {same.position}"
            self._tell(event.number, part.stream_id, same.sequence, stored, sealed)
        elif checkpoints.leaf(*same.place, same.digest).hex() != part.root:
            stored = f"{sealed} with digest {same.digest}"
            self._tell(event.number, part.stream_id, part.sequence, stored, f"{sealed} with another digest")
        self._tell_more(event.number, others)

    def _tell_more(self, number: int, more: list[Leaf]) -> None:
        for leaf in more:
            stored = f"event {leaf.sequence} at position {leaf.position}"
            try:
                stream_id = UUID(leaf.stream_id)
            except ValueError:
                stream_id, stored = UUID(int=0), f"{stored} of {leaf.stream_id!r}"
            self._tell(number, stream_id, leaf.sequence, stored, "absent")


@frozen
class _Group:
    """Leaves that belong to one part: how many, the first of them, and their root."""

    leaves: int
    first: list[Leaf]
    root: str


class _Ahead:
    """Leaves, of which the next one is known."""

    def __init__(self, stretch: Iterator[Leaf]) -> None:
        self._stretch = stretch
        self._next = next(stretch, None)
        self.taken = 0

    def take(self, until: int | None) -> _Group:
        """Those up to a position, or all that are left."""
        tree = merkle.Frontier()
        first: list[Leaf] = []
        while self._next is not None and (until is None or self._next.position <= until):
            tree.add(self._next.hash)
            if len(first) < _MOST:
                first.append(self._next)
            self._next = next(self._stretch, None)
        self.taken += tree.size
        return _Group(tree.size, first, tree.root().hex())
