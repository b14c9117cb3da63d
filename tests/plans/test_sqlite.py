"""SQLite: no statement of the hot paths scans a table that grows with use."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import event

from runlane import Runlane
from runlane.clock import system_clock
from runlane.lanes import Lane
from runlane.requests import Trigger
from runlane.storage.database import Database
from tests.engine.post import Post
from tests.engine.sessions import session_of, take
from tests.plans.rules import GROWING
from tests.plans.scenarios import CLAIMED, FAILS, NARROW, PAUSED, UNUSED, A, B, C, Known, Scenario, World, ticking, work
from tests.support import execute

_PLANNED = re.compile(r"\s*(with|select|insert|update|delete)\b", re.IGNORECASE)
# A search that names no index is the way to a least or greatest value along the whole table.
_SCAN = re.compile(r"(?:SCAN (\w+)|SEARCH (\w+)$)")
_BY_ID = "SCAN runs USING INDEX sqlite_autoindex_runs_1"


def test_no_statement_scans_what_grows(sqlite_url: str, tmp_path: Path) -> None:
    seen: list[str] = []

    def database() -> Database:
        made = Database(sqlite_url)
        for engine in (made.engine, made.beat_engine):
            event.listen(engine, "connect", lambda raw, _: raw.set_trace_callback(seen.append))
        return made

    with Runlane(sqlite_url, tasks=[work, ticking], queues=[A, B, C, PAUSED, NARROW, UNUSED]) as app:
        world = World(database, _fill(app, database()))
        with sqlite3.connect(tmp_path / "runlane.db") as connection:
            found = [line for scenario in world.scenarios() for line in _verdicts(connection, scenario, seen)]
        connection.close()
        world.close()
    assert not found, "\n".join([f"{len(found)} breaches:", *found])


def _verdicts(connection: sqlite3.Connection, scenario: Scenario, seen: list[str]) -> Iterator[str]:
    seen.clear()
    scenario.do()
    statements = [statement for statement in seen if _PLANNED.match(statement)]
    if scenario.table and not any(scenario.table in statement for statement in statements):
        yield f"{scenario.name}: no statement was seen that looks at {scenario.table}"
    for statement in statements:
        for *_, told in connection.execute(f"explain query plan {statement}").fetchall():
            step = told.replace("main.", "")
            # A walk by id stops at its limit.
            walks = step.startswith(_BY_ID) and "ORDER BY" in statement and "LIMIT" in statement
            if (scan := _SCAN.match(step)) and _table(scan[1] or scan[2], statement) in GROWING and not walks:
                yield f"{scenario.name}: {step}\n    {' '.join(statement.split())[:400]}"


def _table(name: str, statement: str) -> str:
    """The table that goes by this name in a statement."""
    for table in GROWING:
        if re.search(rf"\b{table}(?: as)? {name}\b", statement, re.IGNORECASE):
            return table
    return name


def _fill(app: Runlane, database: Database) -> Known:
    """Some runs in each state."""
    of = {queue.name: app.trigger_many([Trigger(work, 1, queue=queue)] * 5 * CLAIMED) for queue in (A, B, C)}
    keys: dict[str, Any] = {"idempotency_key": "key", "singleton_key": "single", "correlation_id": "order"}
    ended = app.run_now(work, 1, **keys).run
    failed = app.run_now(work, FAILS).run
    again = app.runs.rerun(ended.id)
    app.trigger(work, 1, singleton_key="single 2", queue=PAUSED)
    blocked = [app.trigger(work, 1, queue=NARROW, concurrency_key=f"k{n % 3}").run.id for n in range(9)]
    paused = app.trigger(work, 1, queue=PAUSED).run.id
    app.queues.pause(PAUSED)
    asking = Runlane(Lane(database, Post()), tasks=[work], queues=[A, UNUSED], dispatch="deferred").start()
    asked = [asking.trigger(work, 1, queue=A).run.id for _ in range(3)]
    leased = take(app, system_clock, 5)
    app.tick()
    execute(app.lane.database, "update {schedules} set next_at = '2026-01-01T00:00:00.000000+00:00'")
    _lose_a_worker(app, leased[0].id)
    return Known(
        queued=[of["a"][-1].run.id],
        blocked=blocked[-1],
        paused=paused,
        leased=leased[1].id,
        failed=[failed.id],
        ended=ended.id,
        asked=asked,
        source=ended.id,
        parent=again.id,
        idempotency_key="key",
        singleton_key="single 2",
        correlation_id="order",
        schedule_id="elsewhere",
        holder=session_of(app).holder.session_id,
        held=5,
        leases=5,
        keys=3,
        backlog=3,
        clock=system_clock,
        age=timedelta(microseconds=1),
    )


def _lose_a_worker(app: Runlane, run_id: UUID) -> None:
    """Let a lease belong to a session that nobody has heard of."""
    execute(app.lane.database, f"update {{runs}} set lease_session_id = '{uuid4()}' where id = '{run_id}'")
