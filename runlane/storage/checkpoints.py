"""Making a checkpoint: all of a stretch of the log is read in one snapshot, and then it is appended.

Between both nothing may have been appended to the environment's own stream: neither another checkpoint, so that there
is one chain, nor an event that runs were pruned, whose last events this checkpoint would have to know.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from typing import Any

from attrs import frozen
from sqlalchemy import bindparam, select

from runlane import codec
from runlane.checkpoints import Checkpoint, Signer, Tree, stated
from runlane.decisions import environment_stream
from runlane.errors import InvariantViolation
from runlane.events import LogCheckpointed, Part
from runlane.storage import epochs, leaves, log, streams, tables
from runlane.storage.leaves import Gone
from runlane.storage.transaction import Transaction
from runlane.values import Actor

CHECKPOINTED = codec.STORED_AS[LogCheckpointed][0]
_EVENTS = tables.events.c
_NEWEST = (
    select(*streams.ENVELOPE)
    .where(_EVENTS.stream_id == bindparam("stream_id"), _EVENTS.type == bindparam("type"))
    .order_by(_EVENTS.sequence.desc())
    .limit(1)
)
_DIGEST = select(_EVENTS.digest).where(
    _EVENTS.stream_id == bindparam("stream_id"), _EVENTS.sequence == bindparam("sequence")
)


@frozen
class Drawn:
    """A stretch of the log as it was read: what a checkpoint of it says.

    `length` is how many events the environment's own stream had.  `is_new` is False if nothing has happened since the
    last checkpoint but that one itself; `is_whole` is False if what was pruned meanwhile can no longer be told apart.
    """

    length: int
    previous: Checkpoint | None
    from_position: int
    to_position: int
    leaves: int
    root: str
    parts: tuple[Part, ...]
    epoch: str
    is_new: bool
    is_whole: bool


def newest(tx: Transaction, environment: str) -> tuple[Checkpoint, int] | None:
    """The last checkpoint of an environment, and the sequence of its event.

    Raises:
        InvariantViolation: it cannot be read.
    """
    asked = {"stream_id": environment_stream(environment), "type": CHECKPOINTED}
    row: Any = tx.execute(_NEWEST, asked).first()
    if row is None:
        return None
    event = codec.decode(row.type, row.version, row.data)
    assert isinstance(event, LogCheckpointed)
    return stated(environment, event, row.digest.hex()), row.sequence


def tokens(tx: Transaction) -> tuple[str, ...]:
    """Of the histories that positions of this log may belong to, the last one last."""
    return tuple(epoch.token for epoch in epochs.history(tx))


def bounds(tx: Transaction, environment: str, behind: int) -> list[int]:
    """The last positions of the checkpoints whose stretches end behind a position, ascending."""
    found: list[int] = []
    known: Collection[str] | None = None
    with closing(streams.read_newest(tx, environment_stream(environment), [LogCheckpointed])) as records:
        for record in records:
            event = record.event
            assert isinstance(event, LogCheckpointed)
            known = tokens(tx) if known is None else known
            if event.epoch in known:  # else it came with an import
                if event.to_position <= behind:
                    break
                found.append(event.to_position)
    return found[::-1]


def draw(tx: Transaction, environment: str, settled: int) -> Drawn:
    """Read what has happened since the last checkpoint, up to a settled position, in constant memory.

    Raises:
        InvariantViolation: the last checkpoint cannot be read, or the id of a stream.
    """
    last, known = newest(tx, environment), tokens(tx)
    previous, sequence = last if last is not None else (None, 0)
    begin = previous.to_position if previous is not None and previous.epoch in known else 0
    leaves.plan(tx)
    tree, own = Tree(), environment_stream(environment)
    is_new = False
    with closing(Gone(tx, environment, begin)) as gone:
        with closing(leaves.between(tx, gone, environment, begin, settled)) as found:
            for leaf in found:
                tree.add(leaf.place, leaf.hash)
                is_new = is_new or (leaf.stream_id, leaf.sequence) != (str(own), sequence)
        # Whoever was pruned with an event behind this stretch may have had earlier ones in it, which are not told.
        is_whole = gone.highest <= settled
    try:
        parts = tree.parts()
    except ValueError as error:
        raise InvariantViolation(f"no checkpoint: the log is damaged ({error}); see `runlane audit verify`") from error
    return Drawn(
        streams.length(tx, own),
        previous,
        begin,
        max(begin, settled),
        tree.leaves,
        tree.root(),
        parts,
        known[-1] if known else "",
        is_new,
        is_whole,
    )


def append(tx: Transaction, environment: str, drawn: Drawn, signer: Signer | None, actor: Actor) -> Checkpoint | None:
    """Write a checkpoint of what was drawn; None, and nothing is written, if the environment's stream has moved on."""
    log.lock_environment(tx, environment)
    if streams.length(tx, environment_stream(environment)) != drawn.length:
        return None
    previous = drawn.previous
    said = Checkpoint(
        environment,
        1 if previous is None else previous.number + 1,
        drawn.from_position,
        drawn.to_position,
        drawn.leaves,
        drawn.root,
        drawn.epoch,
        None if previous is None else previous.digest,
        "",
    ).signed(signer)
    event = LogCheckpointed(
        said.number,
        said.from_position,
        said.to_position,
        said.leaves,
        said.root,
        drawn.parts,
        said.epoch,
        said.previous,
        said.key,
        said.signature,
    )
    record = log.append_environment(tx, environment, event, tx.now(), actor)
    asked = {"stream_id": record.stream_id, "sequence": record.sequence}
    return stated(environment, event, tx.execute(_DIGEST, asked).scalar_one().hex())


def lock(tx: Transaction, environment: str) -> None:
    """Let nobody else append to the environment's own stream until the transaction ends."""
    log.lock_environment(tx, environment)


def read_event(version: int, data: str) -> LogCheckpointed:
    """The event of a stored checkpoint.

    Raises:
        InvariantViolation: it cannot be read.
    """
    event = codec.decode(CHECKPOINTED, version, data)
    if not isinstance(event, LogCheckpointed):
        raise InvariantViolation("it is no checkpoint")
    return event
