"""Shadows: the tables that a rebuild folds the log into, beside the live ones; what both databases do alike.

Each has the columns of a live table under a name of its own; one more holds which keys were freed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    MetaData,
    Table,
    and_,
    cast,
    delete,
    exists,
    func,
    insert,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from runlane import codec
from runlane.events import RunsPruned
from runlane.schedule_decisions import schedule_stream
from runlane.storage import engines, install, ownership, rows, tables
from runlane.storage.findings import Difference
from runlane.storage.folding import COLUMNS, Row
from runlane.storage.transaction import Transaction

#: How the names of shadows begin.
PREFIX = "rebuilt_"
#: The stored name of the event that tells of pruned runs: rows go that no stream of theirs tells of any more.
PRUNED = codec.STORED_AS[RunsPruned][0]
#: The tables that are folded from the log, in the order in which they are locked: as the engine locks their rows.
LIVE: dict[str, Table] = {
    "schedules": tables.schedules,
    "occurrences": tables.occurrences,
    "queues": tables.queues,
    "idempotency_keys": tables.idempotency_keys,
    "runs": tables.runs,
}
#: The shadow that is no table's.
RESETS = "resets"
_EVENTS = tables.events
_KEY, _BIRTH = COLUMNS["idempotency_keys"][:3], {name: place for place, name in enumerate(rows.BIRTH)}
_OF_KIND = {"run": ("runs", "id"), "schedule": ("schedules", "stream_id"), "queue": ("queues", "stream_id")}
Key = tuple[str, str, str]


def stay(tx: Transaction) -> None:
    """Let no rebuild replace the tables until this transaction ends; the first thing that it does.

    A table that was put in the place of another looks empty to whoever has an older snapshot.
    """
    if tx.schema is not None:
        of = install.quoted(tx.schema)
        tx.connection.exec_driver_sql(
            f"set local idle_in_transaction_session_timeout = {engines.IDLE_READING};"
            f" lock table {', '.join(f'{of}.{name}' for name in LIVE)} in access share mode"
        )


class Place(Protocol):
    """What is different from database to database: where shadows are, and how rows get in."""

    #: The schema that statements name.
    schema: str
    is_json_opaque: bool

    def put(self, tx: Transaction, name: str, columns: Sequence[str], found: Sequence[Row]) -> None:
        """Insert rows of these columns into a shadow."""
        ...


class Shadows:
    """The shadows in one place, as statements see them."""

    def __init__(self, place: Place) -> None:
        self._place = place
        made = MetaData(schema=place.schema)
        self.tables = {
            name: Table(PREFIX + name, made, *(Column(column.name, column.type) for column in live.columns))
            for name, live in {**LIVE, RESETS: tables.idempotency_keys}.items()
        }

    def put(self, tx: Transaction, found: Mapping[str, Sequence[Row]]) -> None:
        """Insert folded rows."""
        for name, some in found.items():
            if some:
                self._place.put(tx, name, COLUMNS[name], some)

    def put_resets(self, tx: Transaction, found: Sequence[Row]) -> None:
        """Which keys were freed last from which runs."""
        if found:
            self._forget_keys(tx, self.tables[RESETS], [row[:3] for row in found])
            self._place.put(tx, RESETS, COLUMNS["idempotency_keys"], found)

    def forget(self, tx: Transaction, ids: Sequence[UUID]) -> None:
        """Remove the rows of these streams; occurrences stay, as their streams only grow."""
        for name, key in _OF_KIND.values():
            shadow = self.tables[name]
            tx.execute(delete(shadow).where(shadow.c[key].in_(list(ids))))

    def keep(self, tx: Transaction, kind: str, stream_id: UUID) -> None:
        """Take over what is stored for a stream whose history cannot be folded: it is evidence, and nothing better."""
        if kind not in _OF_KIND:
            return
        name, key = _OF_KIND[kind]
        live, shadow = LIVE[name], self.tables[name]
        names = live.columns.keys()
        tx.execute(delete(shadow).where(shadow.c[key] == stream_id))
        tx.execute(insert(shadow).from_select(names, select(live).where(live.c[key] == stream_id)))
        if kind == "schedule":
            live, shadow, schedules = LIVE["occurrences"], self.tables["occurrences"], LIVE["schedules"]
            mine = exists().where(
                schedules.c.stream_id == stream_id,
                schedules.c.environment == live.c.environment,
                schedules.c.schedule_id == live.c.schedule_id,
            )
            missing = select(live).where(mine, ~exists().where(_same_key(live, shadow)))
            tx.execute(insert(shadow).from_select(live.columns.keys(), missing))

    def schedules(self, tx: Transaction, ids: Sequence[UUID]) -> Sequence[Any]:
        """The rows of these schedules, as folded so far."""
        shadow = self.tables["schedules"]
        found: Sequence[Any] = tx.execute(select(shadow).where(shadow.c.stream_id.in_(list(ids)))).all()
        return found

    def forget_pruned(self, tx: Transaction) -> None:
        """Remove runs whose histories are gone, and the keys that they owned."""
        runs, keys = self.tables["runs"], self.tables["idempotency_keys"]
        tx.execute(delete(runs).where(~exists().where(_EVENTS.c.stream_id == runs.c.id)))
        tx.execute(delete(keys).where(~exists().where(runs.c.id == keys.c.run_id)))

    def own(self, tx: Transaction) -> None:
        """Find the owner of each key: the last run created with it, as its row stands in ``runs``.

        A key goes with its owner when that is pruned.  So where a prune came behind an ended run, the log does not tell
        whether the key is that run's or was lost to one that is gone: then it is as it is stored.
        """
        runs, keys, resets = (self.tables[name] for name in ("runs", "idempotency_keys", RESETS))
        live = LIVE["idempotency_keys"]
        first = and_(_EVENTS.c.stream_id == runs.c.id, _EVENTS.c.sequence == 1)
        mine = (runs.c.environment, runs.c.task_id, runs.c.idempotency_key)
        last = func.row_number().over(partition_by=mine, order_by=_EVENTS.c.position.desc()).label("place")
        ranked = (
            select(*mine, runs.c.id, last)
            .select_from(runs.join(_EVENTS, first))
            .where(runs.c.idempotency_key.is_not(None))
            .subquery()
        )
        owners = select(*list(ranked.c)[:4], null()).where(ranked.c.place == 1)
        tx.execute(insert(keys).from_select(COLUMNS["idempotency_keys"], owners))
        for environment in tx.execute(select(keys.c.environment).distinct()).scalars().all():
            position = ownership.last_prune(tx, environment)
            lost = exists().where(
                runs.c.id == keys.c.run_id, first, runs.c.finished_at.is_not(None), _EVENTS.c.position < position
            )
            gone = and_(keys.c.environment == environment, lost, ~exists().where(_same_key(live, keys)))
            tx.execute(delete(keys).where(gone))
        freed = and_(_same_key(resets, keys, _KEY), resets.c.run_id == keys.c.run_id)
        at = select(resets.c.reset_at).where(freed).scalar_subquery()
        tx.execute(update(keys).where(exists().where(freed)).values(reset_at=at))

    def settle(self, tx: Transaction, births: Iterable[Row], resets: Iterable[Row]) -> None:
        """Bring the owners of these keys up to date."""
        found: dict[Key, UUID | None] = {(row[0], row[1], row[2]): None for row in resets}
        ended: set[UUID] = set()
        mine = [row for row in births if row[_BIRTH["idempotency_key"]] is not None]
        ids = [row[_BIRTH["id"]] for row in mine]
        born = self._positions(tx, ids)
        for row in sorted(mine, key=lambda row: born.get(row[_BIRTH["id"]], 0)):
            found[_key_of(row)] = row[_BIRTH["id"]]
            if row[_BIRTH["finished_at"]] is not None:
                ended.add(row[_BIRTH["id"]])
        settled: list[Row] = []
        for key, newest in found.items():
            held = self._row(tx, self.tables["idempotency_keys"], key)
            owner = newest if held is None else held.run_id
            if held is not None and newest is not None and newest != held.run_id:
                places = self._positions(tx, [newest, held.run_id])
                owner = max((newest, held.run_id), key=lambda id: places.get(id, 0))
            freed = self._row(tx, self.tables[RESETS], key)
            if owner is not None and owner in ended and self._may_be_lost(tx, key, born.get(owner, 0)):
                owner = None
            if owner is not None:
                reset_at = freed.reset_at if freed is not None and freed.run_id == owner else None
                settled.append((*key, owner, reset_at))
        self._forget_keys(tx, self.tables["idempotency_keys"], found)
        if settled:
            self._place.put(tx, "idempotency_keys", COLUMNS["idempotency_keys"], settled)

    def _may_be_lost(self, tx: Transaction, key: Key, born: int) -> bool:
        """Whether an ended run born there may have lost this key to one that is pruned; see ``own``."""
        return self._row(tx, LIVE["idempotency_keys"], key) is None and born < ownership.last_prune(tx, key[0])

    def counts(self, tx: Transaction) -> dict[str, Counter[str]]:
        """How many rows each shadow has, by environment and table."""
        found: dict[str, Counter[str]] = {}
        for name in LIVE:
            environment = self.tables[name].c.environment
            counted: Sequence[Any] = tx.execute(select(environment, func.count()).group_by(environment)).all()
            for row in counted:
                found.setdefault(row[0], Counter())[name] = row[1]
        return found

    def compare(self, tx: Transaction, most: int) -> tuple[Counter[str], list[Difference]]:
        """How many rows are different in each environment, and what is different, in up to so many fields."""
        different: Counter[str] = Counter()
        told: list[Difference] = []
        for name, live in LIVE.items():
            shadow = self.tables[name]
            for sides, condition in self._differing(live, shadow):
                environment = func.coalesce(shadow.c.environment, live.c.environment)
                counted: Any = (
                    select(environment, func.count()).select_from(sides).where(condition).group_by(environment)
                )
                found: Sequence[Any] = tx.execute(counted).all()
                different.update({row[0]: row[1] for row in found})
                if not found or len(told) >= most:
                    continue
                both = [*live.columns, *shadow.columns]
                by_key = [func.coalesce(shadow.c[key.name], key) for key in live.primary_key]
                wanted = select(*both).select_from(sides).where(condition).order_by(*by_key).limit(most)
                width = len(live.columns)
                for row in tx.execute(wanted):
                    stored, folded = (
                        None if part[0] is None else dict(zip(live.columns.keys(), part, strict=True))
                        for part in (row[:width], row[width:])
                    )
                    told += _told(name, stored, folded)
        return different, told[:most]

    def put_right(self, tx: Transaction) -> None:
        """Make the live tables equal to the shadows, row by row, where they are not."""
        for name, live in LIVE.items():
            shadow = self.tables[name]
            same = and_(_same_key(live, shadow), ~self._changed(live, shadow))
            tx.execute(delete(live).where(~exists().where(same)))
            names = live.columns.keys()
            missing = select(*(shadow.c[name] for name in names)).where(~exists().where(_same_key(live, shadow)))
            tx.execute(insert(live).from_select(names, missing))

    def _differing(self, live: Table, shadow: Table) -> Iterator[tuple[Any, ColumnElement[bool]]]:
        """Where rows are missing or different, and where there are too few: two joins, as not every SQLite knows the
        one that is both."""
        same = _same_key(live, shadow)
        key = next(iter(live.primary_key)).name
        yield live.outerjoin(shadow, same), or_(shadow.c[key].is_(None), self._changed(live, shadow))
        yield shadow.outerjoin(live, same), live.c[key].is_(None)

    def _changed(self, live: Table, shadow: Table) -> ColumnElement[bool]:
        keys = set(live.primary_key.columns.keys())
        others = [column.name for column in live.columns if column.name not in keys]
        return or_(*(self._value(live.c[n]).is_distinct_from(self._value(shadow.c[n])) for n in others))

    def _value(self, column: Any) -> Any:
        """What can be compared: PostgreSQL compares no texts of JSON, only values."""
        is_json = self._place.is_json_opaque and isinstance(column.type, tables.Json)
        return cast(column, postgresql.JSONB) if is_json else column

    def _positions(self, tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, int]:
        """The places in the log at which these runs were born."""
        born = select(_EVENTS.c.stream_id, _EVENTS.c.position).where(
            _EVENTS.c.stream_id.in_(list(ids)), _EVENTS.c.sequence == 1
        )
        found: Sequence[Any] = tx.execute(born).all() if ids else ()
        return {row[0]: row[1] for row in found}

    @staticmethod
    def _row(tx: Transaction, shadow: Table, key: Key) -> Any:
        return tx.execute(select(shadow).where(_is(shadow, key))).first()

    @staticmethod
    def _forget_keys(tx: Transaction, shadow: Table, keys: Iterable[Row]) -> None:
        for key in keys:
            tx.execute(delete(shadow).where(_is(shadow, key)))


def _is(shadow: Table, key: Sequence[Any]) -> ColumnElement[bool]:
    return and_(*(shadow.c[name] == value for name, value in zip(_KEY, key, strict=True)))


def _key_of(row: Row) -> Key:
    return row[_BIRTH["environment"]], row[_BIRTH["task_id"]], row[_BIRTH["idempotency_key"]]


def _same_key(one: Table, other: Table, names: Sequence[str] | None = None) -> ColumnElement[bool]:
    """The same row of both tables."""
    keys = names or one.primary_key.columns.keys()
    return and_(*(one.c[name] == other.c[name] for name in keys))


def _told(name: str, stored: dict[str, Any] | None, folded: dict[str, Any] | None) -> list[Difference]:
    """What is different in one row."""
    row = folded or stored or {}
    if name == "occurrences":
        stream = schedule_stream(row["environment"], row["schedule_id"])
        return [Difference(stream, 0, "occurrences", _occurrence(stored), _occurrence(folded))]
    if name == "idempotency_keys":
        id, sequence, prefix = row["run_id"], 1, "idempotency_keys"
    else:
        id, sequence, prefix = row["id" if name == "runs" else "stream_id"], folded["sequence"] if folded else 0, "row"
    if stored is None or folded is None:
        absent = ("absent", "present") if stored is None else ("present", "absent")
        return [Difference(id, sequence, prefix, *absent)]
    before = "" if prefix == "row" else f"{prefix}."
    return [
        Difference(id, sequence, before + field, stored[field], value)
        for field, value in folded.items()
        if stored[field] != value
    ]


def _occurrence(row: dict[str, Any] | None) -> Any:
    return "absent" if row is None else f"{row['scheduled_for'].isoformat()} {row['id']} {row['run_id']}"
