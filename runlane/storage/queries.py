"""Reading runs: one, many, pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from attrs import frozen
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    or_,
    select,
    text,
)

from runlane.projections.runs import Run
from runlane.storage import rows, tables
from runlane.storage.choices import OneOf
from runlane.storage.transaction import Transaction
from runlane.values import RunStatus

_RUNS, _EVENTS = tables.runs, tables.events
_FIRST, _LAST = _EVENTS.alias("first"), _EVENTS.alias("last")


def _reading(runs: FromClause) -> Select[Any]:
    """The runs of a table or subquery with their first events' data and, once they succeeded, their last events'."""
    return (
        select(
            *(runs.c[column] for column in rows.READ),
            _FIRST.c.version.label("created_version"),
            cast(_FIRST.c.data, Text).label("created_data"),
            _LAST.c.version.label("result_version"),
            cast(_LAST.c.data, Text).label("result_data"),
        )
        .select_from(runs)
        .join(_FIRST, (_FIRST.c.stream_id == runs.c.id) & (_FIRST.c.sequence == 1))
        .outerjoin(
            _LAST,
            (_LAST.c.stream_id == runs.c.id)
            & (_LAST.c.sequence == runs.c.sequence)
            & (runs.c.status == RunStatus.SUCCEEDED),
        )
    )


RUN = _reading(_RUNS)

# Constants, so that SQLAlchemy knows them again: building one each time costs three times what it costs to execute.
_OF_ENVIRONMENT = RUN.where(_RUNS.c.id == bindparam("run_id"), _RUNS.c.environment == bindparam("environment"))
_WITH_IDS = RUN.where(_RUNS.c.id.in_(bindparam("ids", expanding=True)))
# As the partial indexes `runs_ready` and `runs_waiting` say it.
_CLAIMED_FROM = (text("status = 'queued'"), OneOf("status", *tables.WAITING))
_SINGLETON = RUN.where(
    _RUNS.c.environment == bindparam("environment"),
    _RUNS.c.task_id == bindparam("task_id"),
    _RUNS.c.singleton_key == bindparam("key"),
    _RUNS.c.finished_at.is_(None),
)
#: Which runs to read or count, by the fields of ``RunFilter``.
_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "environment": _RUNS.c.environment == bindparam("environment"),
    "statuses": _RUNS.c.status.in_(bindparam("statuses", expanding=True)),
    "failed": _RUNS.c.status == literal_column("'failed'"),  # as the index `runs_failed` says it
    "tasks": _RUNS.c.task_id.in_(bindparam("tasks", expanding=True)),
    "queues": _RUNS.c.queue.in_(bindparam("queues", expanding=True)),
    "correlation_id": _RUNS.c.correlation_id == bindparam("correlation_id"),
    "idempotency_key": _RUNS.c.idempotency_key == bindparam("idempotency_key"),
    "singleton_key": _RUNS.c.singleton_key == bindparam("singleton_key"),
    "concurrency_key": _RUNS.c.concurrency_key == bindparam("concurrency_key"),
    "source_run_id": _RUNS.c.source_run_id == bindparam("source_run_id"),
    "parent_run_id": _RUNS.c.parent_run_id == bindparam("parent_run_id"),
    "schedule_id": _RUNS.c.schedule_id == bindparam("schedule_id"),
    "created_after": _RUNS.c.created_at > bindparam("created_after"),
    "created_before": _RUNS.c.created_at < bindparam("created_before"),
    "made_until": _RUNS.c.created_at <= bindparam("made_until"),
    "last_made": or_(_RUNS.c.created_at < bindparam("made_until"), _RUNS.c.id <= bindparam("last_made")),
}
_SEVERAL = ("statuses", "tasks", "queues")
_BY_QUEUE = (
    select(_RUNS.c.queue, _RUNS.c.status, func.count())
    .where(_RUNS.c.environment == bindparam("environment"))
    .group_by(_RUNS.c.queue, _RUNS.c.status)
)
_RESERVED = (
    select(_RUNS.c.queue, func.count())
    .where(_RUNS.c.environment == bindparam("environment"), _RUNS.c.reservation.is_not(None))
    .group_by(_RUNS.c.queue)
)
_BY_TYPE = (
    select(_EVENTS.c.type, func.count())
    .where(_EVENTS.c.environment == bindparam("environment"))
    .group_by(_EVENTS.c.type)
    .order_by(_EVENTS.c.type)
)


@frozen
class RunFilter:
    """Which runs to list; None means no restriction.

    `made_until` and `last_made` go together: of the runs of that very instant those up to that id.
    """

    statuses: Sequence[RunStatus] | None = None
    tasks: Sequence[str] | None = None
    queues: Sequence[str] | None = None
    correlation_id: str | None = None
    idempotency_key: str | None = None
    singleton_key: str | None = None
    concurrency_key: str | None = None
    source_run_id: UUID | None = None
    parent_run_id: UUID | None = None
    schedule_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    made_until: datetime | None = None
    last_made: UUID | None = None


def load(tx: Transaction, statement: Select[Any], parameters: Mapping[str, Any] | None = None) -> list[Run]:
    """The runs that a statement built on ``RUN`` finds."""
    found = []
    for row in tx.execute(statement, parameters):
        created = rows.created_from(row.created_version, row.created_data, row.id)
        result = None if row.result_data is None else rows.result_from(row.result_version, row.result_data)
        found.append(rows.run_from_row(row, created, result))
    return found


def get_run(tx: Transaction, environment: str, run_id: UUID) -> Run | None:
    """The run with this id in this environment."""
    found = load(tx, _OF_ENVIRONMENT, {"run_id": run_id, "environment": environment})
    return found[0] if found else None


def get_runs(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, Run]:
    """The runs with these ids."""
    return {run.id: run for run in load(tx, _WITH_IDS, {"ids": list(ids)})}


def singleton_owner(tx: Transaction, environment: str, task_id: str, key: str) -> Run | None:
    """The active run with this singleton key."""
    found = load(tx, _SINGLETON, {"environment": environment, "task_id": task_id, "key": key})
    return found[0] if found else None


def holders_in(tx: Transaction, environment: str, queue: str, concurrency_key: str | None) -> list[Run]:
    """The runs that occupy a slot of one partition of a queue: leased, or with a slot reserved."""
    c = _RUNS.c
    same_key = c.concurrency_key.is_(None) if concurrency_key is None else c.concurrency_key == concurrency_key
    mine = (c.environment == environment, c.queue == queue, same_key)
    holds = or_(c.lease_session_id.is_not(None), c.reservation.is_not(None))  # as the index runs_occupied has it
    return load(tx, RUN.where(*mine, holds).order_by(c.id))


def count_ahead(tx: Transaction, run: Run, now: datetime, most: int) -> int:
    """How many due runs of the same queue are claimed before `run`, which is due; counts up to `most`.

    Each look is into one stretch of an index that claims read too, so that nothing is read but what is counted.
    """
    c = _RUNS.c
    found = 0
    for which in _CLAIMED_FROM:
        mine = (c.environment == run.environment, c.queue == run.queue, which)
        level = select(func.min(c.priority)).where(*mine)
        stretches: list[tuple[Any, ...]] = [
            (c.priority == run.priority, c.due_at < run.due_at),
            (c.priority == run.priority, c.due_at == run.due_at, c.id < run.id),
        ]
        above = tx.execute(level.where(c.priority > run.priority)).scalar_one()
        while above is not None:
            stretches.append((c.priority == above, c.due_at <= now))
            above = tx.execute(level.where(c.priority > above)).scalar_one()
        for stretch in stretches:
            ahead = select(c.id).where(*mine, *stretch).limit(most - found).subquery()
            found += int(tx.execute(select(func.count()).select_from(ahead)).scalar_one())
    return found


def list_runs(
    tx: Transaction,
    environment: str,
    wanted: RunFilter,
    limit: int,
    after: UUID | None,
    newest_first: bool,
) -> list[Run]:
    """Up to `limit` runs by id, beginning behind `after`; ids made by Runlane grow with time."""
    asked = _asked(environment, wanted)
    page = _page(tuple(asked), newest_first, after is not None, tx.schema is not None)
    return load(tx, page, {**asked, "most": limit} if after is None else {**asked, "most": limit, "after": after})


def _asked(environment: str, wanted: RunFilter) -> dict[str, Any]:
    """The conditions by their names, each with what it compares with."""
    asked: dict[str, Any] = {"environment": environment}
    for name in _CONDITIONS:
        if name not in ("environment", "failed") and (value := getattr(wanted, name)) is not None:
            asked[name] = list(value) if name in _SEVERAL else value
    if asked.get("statuses") == [RunStatus.FAILED]:
        del asked["statuses"]
        asked["failed"] = True
    return asked


# One for each combination that is asked for: building one each time costs more than it costs to execute.
@lru_cache
def _page(names: tuple[str, ...], newest_first: bool, is_next: bool, plan_by_limit: bool) -> Select[Any]:
    chosen = select(_RUNS).where(*(_CONDITIONS[name] for name in names))
    if is_next:
        after: BindParameter[UUID] = bindparam("after")
        chosen = chosen.where(_RUNS.c.id < after if newest_first else _RUNS.c.id > after)
    # Chosen before their events are read: the planner would read those of every run that it passes on its way.  And so
    # many in plain figures, if it plans by them: of a parameter it believes that it is a tenth of the table.
    most = bindparam("most", type_=Integer, literal_execute=plan_by_limit)
    page = chosen.order_by(_RUNS.c.id.desc() if newest_first else _RUNS.c.id).limit(most).subquery()
    return _reading(page).order_by(page.c.id.desc() if newest_first else page.c.id)


@lru_cache
def _by_status(names: tuple[str, ...]) -> Select[Any, int]:
    mine = (_CONDITIONS[name] for name in names)
    return select(_RUNS.c.status, func.count()).where(*mine).group_by(_RUNS.c.status)


def count_by_status(tx: Transaction, environment: str, wanted: RunFilter) -> dict[RunStatus, int]:
    """How many of the runs that match are in each status; reads every run of the environment."""
    asked = _asked(environment, wanted)
    found: Sequence[Any] = tx.execute(_by_status(tuple(asked)), asked).all()
    return {row[0]: row[1] for row in found}


def count_by_queue(tx: Transaction, environment: str) -> dict[str, dict[RunStatus, int]]:
    """How many runs are in each status on each queue; reads every run of the environment."""
    found: dict[str, dict[RunStatus, int]] = {}
    rows: Sequence[Any] = tx.execute(_BY_QUEUE, {"environment": environment}).all()
    for queue, status, count in rows:
        found.setdefault(queue, {})[status] = count
    return found


def count_reserved(tx: Transaction, environment: str) -> dict[str, int]:
    """How many slots of each queue are set aside for runs that nobody has claimed yet."""
    rows: Sequence[Any] = tx.execute(_RESERVED, {"environment": environment}).all()
    return {row[0]: row[1] for row in rows}


def count_events(tx: Transaction, environment: str) -> dict[str, int]:
    """How many events of each stored type the log holds for an environment; reads all of them."""
    rows: Sequence[Any] = tx.execute(_BY_TYPE, {"environment": environment}).all()
    return {row[0]: row[1] for row in rows}
