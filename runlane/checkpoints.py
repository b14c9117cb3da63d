"""Checkpoints of the log as statements: what is sealed, what is signed, and the file that is kept elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import orjson
from attrs import asdict, evolve, fields, frozen

from runlane import merkle
from runlane.errors import ConfigurationInvalid
from runlane.events import LogCheckpointed, Part
from runlane.shown import shown
from runlane.values import file_path

#: Grows when the statement changes in a way that a reader has to know.
VERSION = 1
#: So many subtrees a checkpoint tells of at most; of fewer leaves, each one by itself.
_MOST_PARTS = 64


class Signer(Protocol):
    """A private key."""

    fingerprint: str

    def sign(self, data: bytes) -> str:
        """The signature of `data`, base64."""
        ...


class Checker(Protocol):
    """A public key."""

    fingerprint: str

    def holds(self, data: bytes, signature: str) -> bool:
        """Whether `signature` is this key's over `data`."""
        ...


@frozen
class Checkpoint:
    """What a checkpoint states; kept out of reach of the database's administrators, it is evidence.

    Args:
        environment: whose events it seals.
        number: 1, 2, 3 … within the environment.
        from_position, to_position: it seals the events behind the first, up to the second.
        leaves: how many streams have events there.
        root: of the Merkle tree over the last ones of these, in hex.
        epoch: the token of the history that the positions belong to.
        previous: the digest of the event of the checkpoint before, in hex; None for the first one.
        digest: the digest of the event that holds this checkpoint, in hex.
        key: the fingerprint of the public key, if it is signed.
        signature: Ed25519 over ``canonical()``, base64.
    """

    environment: str
    number: int
    from_position: int
    to_position: int
    leaves: int
    root: str
    epoch: str
    previous: str | None
    digest: str
    key: str | None = None
    signature: str | None = None

    def canonical(self) -> bytes:
        """The bytes that are signed: all but signature and digest, as compact JSON with sorted keys, UTF-8.

        The digest of the event is that of the signature too; it holds the rest.
        """
        values = {"checkpoint_version": VERSION, **asdict(self)}
        del values["signature"], values["digest"]
        return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)

    def content(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"checkpoint_version": VERSION, **asdict(self)}

    def dumps(self) -> bytes:
        """The text of its file."""
        return orjson.dumps(self.content(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def signed(self, signer: Signer | None) -> Checkpoint:
        """The same with a signature."""
        if signer is None:
            return self
        keyed = evolve(self, key=signer.fingerprint)
        return evolve(keyed, signature=signer.sign(keyed.canonical()))

    def why_unsigned(self, checkers: Mapping[str, Checker]) -> str | None:
        """Why none of these keys, by fingerprint, has signed it; None if one has."""
        if self.signature is None or self.key is None:
            return "not signed"
        checker = checkers.get(self.key)
        if checker is None:
            return f"signed with another key, {self.key}"
        return None if checker.holds(self.canonical(), self.signature) else "a signature that is not of this key"


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "str | None": (str, type(None))}


def stated(environment: str, event: LogCheckpointed, digest: str) -> Checkpoint:
    """What the event of a checkpoint states."""
    own = {field.name for field in fields(Checkpoint)} - {"environment", "digest"}
    return Checkpoint(environment=environment, digest=digest, **{name: getattr(event, name) for name in own})


def read(path: str | Path) -> Checkpoint:
    """The checkpoint of a file.

    Raises:
        ConfigurationInvalid: it cannot be read, is none, or is of a version that this Runlane does not know.
    """
    place = file_path("path", path)
    try:
        values = orjson.loads(place.read_bytes())
    except OSError as error:
        raise ConfigurationInvalid(f"the checkpoint {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationInvalid(f"{path} is no checkpoint: {error}") from error
    return parse(values, str(path))


def parse(values: Any, what: str) -> Checkpoint:
    """The checkpoint of these JSON values; `what` names them in errors.

    Raises:
        ConfigurationInvalid: they are none, or of a version that this Runlane does not know.
    """
    version = values.get("checkpoint_version") if isinstance(values, dict) else None
    if version is None:
        raise ConfigurationInvalid(f"{what} is no checkpoint")
    if version != VERSION:
        raise ConfigurationInvalid(f"{what} has version {shown(version)}, and this Runlane reads {VERSION}; upgrade it")
    given = {name: value for name, value in values.items() if name != "checkpoint_version"}
    known = {field.name: field for field in fields(Checkpoint)}
    if given.keys() != known.keys():
        odd = ", ".join(sorted(given.keys() ^ known.keys()))
        raise ConfigurationInvalid(f"{what} is no checkpoint: it lacks some of its fields or has others ({odd[:500]})")
    for name, field in known.items():
        if not isinstance(given[name], _KINDS[str(field.type)]) or isinstance(given[name], bool):
            raise ConfigurationInvalid(f"{what} is no checkpoint: {name} is {shown(given[name])}")
    return Checkpoint(**given)


def leaf(stream_id: str, sequence: int, position: int, digest: str) -> bytes:
    """The hash of the last event of a stream, as a leaf: over its place and its digest (hex), one a line."""
    return merkle.leaf(f"{stream_id}\n{sequence}\n{position}\n{digest}".encode())


#: Of an event: stream, sequence, position.
Place = tuple[str, int, int]


class Tree:
    """The tree of a checkpoint while its leaves come, in the order of positions, and its parts: 64 of them at most."""

    def __init__(self) -> None:
        self.leaves = 0
        self._parts: list[tuple[Place, bytes]] = []
        self._size = 1  # leaves of a part
        self._open = merkle.Frontier()
        self._last: Place = ("", 0, 0)

    def add(self, place: Place, leaf_hash: bytes) -> None:
        """A leaf, and its place."""
        self.leaves += 1
        self._last = place
        self._open.add(leaf_hash)
        if self._open.size == self._size:
            self._parts.append((place, self._open.root()))
            self._open = merkle.Frontier()
        if len(self._parts) == _MOST_PARTS:
            pairs = zip(self._parts[::2], self._parts[1::2], strict=True)
            self._parts = [(right[0], merkle.node(left[1], right[1])) for left, right in pairs]
            self._size *= 2

    def _all(self) -> list[tuple[Place, bytes]]:
        return [*self._parts, (self._last, self._open.root())] if self._open.size else self._parts

    def parts(self) -> tuple[Part, ...]:
        """The subtrees.

        Raises:
            ValueError: the id of a stream is none.
        """
        return tuple(Part(UUID(name), number, place, root.hex()) for (name, number, place), root in self._all())

    def root(self) -> str:
        """The root of the whole, in hex."""
        return root_of(root for _, root in self._all()).hex()


def root_of(parts: Iterable[bytes]) -> bytes:
    """The root over subtrees that all have the same power of two as their size, but for the last one."""
    tree = merkle.Frontier()
    for root in parts:
        tree.add(root)
    return tree.root()
