"""Erasing a subject: its data keys are destroyed, and what they encrypted cannot be read by anybody again."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from runlane.datakeys import fingerprint_under
from runlane.errors import SubjectNotFound
from runlane.events import SubjectErased
from runlane.storage import log, subject_keys
from runlane.storage.transaction import Transaction
from runlane.values import Actor
from runlane.vault import Vault


@frozen
class Erasure:
    """What became of a subject's keys.

    Attributes:
        fingerprint: what the subject is called in the log and in the table of keys.
        keys: how many were destroyed by this call; 0 if they had been before.
        erased_at: when the last of them was destroyed.
    """

    fingerprint: str
    keys: int
    erased_at: datetime


def erase(
    tx: Transaction, environment: str, vault: Vault, subject: str, actor: Actor, reason: str | None = None
) -> Erasure:
    """Destroy every key of a subject, and tell so in the environment's own stream; nothing happens the second time.

    Raises:
        SubjectNotFound: it never had one.
    """
    log.lock_environment(tx, environment)
    own = vault.own_if_any(tx)
    name = None if own is None else fingerprint_under(own, subject)
    rows = [] if name is None else subject_keys.of_subject(tx, environment, name)
    if name is None or not rows:
        raise SubjectNotFound(f"nothing was ever encrypted for this subject in environment {environment!r}")
    left = [row for row in rows if row.wrapped is not None]
    if not left:
        return Erasure(name, 0, max(row.erased_at for row in rows if row.erased_at is not None))
    now = tx.now()
    for row in left:
        subject_keys.erase(tx, environment, row.id, now)
    log.append_environment(tx, environment, SubjectErased(name, len(left), reason), now, actor)
    return Erasure(name, len(left), now)


def rewrap(tx: Transaction, environment: str, vault: Vault, limit: int) -> int:
    """Wrap up to `limit` data keys by today's master key that an older one has wrapped; how many those were.

    Raises:
        KeyUnavailable: the master key of one of them is not here.
    """
    if vault.keyed is None:
        return 0
    rows = subject_keys.wrapped_otherwise(tx, environment, vault.keyed.master, limit)
    for row in rows:
        wrapped = vault.rewrapped(row)
        subject_keys.rewrap(tx, environment, row.id, wrapped.master, wrapped.data)
    return len(rows)
