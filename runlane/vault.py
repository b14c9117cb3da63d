"""What stands between the values of an application and the database: the payload codec, and its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast
from uuid import UUID

from attrs import evolve

from runlane import jsontext
from runlane.datakeys import DataKeys, Found
from runlane.errors import ConfigurationInvalid, PayloadErased, PayloadUnreadable, RunlaneError, StorageUnavailable
from runlane.events import Recorded, RunCreated, RunReleased, RunSucceeded
from runlane.payload_codec import (
    KEY,
    MARK,
    CodecContext,
    DataKey,
    KeyUnavailable,
    Part,
    Sealed,
    SealedReason,
    is_sealed,
    key_of,
    once_more,
)
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.storage.database import Database
from runlane.storage.transaction import Transaction
from runlane.structs import struct

K = TypeVar("K")
V = TypeVar("V")


@struct
class Opened:
    """A leased run with its values as they were before they were stored, and what encodes what it comes to.

    `problem` is why its payload cannot be decoded.
    """

    run: Run
    seal: Callable[[Part, Any], Any] | None = None
    problem: RunlaneError | None = None


class Vault(DataKeys):
    """Encodes and decodes for one runtime; without a codec it lets everything pass."""

    def seal(self, value: Any, context: CodecContext) -> Any:
        """What is stored of a value; without a codec, and of no result, the value itself.

        Raises:
            ConfigurationInvalid: the codec cannot encode it, or gave something that cannot be stored.
            PayloadErased, PayloadUnreadable: as the codec says; ``KeyUnavailable`` if it may later.
        """
        if self.codec is None or (value is None and context.part is not Part.PAYLOAD):
            return value
        try:
            encoded = dict(self.codec.encode(jsontext.dumps(value).encode(), context))
        except (PayloadErased, PayloadUnreadable):
            raise
        except Exception as error:
            raise self.refusal(f"encode the {context.part}", error, ConfigurationInvalid) from None
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
                raise once_more(found)
            context = evolve(context, key=found)
        try:
            return jsontext.decode(self.codec.decode(value, context))
        except (PayloadErased, PayloadUnreadable):
            raise
        except Exception as error:
            raise self.refusal(f"decode the {context.part}", error, PayloadUnreadable) from None

    def about(self, run: Run, part: Part) -> CodecContext:
        """What a value of a run belongs to."""
        return CodecContext(self._environment, run.id, run.task_id, part)

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

    def is_idle(self, runs: Sequence[Run]) -> bool:
        """Whether leased runs are ready for their handlers as they are stored."""
        return self.codec is None and not any(is_sealed(run.created.payload) for run in runs)

    def unlock(self, runs: Sequence[Run]) -> list[Opened]:
        """Leased runs, ready for their handlers."""
        if self.is_idle(runs):
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
