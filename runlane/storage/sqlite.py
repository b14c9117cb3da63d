"""SQLite: the same appends row by row, in a transaction that took the file's only write lock at its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from heapq import merge
from itertools import chain, islice
from typing import Any
from uuid import UUID

import orjson

from runlane import codec
from runlane.clock import system_clock
from runlane.digests import chained, digest, microseconds
from runlane.errors import InvariantViolation
from runlane.events import RunLeased
from runlane.storage import given_up, rows
from runlane.storage.choices import one_of
from runlane.storage.dialect import EventRow, LeaseTerms, Room, RunRow, Statements
from runlane.storage.floors import Stretch
from runlane.storage.tables import WAITING, instant_to_text

_EVENT_COLUMNS = "stream_id, sequence, type, version, occurred_at, environment, actor, data, digest"
_BIRTH = (*rows.BIRTH, "digest")
_INSERT_EVENTS = f"insert into events ({_EVENT_COLUMNS}) values "
_INSERT_RUNS = f"insert into runs ({', '.join(_BIRTH)}) values "
#: How many rows go into the table with one statement: each statement costs as much as several rows.
_ROWS = 50
_INSERT_SINGLETON = (
    f"{_INSERT_RUNS} ({', '.join('?' * len(_BIRTH))}) on conflict (environment, task_id, singleton_key)"
    " where singleton_key is not null and finished_at is null do nothing"
)
_UPDATE_RUN = (
    f"update runs set {', '.join(f'{column} = ?' for column in (*rows.STATE[1:], 'digest'))}"
    " where id = ? and sequence = ?"
)
_SEQUENCES = "select r.id, r.sequence, r.digest from json_each(?) j join runs r on r.id = j.value"
_BEFORE = """
    select e.stream_id, e.digest from json_each(?) j
    join events e on e.stream_id = json_extract(j.value, '$[0]') and e.sequence = json_extract(j.value, '$[1]')"""
_CLAIM_KEY = (
    "insert into idempotency_keys (environment, task_id, key, run_id) values (?, ?, ?, ?) on conflict do nothing"
)
_DUE = """
    select r.priority, r.due_at, {{columns}}, e.version, e.data
    from runs r join events e on e.stream_id = r.id and e.sequence = 1
    where r.environment = ? and r.queue = ? and {status} and r.due_at <= ?
    and r.task_id in (select value from json_each(?)) order by {order} limit ?"""
_LEASE_RUN = """
    update runs set status = 'running', sequence = ?, updated_at = ?, due_at = null, run_at = null, started_at = ?,
    attempt_count = ?, lease_session_id = ?, lease_worker_id = ?, leased_at = ?, reservation = null, digest = ?
    where id = ? and sequence = ?"""
_IN = """
    select id, priority, due_at from runs where environment = ? and queue = ? and {which} and due_at <= ?
    and reservation is null and {unless} and task_id in (select value from json_each(?))
    order by priority desc, due_at, id limit ?"""
_LEVEL_IN = "select max(priority) from runs where environment = ? and queue = ? and {which} and priority < ?"
_SESSION = (
    "select (select json_group_array(name) from queues where environment = ? and paused) from sessions where id = ?"
)
_IS_WAITING = one_of("status", *WAITING)
_KEYED = "concurrency_key = ? and due_at is not null"
_UNKEYED = f"concurrency_key is null and {_IS_WAITING}"
_UNLESS = {False: "true", True: given_up.unrejected("")}  # by whether slots are set aside
_QUEUED_IN = "concurrency_key is null and status = 'queued'"
_QUEUED = _DUE.format(status="r.status = 'queued'", order="r.priority desc, r.due_at, r.id")
_WAITING = _DUE.format(status=f"{one_of('r.status', *WAITING)} and r.priority = ?", order="r.due_at, r.id")
_NEXT_LEVEL = f"select max(priority) from runs where environment = ? and queue = ? and {_IS_WAITING} and priority < ?"
_PRUNING = "insert into pruning (run_id) select value from json_each(?)"
_DELETE_KEYS = """
    delete from idempotency_keys where (environment, task_id, key, run_id) in (
      select r.environment, r.task_id, r.idempotency_key, r.id from pruning p join runs r on r.id = p.run_id)"""
_DELETE_WAKEUPS = "delete from outbox where run_id in (select run_id from pruning)"
_DELETE_EVENTS = "delete from events where stream_id in (select run_id from pruning)"
_DELETE_RUNS = "delete from runs where id in (select run_id from pruning)"
_ABOVE_ALL = 32768  # one more than the highest priority
_LEASED = codec.STORED_AS[RunLeased][0]
_READ_INSTANTS = [index for index, column in enumerate(rows.READ) if column.endswith("_at")]
_READ_IDS = [rows.READ.index("id"), rows.READ.index("lease_session_id")]


def _plain(value: Any) -> Any:
    """A value as sqlite3 takes it: instants and ids as text."""
    kind = type(value)
    if kind is str or kind is int or value is None:
        return value
    return instant_to_text(value) if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value


def _plain_rows(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Rows as sqlite3 takes them; what is the same in all of them is made plain once."""
    if len(rows) == 1:
        return [tuple(map(_plain, rows[0]))]
    columns: list[Sequence[Any]] = []
    for column in zip(*rows, strict=True):
        first = column[0]
        if column.count(first) == len(column):
            columns.append((_plain(first),) * len(column))
        else:
            columns.append([_plain(value) for value in column])
    return list(zip(*columns, strict=True))


def _insert(conn: Statements, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert plain rows, many with one statement."""
    whole = len(rows) - len(rows) % _ROWS
    place = f"({', '.join('?' * len(rows[0]))})"
    if whole:
        chunks = (rows[start : start + _ROWS] for start in range(0, whole, _ROWS))
        flat = [tuple(chain.from_iterable(chunk)) for chunk in chunks]
        conn.exec_driver_sql(statement + ", ".join([place] * _ROWS), flat)
    if whole < len(rows):
        conn.exec_driver_sql(statement + place, list(rows[whole:]))


def _insert_digested(conn: Statements, events: Sequence[EventRow], digests: Sequence[bytes]) -> None:
    if events:
        _insert(
            conn,
            _INSERT_EVENTS,
            _plain_rows([(*event, digest) for event, digest in zip(events, digests, strict=True)]),
        )


@cache
def _due(columns: tuple[str, ...]) -> tuple[str, str]:
    """The statements that read these columns of queued runs, and of those that waited."""
    named = ", ".join("r." + column for column in columns)
    return _QUEUED.format(columns=named), _WAITING.format(columns=named)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _uuid(text: str) -> UUID:
    return UUID(int=int(text.replace("-", ""), 16))


def _expect(wanted: int, written: int) -> None:
    if written != wanted:
        # Only a caller's own deferred transaction could see this: another process wrote in between.
        raise InvariantViolation("the SQLite transaction does not hold the write lock; begin it with BEGIN IMMEDIATE")


def _rich(row: Sequence[Any]) -> list[Any]:
    """A row of ``rows.READ`` columns with instants and ids as such."""
    values = list(row)
    for index in _READ_INSTANTS:
        if values[index] is not None:
            values[index] = _instant(values[index])
    for index in _READ_IDS:
        if values[index] is not None:
            values[index] = _uuid(values[index])
    return values


def _rank(row: Sequence[Any]) -> tuple[Any, ...]:
    """The claim order of a candidate: priority, due time, id."""
    return -row[0], row[1], row[2]


class Sqlite:
    """The statements for one file, or for one database in memory."""

    name = "sqlite"

    def now(self, conn: Statements) -> datetime:
        # The file's clock is this machine's; SQLite's own functions would cut it to milliseconds.
        return system_clock()

    def insert_events(self, conn: Statements, events: Sequence[EventRow]) -> None:
        began = {event[0]: event[1] - 1 for event in reversed(events)}
        behind = [(str(stream_id), sequence) for stream_id, sequence in began.items() if sequence]
        before: dict[UUID, bytes] = {}
        if behind:
            found = conn.exec_driver_sql(_BEFORE, (orjson.dumps(behind).decode(),))
            before = {_uuid(row[0]): row[1] for row in found}
        _insert_digested(conn, events, chained(events, before)[0])

    def insert_runs(self, conn: Statements, runs: Sequence[RunRow], events: Sequence[EventRow]) -> None:
        digests, last = chained(events, {})
        _insert(conn, _INSERT_RUNS, _plain_rows([(*run, last[run[0]]) for run in runs]))
        _insert_digested(conn, events, digests)

    def insert_singleton(self, conn: Statements, run: RunRow, events: Sequence[EventRow]) -> bool:
        row = (*run, chained(events, {})[0][-1])
        return conn.exec_driver_sql(_INSERT_SINGLETON, tuple(map(_plain, row))).rowcount == 1

    def update_runs(
        self, conn: Statements, expected: Sequence[int], runs: Sequence[RunRow], events: Sequence[EventRow]
    ) -> set[UUID]:
        plain = _plain_rows(runs)
        ids = orjson.dumps([run[0] for run in plain]).decode()
        stored = {row[0]: (row[1], row[2]) for row in conn.exec_driver_sql(_SEQUENCES, (ids,))}
        before: dict[UUID, bytes] = {}
        won = []
        for run, text, sequence in zip(runs, plain, expected, strict=True):
            found, digest = stored.get(text[0], (None, b""))
            if found == sequence:
                before[run[0]] = digest
                won.append((run[0], text, sequence))
        lost = {run[0] for run in runs if run[0] not in before} if len(won) < len(runs) else set()
        if not won:
            return lost
        if lost:
            events = [event for event in events if event[0] not in lost]
        digests, last = chained(events, before)
        updates = [(*text[1:], last[run_id], text[0], sequence) for run_id, text, sequence in won]
        _expect(len(updates), conn.exec_driver_sql(_UPDATE_RUN, updates).rowcount)
        _insert_digested(conn, events, digests)
        return lost

    def claim_keys(self, conn: Statements, keys: Sequence[tuple[str, str, str, UUID]]) -> set[UUID]:
        return {key[3] for key in keys if conn.exec_driver_sql(_CLAIM_KEY, tuple(map(_plain, key))).rowcount == 1}

    def lock_stream(self, conn: Statements, stream_id: UUID) -> None:
        """The transaction holds the only write lock already."""

    def lock_for_pruning(self, conn: Statements, ids: Sequence[UUID]) -> None:
        """The transaction holds the only write lock already."""

    def delete_runs(self, conn: Statements, told: tuple[UUID, int], ids: Sequence[UUID]) -> int:
        # That the event `told` is the newest one is what the triggers ask.
        conn.exec_driver_sql(_PRUNING, (orjson.dumps([str(id) for id in ids]).decode(),))
        conn.exec_driver_sql(_DELETE_WAKEUPS)
        conn.exec_driver_sql(_DELETE_KEYS)
        deleted = conn.exec_driver_sql(_DELETE_EVENTS).rowcount
        conn.exec_driver_sql(_DELETE_RUNS)
        conn.exec_driver_sql("delete from pruning")
        return deleted

    def lock_due(
        self,
        conn: Statements,
        environment: str,
        session_id: UUID,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime,
        limit: int,
    ) -> list[tuple[Any, ...]]:
        best = self._best(conn, rows.READ, environment, session_id, stretches, tasks, now, limit)
        return [(*_rich(row[2:-2]), row[-2], row[-1]) for row in best]

    def any_due(
        self,
        conn: Statements,
        environment: str,
        session_id: UUID,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime,
    ) -> bool:
        return bool(self._best(conn, ("id",), environment, session_id, stretches, tasks, now, 1))

    def lease_runs(
        self,
        conn: Statements,
        environment: str,
        terms: LeaseTerms,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime | None,
        limit: int,
    ) -> Sequence[Sequence[Any]]:
        now = system_clock() if now is None else now
        session, moment, passed = str(terms.session_id), instant_to_text(now), microseconds(now)
        updates, events, leased = [], [], []
        columns = (*rows.LEASED, "digest")
        for row in self._best(conn, columns, environment, terms.session_id, stretches, tasks, now, limit):
            due_at, run_id, created_at, sequence, updated_at, started_at, attempts, *rest, before, version, first = row[
                1:
            ]
            at = max(updated_at, moment)  # time never runs backwards within a run
            started, attempt = started_at or at, attempts + 1
            leased_at = now if at == moment else _instant(at)
            data = f"{terms.before}{attempt}{terms.behind}"
            facts = (run_id, sequence + 1, _LEASED, terms.version)
            since = passed if at == moment else microseconds(leased_at)
            told = digest(before, *facts, since, environment, terms.actor, data)
            updates.append((sequence + 1, at, started, attempt, session, terms.worker_id, at, told, run_id, sequence))
            events.append((*facts, at, environment, terms.actor, data, told))
            started = leased_at if started == at else _instant(started)
            leased.append(
                (
                    _uuid(run_id),
                    _instant(created_at),
                    sequence + 1,
                    leased_at,
                    started,
                    attempt,
                    *rest,
                    version,
                    first,
                    _instant(due_at),
                )
            )
        if leased:
            _expect(len(updates), conn.exec_driver_sql(_LEASE_RUN, updates).rowcount)
            _insert(conn, _INSERT_EVENTS, events)
        return leased

    def _best(
        self,
        conn: Statements,
        columns: Sequence[str],
        environment: str,
        session_id: UUID,
        stretches: Sequence[Stretch],
        tasks: Sequence[str],
        now: datetime,
        limit: int,
    ) -> list[Any]:
        """The rows of due runs: priority, due time, these columns (the first is the id), created version and data."""
        queues = list({stretch.queue: None for stretch in stretches})  # nothing is in the way here: all of each
        paused = conn.exec_driver_sql(_SESSION, (environment, str(session_id))).scalar()
        if paused is None:  # the session has ended
            return []
        if paused != "[]":
            queues = [queue for queue in queues if queue not in orjson.loads(paused)]
        known = orjson.dumps(list(tasks)).decode()
        queued, waiting = _due(tuple(columns))
        found = []
        for queue in queues:
            parameters = (environment, queue, instant_to_text(now), known, limit)
            found.append(sorted(conn.exec_driver_sql(queued, parameters).all(), key=_rank))
            found.append(self._waiting(conn, waiting, environment, queue, parameters, limit))
        return list(islice(merge(*found, key=_rank), limit))

    def _waiting(
        self,
        conn: Statements,
        statement: str,
        environment: str,
        queue: str,
        parameters: tuple[Any, ...],
        limit: int,
    ) -> list[Any]:
        """Due runs that waited, level by level of priority: within one, runs that are not yet due come last."""
        found: list[Any] = []
        level = conn.exec_driver_sql(_NEXT_LEVEL, (environment, queue, _ABOVE_ALL)).scalar_one()
        while level is not None and len(found) < limit:
            where, due = parameters[:2], parameters[2:]
            found += sorted(conn.exec_driver_sql(statement, (*where, level, *due)).all(), key=_rank)
            level = conn.exec_driver_sql(_NEXT_LEVEL, (environment, queue, level)).scalar_one()
        return found

    def lock_numbers(self, conn: Statements, numbers: Sequence[int]) -> None:
        """Nothing: whoever writes has the whole file."""

    def lock_due_in(
        self,
        conn: Statements,
        environment: str,
        rooms: Sequence[Room],
        tasks: Sequence[str],
        now: datetime,
        reserving: bool,
    ) -> list[tuple[UUID, str, str | None]]:
        due, unless = (instant_to_text(now), orjson.dumps(list(tasks)).decode()), _UNLESS[reserving]
        queued = _IN.format(which=_QUEUED_IN, unless=unless)
        found: list[tuple[Any, ...]] = []
        for queue, key, room in rooms:
            place: tuple[str, ...] = (environment, queue) if key is None else (environment, queue, key)
            rows = [] if key is not None else list(conn.exec_driver_sql(queued, (*place, *due, room)))
            rows += self._by_level(conn, _UNKEYED if key is None else _KEYED, unless, place, due, room)
            found += [(-row[1], row[2], row[0], queue, key) for row in rows]
        return [(UUID(row[2]), row[3], row[4]) for row in sorted(found, key=lambda row: row[:3])]

    def _by_level(
        self, conn: Statements, which: str, unless: str, place: tuple[str, ...], due: tuple[str, str], room: int
    ) -> list[Any]:
        """Due runs of a partition, level by level of priority as above."""
        highest, best = _LEVEL_IN.format(which=which), _IN.format(which=which + " and priority = ?", unless=unless)
        found: list[Any] = []
        level = conn.exec_driver_sql(highest, (*place, _ABOVE_ALL)).scalar_one()
        while level is not None and len(found) < room:
            found += conn.exec_driver_sql(best, (*place, level, *due, room)).all()
            level = conn.exec_driver_sql(highest, (*place, level)).scalar_one()
        return found
