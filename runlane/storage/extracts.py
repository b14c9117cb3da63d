"""The log as it is stored, for export: every event of an environment, stream by stream, as of one moment."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Select, Text, bindparam, cast, func, or_, select, text, tuple_

from runlane import codec
from runlane.decisions import environment_stream
from runlane.events import RunsPruned
from runlane.storage import epochs, tables
from runlane.storage.transaction import Transaction

_EVENTS = tables.events
_LATER = _EVENTS.alias("later")
#: Ids and data as the text that is stored: what passes through Python's values and back could come out otherwise.
_COLUMNS = (
    cast(_EVENTS.c.stream_id, Text),
    _EVENTS.c.sequence,
    _EVENTS.c.type,
    _EVENTS.c.version,
    _EVENTS.c.occurred_at,
    _EVENTS.c.environment,
    _EVENTS.c.actor,
    _EVENTS.c.digest,
    cast(_EVENTS.c.data, Text),
)
#: Events of transactions that had committed by a horizon of this epoch; those up to where it began may have their ids
#: from another cluster, whose snapshots say nothing of them here.  The unqualified names mean the table next to it.
_BEFORE: dict[str, Any] = {
    "postgresql": text(
        "(pg_visible_in_snapshot(tx, cast(:horizon as pg_snapshot)) or position <= cast(:common as bigint))"
    ),
    "sqlite": text("position <= cast(:horizon as integer)"),
}
_BATCH = 1000
_RUNS_AT_ONCE = 500
_HISTORIES = (
    select(*_COLUMNS)
    .where(_EVENTS.c.stream_id.in_(bindparam("ids", expanding=True)))
    .order_by(_EVENTS.c.stream_id, _EVENTS.c.sequence)
    .execution_options(yield_per=_BATCH)
)


def horizon(tx: Transaction) -> str:
    """This moment of the log: which transactions have committed, as a text that a later transaction can go by.

    It holds within the epoch that it was asked for in.
    """
    if tx.schema is not None:
        return str(tx.statements.exec_driver_sql("select pg_current_snapshot()::text").scalar_one())
    newest = tx.execute(select(func.coalesce(func.max(_EVENTS.c.position, type_=BigInteger), 0))).scalar_one()
    return str(newest)


def read(
    tx: Transaction,
    environment: str,
    until: str | None = None,
    since: datetime | None = None,
    after: tuple[UUID, int] | None = None,
) -> Generator[Any, None, None]:
    """Events by stream id and sequence, in constant memory; rows of id (text), sequence, type, version, instant,
    environment, actor, digest, data (text).

    Args:
        until: an earlier horizon: what was committed later is left out.
        since: of runs, only those with an event at or after this instant, and of those all; all other streams.
        after: only events behind this place.
    """
    asked: dict[str, Any] = {"environment": environment}
    if until is not None:
        asked |= _at(tx, until)
    if since is not None:
        asked["since"] = since
    if after is not None:
        asked |= {"after_stream": after[0], "after_sequence": after[1]}
    statement = _reading(None if until is None else tx.dialect.name, since is not None, after is not None)
    with tx.execute(statement, asked) as found:
        yield from found


def _at(tx: Transaction, moment: str) -> dict[str, Any]:
    """What the condition of a horizon asks for."""
    if tx.schema is None:
        return {"horizon": moment}
    return {"horizon": moment, "common": max((epoch.since for epoch in epochs.history(tx)), default=0)}


@cache
def _reading(earlier: str | None, recent: bool, behind: bool) -> Select[Any]:
    """What ``read`` asks for; `earlier` is the dialect of a horizon that is not that of the transaction itself."""
    c = _EVENTS.c
    before = () if earlier is None else (_BEFORE[earlier],)
    chosen: Any = select(*_COLUMNS).where(c.environment == bindparam("environment"), *before)
    if recent:
        moved = (
            select(1)
            .select_from(_LATER)
            .where(_LATER.c.stream_id == c.stream_id, _LATER.c.occurred_at >= bindparam("since"), *before)
            .correlate(_EVENTS)
            .exists()
        )
        chosen = chosen.where(or_(~_is_of_a_run(), moved))
    if behind:
        chosen = chosen.where(
            tuple_(c.stream_id, c.sequence)
            > tuple_(
                bindparam("after_stream", type_=c.stream_id.type), bindparam("after_sequence", type_=c.sequence.type)
            )
        )
    ordered: Select[Any] = chosen.order_by(c.stream_id, c.sequence).execution_options(yield_per=_BATCH)
    return ordered


def histories(tx: Transaction, ids: Sequence[UUID]) -> Generator[Any, None, None]:
    """All events of these runs, whose ids ascend; rows as ``read`` has them."""
    for start in range(0, len(ids), _RUNS_AT_ONCE):
        with tx.execute(_HISTORIES, {"ids": list(ids[start : start + _RUNS_AT_ONCE])}) as found:
            yield from found


def _is_of_a_run() -> ColumnElement[bool]:
    return _EVENTS.c.type.startswith("run.")


def pruned_since(tx: Transaction, environment: str, moment: str) -> bool:
    """Whether runs of the environment were pruned after a horizon: what it speaks of is no longer there as a whole."""
    asked = {
        "environment_stream": environment_stream(environment),
        "pruned": codec.STORED_AS[RunsPruned][0],
        **_at(tx, moment),
    }
    return tx.execute(_pruned_since(tx.dialect.name), asked).first() is not None


@cache
def _pruned_since(dialect: str) -> Select[Any]:
    def told(table: Any) -> tuple[ColumnElement[bool], ...]:
        return table.c.stream_id == bindparam("environment_stream"), table.c.type == bindparam("pruned")

    before = select(_LATER.c.sequence).where(*told(_LATER), _BEFORE[dialect])
    return select(_EVENTS.c.sequence).where(*told(_EVENTS), _EVENTS.c.sequence.not_in(before)).limit(1)
