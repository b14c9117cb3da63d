"""What stands between the values of an application and the database: the payload codec, and its keys.

Keys are made and read in transactions of their own, before the transaction that needs them, or in the one that is
given.  Only what a transaction of its own has seen is remembered, as a caller's may yet be rolled back.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from threading import Lock
from time import monotonic
from typing import Any, ClassVar, TypeVar, cast
from uuid import UUID
from weakref import WeakSet

from attrs import evolve

from runlane import jsontext
from runlane.clock import Clock
from runlane.errors import ConfigurationInvalid, PayloadErased, PayloadUnreadable, RunlaneError, StorageUnavailable
from runlane.events import Recorded, RunCreated, RunReleased, RunSucceeded
from runlane.payload_codec import (
    KEY,
    MARK,
    CodecContext,
    DataKey,
    KeyedCodec,
    KeyUnavailable,
    Part,
    PayloadCodec,
    Sealed,
    SealedReason,
    Wrapped,
    is_sealed,
    key_of,
)
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.storage import subject_keys
from runlane.storage.database import Database
from runlane.storage.subject_keys import KeyRow
from runlane.storage.transaction import Transaction
from runlane.structs import struct
from runlane.values import new_run_id

K = TypeVar("K")
V = TypeVar("V")

#: Seconds for which a process goes by what it has read of a key: so long another one may know an erased subject still.
KEY_TTL = 60.0
#: The most keys that a process remembers.
_MOST_KEYS = 10_000
#: The subject of the environment's own key: of payloads without one.
_NOBODY = ""

#: A data key, or why there is none.
Found = DataKey | RunlaneError


@struct
class Opened:
    """A leased run with its values as they were before they were stored, and what encodes what it comes to.

    `problem` is why its payload cannot be decoded.
    """

    run: Run
    seal: Callable[[Part, Any], Any] | None = None
    problem: RunlaneError | None = None


class Vault:
    """Encodes and decodes for one runtime; without a codec it lets everything pass.

    Args:
        timer: seconds, of a clock that only grows.
    """

    _all: ClassVar[WeakSet[Vault]] = WeakSet()
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
        self._known: dict[UUID, tuple[float, Found]] = {}
        self._current: dict[str, tuple[float, DataKey]] = {}  # by fingerprint
        with self._listing:
            self._all.add(self)

    # ---------------------------------------------------------------- keys

    def check(self) -> None:
        """Make sure that this process can use the keys of its environment, if there are any.

        Without a codec for them it may only read.

        Raises:
            ConfigurationInvalid: they are wrapped by a master key that is not here.
        """
        with self._database.read() as tx:
            row = subject_keys.current(tx, self._environment, [_NOBODY]).get(_NOBODY)
        self._is_locked = row is not None and self.keyed is None
        if row is None or self.keyed is None:
            return
        try:
            self._unwrapped(row)
        except KeyUnavailable as error:
            raise ConfigurationInvalid(
                f"payload_codec does not fit environment {self._environment!r}: {error}"
            ) from None

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
            KeyUnavailable: the master key of one of them is not here.
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
        assert self.keyed is not None
        key_id = new_run_id()
        wrapped = self.keyed.wrap(secrets.token_bytes(32), self._row(key_id, name))
        return KeyRow(key_id, name, wrapped.master, wrapped.data)

    def _row(self, key_id: UUID, name: str) -> bytes:
        return jsontext.dumps(["runlane", self._environment, str(key_id), name]).encode()

    def _unwrapped(self, row: KeyRow) -> DataKey:
        if self.keyed is None:
            raise KeyUnavailable("this process has no payload codec with keys")
        if row.wrapped is None:
            raise PayloadErased()
        return DataKey(row.id, self.keyed.unwrap(Wrapped(row.master, row.wrapped), self._row(row.id, row.subject)))

    def rewrapped(self, row: KeyRow) -> Wrapped:
        """A key as today's master key wraps it."""
        assert self.keyed is not None
        return self.keyed.wrap(self._unwrapped(row).secret, self._row(row.id, row.subject))

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

    # ---------------------------------------------------------------- values

    def seal(self, value: Any, context: CodecContext) -> Any:
        """What is stored of a value; without a codec, and of no result, the value itself.

        Raises:
            ConfigurationInvalid: the codec gave something that cannot be stored.
        """
        if self.codec is None or (value is None and context.part is not Part.PAYLOAD):
            return value
        try:
            encoded = dict(self.codec.encode(jsontext.dumps(value).encode(), context))
        except RunlaneError:
            raise
        except Exception as error:  # of somebody's codec; its text might tell what must not be told
            reason = f"{self.codec.name} cannot encode the {context.part}: {type(error).__name__}"
            raise ConfigurationInvalid(reason) from None
        head = {MARK: self.codec.name} if context.key is None else {MARK: self.codec.name, KEY: str(context.key.id)}
        try:
            jsontext.encode(encoded, f"what {self.codec.name} has encoded", 16 * jsontext.MAX_BYTES)
        except jsontext.JsonInvalid as error:
            raise ConfigurationInvalid(str(error)) from None
        return {**head, **encoded, **head}

    def open(self, value: Any, context: CodecContext, keys: Mapping[UUID, Found] | None = None) -> Any:
        """The inverse; `keys` are those that were found already.

        Raises:
            PayloadErased, PayloadUnreadable: it cannot be decoded; of the latter ``KeyUnavailable`` if only not here.
        """
        if not is_sealed(value):
            return value
        if self.codec is None or value[MARK] != self.codec.name:
            raise KeyUnavailable(f"the {context.part} is encoded by {value[MARK]!r}, which is not this process's codec")
        key_id = key_of(value)
        if self.keyed is not None:
            if key_id is None:
                raise PayloadUnreadable(f"the {context.part} names no data key")
            found = (self.find([key_id]) if keys is None else keys)[key_id]
            if isinstance(found, RunlaneError):
                raise type(found)(found.message)
            context = evolve(context, key=found)
        try:
            return jsontext.decode(self.codec.decode(value, context))
        except RunlaneError:
            raise
        except Exception as error:  # of somebody's codec; its text might tell what must not be told
            raise PayloadUnreadable(
                f"{self.codec.name} cannot decode the {context.part}: {type(error).__name__}"
            ) from None

    def about(self, run: Run, part: Part) -> CodecContext:
        """What a value of a run belongs to."""
        return CodecContext(self._environment, run.id, run.task_id, part)

    # ---------------------------------------------------------------- runs

    def reveal(self, run: Run, *, committed: bool = False) -> Run:
        """A run as an application sees it; what cannot be shown is ``Sealed``.

        Behind a commit (`committed`) that is also what cannot be shown because the database is away: that must not be
        taken for a failure of what was done.
        """
        if not is_sealed(run.created.payload) and not is_sealed(run.result):
            return run
        return self.reveal_all([run], committed=committed)[0]

    def reveal_all(self, runs: Sequence[Run], tx: Transaction | None = None, *, committed: bool = False) -> list[Run]:
        """The same for many, with one look for keys, in the transaction that is given if any is."""
        values = [value for run in runs for value in (run.created.payload, run.result) if is_sealed(value)]
        if not values:
            return list(runs)
        try:
            keys = self._look(values, tx)
        except StorageUnavailable:
            if not committed:
                raise
            ids = [key_id for value in values if (key_id := key_of(value)) is not None]
            keys = dict.fromkeys(ids, KeyUnavailable("the database is away"))
        return [self._revealed(run, keys) for run in runs]

    def reveal_events(self, records: Sequence[Recorded], tx: Transaction | None = None) -> tuple[Recorded, ...]:
        """The events of one run as an application sees them."""
        first = records[0].event if records else None
        if not isinstance(first, RunCreated) or not any(is_sealed(_value(one.event)) for one in records):
            return tuple(records)
        keys = self._look([_value(one.event) for one in records], tx)
        context = CodecContext(self._environment, records[0].stream_id, first.task_id, Part.PAYLOAD)
        return tuple(self._revealed_event(record, context, keys) for record in records)

    def _revealed_event(self, record: Recorded, context: CodecContext, keys: Mapping[UUID, Found]) -> Recorded:
        match record.event:
            case RunCreated(payload=value):
                event: Any = evolve(record.event, payload=self._shown(value, context, keys))
            case RunSucceeded(result=value):
                event = evolve(record.event, result=self._shown(value, evolve(context, part=Part.RESULT), keys))
            case RunReleased(meta=value):
                event = evolve(record.event, meta=self._shown(value, evolve(context, part=Part.META), keys))
            case _:
                return record
        return evolve(record, event=event)

    def reveal_schedules(self, states: Sequence[ScheduleState]) -> list[ScheduleState]:
        """Schedules as an application sees them."""
        keys = self._look([state.payload for state in states])
        return [
            evolve(state, payload=self._shown(state.payload, self.about_schedule(state), keys))
            if is_sealed(state.payload)
            else state
            for state in states
        ]

    def about_schedule(self, state: ScheduleState) -> CodecContext:
        """What the payload of a schedule belongs to."""
        return CodecContext(self._environment, state.stream_id, state.task_id, Part.PAYLOAD)

    def open_in(self, tx: Transaction, value: Any, context: CodecContext) -> Any:
        """``open`` with a key that is looked for in an open transaction."""
        key_id = key_of(value) if is_sealed(value) else None
        return self.open(value, context, self.find([key_id], tx) if key_id is not None and self.keyed else {})

    def unlock(self, runs: Sequence[Run]) -> list[Opened]:
        """Leased runs, ready for their handlers."""
        if self.codec is None and not any(is_sealed(run.created.payload) for run in runs):
            return [Opened(run) for run in runs]
        values = [run.created.payload for run in runs]
        try:
            keys = self._look(values)
            own = None if self.keyed is None or all(map(is_sealed, values)) else self.keys_for([None])[None]
        except RunlaneError as error:
            problem = KeyUnavailable(f"the keys of payloads cannot be read: {error.message}")
            return [Opened(run, None, problem) for run in runs]
        return [self._unlocked(run, keys, own) for run in runs]

    def _unlocked(self, run: Run, keys: Mapping[UUID, Found], own: DataKey | None) -> Opened:
        stored = run.created.payload
        try:
            payload = self.open(stored, self.about(run, Part.PAYLOAD), keys)
        except RunlaneError as error:
            return Opened(run, None, error)
        if self.codec is None:
            return Opened(run)
        key = own
        if is_sealed(stored) and self.keyed is not None:
            found = keys[key_of(stored) or run.id]
            key = found if isinstance(found, DataKey) else None

        def seal(part: Part, value: Any) -> Any:
            return self.seal(value, evolve(self.about(run, part), key=key))

        return Opened(evolve(run, created=evolve(run.created, payload=payload)), seal)

    def _look(self, values: Sequence[Any], tx: Transaction | None = None) -> dict[UUID, Found]:
        ids = [one for one in {key_of(value) for value in values if is_sealed(value)} if one is not None]
        return self.find(ids, tx) if self.keyed is not None and ids else {}

    def _revealed(self, run: Run, keys: Mapping[UUID, Found]) -> Run:
        payload = self._shown(run.created.payload, self.about(run, Part.PAYLOAD), keys)
        result = self._shown(run.result, self.about(run, Part.RESULT), keys)
        created = run.created if payload is run.created.payload else evolve(run.created, payload=payload)
        return evolve(run, created=created, result=result)

    def _shown(self, value: Any, context: CodecContext, keys: Mapping[UUID, Found]) -> Any:
        try:
            return self.open(value, context, keys)
        except PayloadErased:
            return Sealed(SealedReason.ERASED)
        except KeyUnavailable:
            return Sealed(SealedReason.NO_KEY)
        except PayloadUnreadable:
            return Sealed(SealedReason.UNREADABLE)


#: Lets everything pass; without a codec a vault never asks its database for a key.
PLAIN = Vault(cast(Database, None), "", None)


def _value(event: object) -> Any:
    match event:
        case RunCreated(payload=value) | RunSucceeded(result=value) | RunReleased(meta=value):
            return value
    return None


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
