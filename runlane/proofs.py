"""Proofs that events are among those that a checkpoint sealed; to check one needs no database.

A proof holds the facts of the events, from the first that is to be proved to the last one that its stream had in the
sealed stretch, and the digest before them: from these the digest of the last one is worked out.  That one is a leaf of
the checkpoint's tree, and the path beside it leads to the root that the checkpoint states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from attrs import asdict, field, fields, frozen

from runlane import checkpoints, digests, merkle
from runlane.checkpoints import Checker, Checkpoint
from runlane.errors import ConfigurationInvalid
from runlane.shown import shown, words_of
from runlane.values import file_path

#: Grows when proofs change in a way that a reader has to know.
VERSION = 1


@frozen
class Fact:
    """An event as it is stored; `occurred_at` is RFC 3339 in UTC with six digits, `data` the stored text."""

    sequence: int
    type: str
    version: int
    occurred_at: str
    actor: str
    data: str


@frozen
class Proof:
    """That these events of a stream are among those that a checkpoint sealed.

    Args:
        stream_id: the run.
        before: the digest before the first event, in hex; empty where the stream begins with it.
        events: without a gap, up to the last one of the stream in the sealed stretch.
        position: where that one stands in the log.
        index: which leaf of the tree it is, from 0.
        path: the roots of the subtrees beside it, from below, in hex.
        checkpoint: what its root is stated by.
    """

    stream_id: str
    before: str
    events: tuple[Fact, ...]
    position: int
    index: int
    path: tuple[str, ...]
    checkpoint: Checkpoint

    def dumps(self) -> bytes:
        """The text of its file."""
        values = {
            "proof_version": VERSION,
            **asdict(self, recurse=False),
            "events": [asdict(event) for event in self.events],
            "checkpoint": self.checkpoint.content(),
        }
        return orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


@frozen
class Checked:
    """What the check of a proof found.

    Args:
        proof: what was checked.
        problems: why it proves nothing; empty if it holds.
        signed: whether the checkpoint is signed by a given key; None if none was given.
        kept: whether it is one that was kept elsewhere; None if none was given.
    """

    proof: Proof
    problems: tuple[str, ...]
    signed: bool | None = None
    kept: bool | None = field(default=None)

    @property
    def holds(self) -> bool:
        """Whether the events are those that the checkpoint sealed; trust in it is a matter of `signed` and `kept`."""
        return not self.problems


def check(proof: Proof, checkers: Mapping[str, Checker], kept: Sequence[Checkpoint]) -> Checked:
    """Work the proof out.

    Args:
        checkers: public keys by fingerprint: the checkpoint has to be signed by one of them, if there are any.
        kept: checkpoints that were kept elsewhere: it has to be one of them, if there are any.
    """
    found = list(_problems(proof))
    unsigned = proof.checkpoint.why_unsigned(checkers) if checkers else None
    if unsigned is not None:
        found.append(f"checkpoint {proof.checkpoint.number} is not to be trusted: {unsigned}")
    is_kept = proof.checkpoint in kept if kept else None
    if is_kept is False:
        found.append(f"checkpoint {proof.checkpoint.number} is not the one that was kept elsewhere")
    return Checked(proof, tuple(found), unsigned is None if checkers else None, is_kept)


def _problems(proof: Proof) -> list[str]:
    sequences = [event.sequence for event in proof.events]
    if not sequences or sequences != list(range(sequences[0], sequences[0] + len(sequences))) or sequences[0] < 1:
        return ["its events are not one behind the other"]
    if (sequences[0] == 1) != (proof.before == ""):
        return ["the digest before its events is missing, or there can be none"]
    sealed = proof.checkpoint
    if not sealed.from_position < proof.position <= sealed.to_position:
        return [f"position {proof.position} is not in the stretch that checkpoint {sealed.number} sealed"]
    try:
        digest = bytes.fromhex(proof.before)
        for event in proof.events:
            at = digests.microseconds(datetime.fromisoformat(event.occurred_at))
            facts = (event.sequence, event.type, event.version, at, sealed.environment, event.actor, event.data)
            digest = digests.digest(digest, proof.stream_id, *facts)
        leaf = checkpoints.leaf(proof.stream_id, sequences[-1], proof.position, digest.hex())
        root = merkle.climb(leaf, proof.index, sealed.leaves, [bytes.fromhex(one) for one in proof.path])
    except (ValueError, TypeError) as error:
        return [f"it cannot be worked out: {words_of(error)[:500]}"]
    if root.hex() != sealed.root:
        return [f"the events lead to the root {root.hex()}, but checkpoint {sealed.number} states {sealed.root}"]
    return []


def read(path: str | Path) -> Proof:
    """The proof of a file.

    Raises:
        ConfigurationInvalid: it cannot be read, is none, or is of a version that this Runlane does not know.
    """
    place = file_path("path", path)
    try:
        values = orjson.loads(place.read_bytes())
    except OSError as error:
        raise ConfigurationInvalid(f"the proof {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationInvalid(f"{path} is no proof: {words_of(error)[:500]}") from error
    version = values.get("proof_version") if isinstance(values, dict) else None
    if version is None:
        raise ConfigurationInvalid(f"{path} is no proof")
    if version != VERSION:
        raise ConfigurationInvalid(f"{path} has version {shown(version)}, and this Runlane reads {VERSION}; upgrade it")
    try:
        return _proof(values, str(path))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationInvalid(f"{path} is no proof: {words_of(error)[:500]}") from error


def _proof(values: Mapping[str, Any], what: str) -> Proof:
    events = tuple(_fact(event) for event in values["events"])
    path = tuple(_of(str, one) for one in values["path"])
    return Proof(
        str(UUID(_of(str, values["stream_id"]))),
        _of(str, values["before"]),
        events,
        _of(int, values["position"]),
        _of(int, values["index"]),
        path,
        checkpoints.parse(values["checkpoint"], f"the checkpoint in {what}"),
    )


def _fact(values: Mapping[str, Any]) -> Fact:
    kinds = {"int": int, "str": str}
    return Fact(*[_of(kinds[str(one.type)], values[one.name]) for one in fields(Fact)])


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{shown(value)} stands where {kind.__name__} is to be")
    return value
