"""Who did what, across runs: what ``audit.who`` is asked, checked, and what it answers."""

from __future__ import annotations

import hashlib
from uuid import UUID

from attrs import frozen

from runlane.errors import ConfigurationInvalid
from runlane.events import Recorded
from runlane.reading import seal, unseal, whole_number
from runlane.shown import shown
from runlane.storage import attribution
from runlane.storage.transaction import Transaction
from runlane.values import Actor, ActorType, checked_actor, free_text, identifier

DEFAULT_LIMIT, MOST = 50, 500
#: In front of which every event lies.
_END = 2**63 - 1


@frozen
class Attribution:
    """A page of events, the newest first; pass `next_cursor` to the same question to go on, None means the end."""

    data: tuple[Recorded, ...]
    next_cursor: str | None = None


@frozen
class Question:
    """What is asked: the events of these actors, as they are stored, or those that tell of a key."""

    actors: tuple[str, ...] = ()
    key: str | None = None


def question(actor: Actor | str | None, worker: str | None, key: str | None) -> Question:
    """What is asked, checked.

    Raises:
        ConfigurationInvalid: not exactly one thing is asked, or it is not valid.
    """
    if sum(given is not None for given in (actor, worker, key)) != 1:
        raise ConfigurationInvalid("audit.who needs exactly one of actor, worker and key")
    if key is not None:
        return Question(key=identifier("key", key))
    if worker is not None:
        return Question((Actor(ActorType.WORKER, identifier("worker", worker)).text,))
    if isinstance(actor, Actor):
        return Question((checked_actor(actor).text,))
    kind, colon, name = free_text("actor", actor).partition(":")
    if not colon:
        kind, name = "", kind
    identifier("actor id", name)
    if colon and kind not in {known.value for known in ActorType}:
        kinds = ", ".join(ActorType)
        raise ConfigurationInvalid(f"actor is {shown(actor)}, but there is no kind {shown(kind)}; known are {kinds}")
    return Question(tuple(Actor(known, name).text for known in ActorType if kind in ("", known.value)))


def answer(tx: Transaction, environment: str, asked: Question, limit: int, cursor: str | None) -> Attribution:
    """A page of events that answer a question.

    Raises:
        ConfigurationInvalid: the limit is not valid, or the cursor belongs to another question.
        InvariantViolation: an event cannot be read.
    """
    most = whole_number("limit", limit, MOST)
    bound_to = hashlib.sha256(repr(("who", environment, asked.actors, asked.key)).encode()).hexdigest()[:16]
    before = _END if cursor is None else unseal(cursor, bound_to, "audit.who").int
    if before > _END:
        raise ConfigurationInvalid("the cursor is not one that audit.who returned")
    if asked.key is None:
        found = attribution.written_by(tx, environment, asked.actors, before, most + 1)
    else:
        found = attribution.with_key(tx, environment, asked.key, before, most + 1)
    page = found[:most]
    last = page[-1].position if len(found) > most else None
    return Attribution(page, None if last is None else seal(UUID(int=last), bound_to))
