"""Making proofs that events of a run are among those that a checkpoint sealed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select

from runlane import codec, merkle, proofs
from runlane.checkpoints import Checkpoint, stated
from runlane.decisions import environment_stream
from runlane.errors import ConfigurationInvalid, InvariantViolation, RunStateInvalid
from runlane.events import LogCheckpointed
from runlane.proofs import Fact, Proof
from runlane.storage import leaves, streams, tables
from runlane.storage.checkpoints import CHECKPOINTED, tokens
from runlane.storage.leaves import Gone
from runlane.storage.tables import instant_to_text
from runlane.storage.transaction import Transaction

_EVENTS = tables.events.c
_RUN = (
    select(*streams.ENVELOPE)
    .where(_EVENTS.stream_id == bindparam("run_id"), _EVENTS.environment == bindparam("environment"))
    .order_by(_EVENTS.sequence)
)
_CHECKPOINTS = (
    select(_EVENTS.version, streams.ENVELOPE[4], _EVENTS.digest)
    .where(_EVENTS.stream_id == bindparam("stream_id"), _EVENTS.type == bindparam("type"))
    .order_by(_EVENTS.sequence.desc())
    .execution_options(yield_per=20)
)


def prove(tx: Transaction, environment: str, run_id: UUID, sequence: int | None) -> Proof | None:
    """The proof for one event of a run, or for all that were sealed; None if there is no such run.

    Raises:
        ConfigurationInvalid: it has no such event.
        RunStateInvalid: no checkpoint has sealed it yet.
        InvariantViolation: the log is no longer what was sealed.
    """
    events: Sequence[Any] = tx.execute(_RUN, {"run_id": run_id, "environment": environment}).all()
    if not events:
        return None
    wanted = [event for event in events if sequence is None or event.sequence == sequence]
    if not wanted:
        raise ConfigurationInvalid(f"sequence is {sequence}, but run {run_id} has the events 1 to {len(events)}")
    sealed = _checkpoint(tx, environment, wanted)
    if sealed is None:
        what = f"run {run_id}" if sequence is None else f"event {sequence} of run {run_id}"
        raise RunStateInvalid(f"no checkpoint has sealed {what} yet; make one with `runlane audit checkpoint`")
    last = max(
        (event for event in events if sealed.from_position < event.position <= sealed.to_position),
        key=lambda event: event.position,
    )
    first = wanted[0].sequence
    index, path = _path(tx, environment, sealed, last.position)
    proof = Proof(
        str(run_id),
        next((event.digest.hex() for event in events if event.sequence == first - 1), ""),
        tuple(_fact(event) for event in events if first <= event.sequence <= last.sequence),
        last.position,
        index,
        tuple(one.hex() for one in path),
        sealed,
    )
    problems = proofs.check(proof, {}, ()).problems
    if problems:
        raise _changed(sealed, problems[0])
    return proof


def _changed(sealed: Checkpoint, why: str) -> InvariantViolation:
    return InvariantViolation(
        f"the log is no longer what checkpoint {sealed.number} sealed: {why}; see `runlane audit verify`"
    )


def _fact(event: Any) -> Fact:
    at = instant_to_text(event.occurred_at)
    return Fact(event.sequence, event.type, event.version, at, event.actor, event.data)


def _checkpoint(tx: Transaction, environment: str, events: Sequence[Any]) -> Checkpoint | None:
    """The last checkpoint that has sealed some of these events."""
    known = tokens(tx)
    lowest = min(event.position for event in events)
    with tx.execute(_CHECKPOINTS, {"stream_id": environment_stream(environment), "type": CHECKPOINTED}) as found:
        for row in found:
            event = codec.decode(CHECKPOINTED, row.version, row.data)
            assert isinstance(event, LogCheckpointed)
            if event.epoch not in known:  # it came with an import, and has positions of another log
                continue
            if event.to_position < lowest:
                break
            if any(event.from_position < one.position <= event.to_position for one in events):
                return stated(environment, event, row.digest.hex())
    return None


def _path(tx: Transaction, environment: str, sealed: Checkpoint, position: int) -> tuple[int, list[bytes]]:
    """Which leaf stands at a position, and the path from there."""
    begin, end = sealed.from_position, sealed.to_position
    leaves.plan(tx)
    with closing(Gone(tx, environment, begin)) as gone:
        index = size = 0
        with closing(leaves.between(tx, gone, environment, begin, end)) as stretch:
            for leaf in stretch:
                size += 1
                index += leaf.position < position
        if size != sealed.leaves:
            raise _changed(sealed, f"it has {size} streams there, not {sealed.leaves}")
        with closing(leaves.between(tx, gone, environment, begin, end)) as stretch:
            return index, merkle.path(index, size, (leaf.hash for leaf in stretch))
