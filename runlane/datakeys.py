"""The keys of payload codecs: made, read from the database, and remembered for a while.

Keys are made and read in transactions of their own, before the transaction that needs them, or in the one that is
given.  Only what a transaction of its own has seen is remembered, as a caller's may yet be rolled back.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from math import inf
from threading import Lock
from time import monotonic
from typing import ClassVar, TypeVar
from uuid import UUID
from weakref import WeakSet

from runlane import jsontext
from runlane.clock import Clock
from runlane.errors import ConfigurationInvalid, PayloadErased, PayloadUnreadable, RunlaneError, StorageUnavailable
from runlane.payload_codec import (
    DataKey,
    KeyedCodec,
    KeyUnavailable,
    PayloadCodec,
    Wrapped,
)
from runlane.storage import subject_keys
from runlane.storage.database import Database
from runlane.storage.subject_keys import KeyRow
from runlane.storage.transaction import Transaction
from runlane.values import new_run_id

K = TypeVar("K")
V = TypeVar("V")

#: Seconds for which a process goes by what it has read of a key: so long another one may know an erased subject still.
KEY_TTL = 60.0
#: Seconds after which a process without keys looks again whether there are some.
_LOOK = 60.0
#: The most keys that a process remembers.
_MOST_KEYS = 10_000
#: The subject of the environment's own key: of payloads without one.
_NOBODY = ""

#: A data key, or why there is none.
Found = DataKey | RunlaneError


class DataKeys:
    """The data keys that one runtime makes, reads and remembers; none without a codec that has any.

    Args:
        timer: seconds, of a clock that only grows.
    """

    _all: ClassVar[WeakSet[DataKeys]] = WeakSet()
    _listing: ClassVar[Lock] = Lock()

    def __init__(
        self,
        database: Database,
        environment: str,
        codec: PayloadCodec | None,
        clock: Clock | None = None,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self.codec = codec
        self.keyed: KeyedCodec | None = codec if isinstance(codec, KeyedCodec) else None
        self._database = database
        self._environment = environment
        self._clock = clock
        self._timer = timer
        self._lock = Lock()
        self._generation = 0
        self._is_locked = False
        self._next_look = inf  # not before it was checked
        self._known: dict[UUID, tuple[float, Found]] = {}
        self._current: dict[str, tuple[float, DataKey]] = {}  # by fingerprint
        with self._listing:
            self._all.add(self)

    def check(self, tx: Transaction | None = None) -> None:
        """Make sure that this process can use the keys of its environment, if there are any.

        Without a codec for them it may only read.

        Raises:
            ConfigurationInvalid: they are wrapped by a master key that is not here.
            KeyUnavailable: whoever has it does not answer at present.
        """
        with self._database.read() if tx is None else nullcontext(tx) as reading:
            row = subject_keys.current(reading, self._environment, [_NOBODY]).get(_NOBODY)
        self._is_locked = row is not None and self.keyed is None
        if self.keyed is None:
            self._next_look = self._timer() + _LOOK
        if row is None or self.keyed is None:
            return
        try:
            self._unwrapped(row)
        except PayloadUnreadable as error:
            if error.retryable:
                raise
            raise ConfigurationInvalid(
                f"payload_codec does not fit environment {self._environment!r}: {error}"
            ) from None

    def look_again(self, tx: Transaction | None = None) -> None:
        """Without a codec that has keys: see, once in a while, whether others have begun to encrypt meanwhile."""
        if not self._is_locked and self._timer() >= self._next_look:
            self.check(tx)

    def require_codec(self) -> None:
        """Go on only if payloads of this environment may be written and read here.

        Raises:
            ConfigurationInvalid: they are encrypted, and this process has no codec with keys.
        """
        if self._is_locked:
            raise ConfigurationInvalid(
                f"environment {self._environment!r} has encrypted payloads: pass Runlane(payload_codec=…) as the other "
                "processes do"
            )

    def _own(self, tx: Transaction | None) -> DataKey:
        return self._by_fingerprint([_NOBODY], tx)[_NOBODY]

    def own_if_any(self, tx: Transaction) -> DataKey | None:
        """The environment's own key, if there is one already."""
        row = subject_keys.current(tx, self._environment, [_NOBODY]).get(_NOBODY)
        return None if row is None else self._unwrapped(row)

    def keys_for(
        self, subjects: Collection[str | None], tx: Transaction | None = None
    ) -> Mapping[str | None, DataKey | None]:
        """By subject, the keys to encrypt with, made where there are none; None for codecs without keys.

        Raises:
            PayloadUnreadable: one of them cannot be had; ``KeyUnavailable`` if only not here, or not now.
            ConfigurationInvalid: the codec can wrap no new one.
        """
        if self.keyed is None:
            return dict.fromkeys(subjects)
        own = self._own(tx)
        names = {subject: fingerprint_under(own, subject) for subject in subjects if subject is not None}
        found = self._by_fingerprint(list(names.values()), tx) if names else {}
        return {subject: own if subject is None else found[names[subject]] for subject in subjects}

    def _by_fingerprint(self, wanted: Collection[str], tx: Transaction | None) -> dict[str, DataKey]:
        now = self._timer()
        with self._lock:
            known = {name: self._current.get(name) for name in wanted}
        found = {name: entry[1] for name, entry in known.items() if entry is not None and entry[0] > now}
        missing = sorted({name for name in wanted if name not in found})
        if not missing:
            return found
        if tx is not None:  # what it sees may be rolled back
            return found | self._read_or_make(tx, missing)
        seen = self._generation
        with self._database.read(self._clock) as reading:
            rows = subject_keys.current(reading, self._environment, missing)
        made = {name: self._unwrapped(row) for name, row in rows.items()}
        if left := [name for name in missing if name not in made]:
            made |= self._database.transact(lambda own: self._read_or_make(own, left), self._clock)
        with self._lock:
            if seen == self._generation:
                _remember(self._current, made, now)
                _remember(self._known, {key.id: key for key in made.values()}, now)
        return found | made

    def _read_or_make(self, tx: Transaction, names: Sequence[str]) -> dict[str, DataKey]:
        there = subject_keys.current(tx, self._environment, names)
        left = [name for name in names if name not in there]
        if left:
            subject_keys.add(tx, self._environment, [self._new(name) for name in left], tx.now())
            there |= subject_keys.current(tx, self._environment, left)
        try:
            return {name: self._unwrapped(there[name]) for name in names}
        except KeyError as error:  # of a snapshot that does not see who was quicker
            raise StorageUnavailable("another transaction makes the key of the same subject; try again") from error

    def _new(self, name: str) -> KeyRow:
        key_id = new_run_id()
        wrapped = self._wrapped(secrets.token_bytes(32), self._row(key_id, name))
        return KeyRow(key_id, name, wrapped.master, wrapped.data)

    def _row(self, key_id: UUID, name: str) -> bytes:
        return jsontext.dumps(["runlane", self._environment, str(key_id), name]).encode()

    def _unwrapped(self, row: KeyRow) -> DataKey:
        if self.keyed is None:
            raise KeyUnavailable("this process has no payload codec with keys")
        if row.wrapped is None:
            raise PayloadErased()
        try:
            secret = self.keyed.unwrap(Wrapped(row.master, row.wrapped), self._row(row.id, row.subject))
            if not isinstance(secret, bytes):
                raise TypeError
        except (PayloadErased, PayloadUnreadable):
            raise
        except Exception as error:
            raise self.refusal("unwrap the data key", error, PayloadUnreadable, of_service=True) from None
        return DataKey(row.id, secret)

    def _wrapped(self, secret: bytes, row: bytes) -> Wrapped:
        assert self.keyed is not None
        try:
            wrapped = self.keyed.wrap(secret, row)
            return Wrapped(wrapped.master, wrapped.data)
        except (PayloadErased, PayloadUnreadable):
            raise
        except Exception as error:
            raise self.refusal("wrap a data key", error, ConfigurationInvalid, of_service=True) from None

    def refusal(
        self, what: str, error: Exception, final: type[RunlaneError], *, of_service: bool = False
    ) -> RunlaneError:
        """What an exception of somebody's codec means here; its text might tell what must not be told.

        Args:
            what: the codec cannot do.
            final: what it is unless it may pass.
            of_service: what is not Runlane's own may pass, as that of a service that is away.
        """
        reason = f"{self.codec.name if self.codec else None} cannot {what}: {type(error).__name__}"
        passes = error.retryable if isinstance(error, RunlaneError) else of_service
        return KeyUnavailable(reason, retryable=True) if passes else final(reason)

    def rewrapped(self, row: KeyRow) -> Wrapped:
        """A key as today's master key wraps it."""
        return self._wrapped(self._unwrapped(row).secret, self._row(row.id, row.subject))

    def find(self, ids: Collection[UUID], tx: Transaction | None = None) -> dict[UUID, Found]:
        """By id, the keys to decode with; of those that cannot be had the reason."""
        now = self._timer()
        with self._lock:
            known = {key_id: self._known.get(key_id) for key_id in ids}
        found = {key_id: entry[1] for key_id, entry in known.items() if entry is not None and entry[0] > now}
        missing = [key_id for key_id in known if key_id not in found]
        if not missing:
            return found
        if tx is not None:
            return found | self._read(tx, missing)
        seen = self._generation
        with self._database.read(self._clock) as reading:
            read = self._read(reading, missing)
        # What is missing may come, with the table or the master key.
        lasting = {key_id: one for key_id, one in read.items() if not isinstance(one, KeyUnavailable)}
        with self._lock:
            if seen == self._generation:
                _remember(self._known, lasting, now)
        return found | read

    def _read(self, tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, Found]:
        read: dict[UUID, Found] = {
            key_id: KeyUnavailable(f"data key {key_id} is not in environment {self._environment!r}") for key_id in ids
        }
        for row in subject_keys.with_ids(tx, self._environment, ids):
            try:
                read[row.id] = self._unwrapped(row)
            except RunlaneError as error:
                read[row.id] = error
        return read

    @classmethod
    def forget(cls) -> None:
        """Let nothing in this process go by what it has read of keys before."""
        with cls._listing:
            vaults = tuple(cls._all)
        for vault in vaults:
            with vault._lock:
                vault._generation += 1  # what is being read at this moment is not kept
                vault._known.clear()
                vault._current.clear()


def fingerprint_under(own: DataKey, subject: str) -> str:
    """What a subject is called in the database: a hash under the environment's own key."""
    return hashlib.blake2b(b"runlane subject\x00" + subject.encode(), key=own.secret, digest_size=32).hexdigest()


def _remember(kept: dict[K, tuple[float, V]], more: Mapping[K, V], now: float) -> None:
    """Keep what was read at `now`; what has expired goes, and of too many the oldest."""
    for name, one in more.items():
        kept.pop(name, None)
        kept[name] = (now + KEY_TTL, one)
    for name, (expires, _) in list(islice(kept.items(), len(more) + 10)):  # the oldest come first
        if expires <= now or len(kept) > _MOST_KEYS:
            del kept[name]
