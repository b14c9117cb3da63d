"""Racing operations, statement by statement: in every order that a few switches between them can make.

Each operation runs on a thread of its own and stops before every SQL statement, commit and rollback until it is let go.
One goes at a time, so a schedule (``AABBA``: who takes each step) fixes what happens.  An operation that waits for a
lock of another one is recognised by asking the server (PostgreSQL) or by knowing who writes (SQLite), never by time.

``explore`` begins with the schedules without a switch and goes on to those with one, two, … switches away from an
operation that could have gone on.  What fails tells its schedule; to see that one again:

    RUNLANE_TEST_SCHEDULE=AABBA pytest tests/races/test_claims.py -k one_run
"""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from attrs import define, frozen
from sqlalchemy import Connection, event

from runlane.storage.database import Database
from tests.support import PATIENCE

Operation = Callable[[], Any]

_LOOK = 0.003  # seconds between two looks at an operation that is under way
_BEGIN_WRITING = "begin immediate"
_NO_STEP = ("begin", "savepoint", "release savepoint")
_own = threading.local()


class Abandoned(BaseException):
    """Ends an operation whose schedule has failed."""


class Stuck(AssertionError):
    """Nobody can go on: the operations wait for each other, or one does not come back."""


class Diverged(AssertionError):
    """An operation does not take the steps that its schedule was made for."""


@frozen
class Race:
    """Operations that run at once, and what must hold of their results.

    Args:
        check: is given the results in order, an expected error as a result; what it returns names the course taken.
        expected: the errors that an operation may raise.
    """

    operations: Sequence[Operation]
    check: Callable[..., str]
    expected: tuple[type[BaseException], ...] = ()


@frozen
class Step:
    """One step of a schedule: whose it was, the statement, and who else could have gone."""

    letter: str
    statement: str
    runnable: str


class Racer:
    """An operation on a thread of its own."""

    def __init__(self, letter: str, work: Operation, changed: threading.Condition) -> None:
        self.letter = letter
        self.at: str | None = None  # the statement it stands before; None while it is under way
        self.ended = False
        self.backend = 0
        self.writes = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.abandoned = False
        self._changed = changed
        self._thread = threading.Thread(target=self._run, args=(work,), name=f"racer-{letter}", daemon=True)
        self._thread.start()

    def stop_at(self, statement: str, backend: int) -> None:
        """Stand before a statement until the schedule comes to it; called on the operation's own thread."""
        with self._changed:
            self.at, self.backend = statement, backend
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.at is None or self.abandoned)
        if self.abandoned:
            raise Abandoned

    def let_go(self) -> None:
        """Execute the statement it stands before."""
        with self._changed:
            self.at = None
            self._changed.notify_all()

    def abandon(self) -> None:
        """Let it end wherever it is."""
        with self._changed:
            self.abandoned = True
            self._changed.notify_all()
        self._thread.join(PATIENCE)

    def _run(self, work: Operation) -> None:
        _own.racer = self
        try:
            self.result = work()
        except BaseException as error:
            self.error = error
        with self._changed:
            self.ended = True
            self._changed.notify_all()


def gate(name: str) -> None:
    """A step of an operation that is no SQL statement, such as moving the clock."""
    racer: Racer | None = getattr(_own, "racer", None)
    if racer is not None:
        racer.stop_at(name, 0)


def watch(database: Database) -> None:
    """Make every statement on this database's connections a step, for operations that race."""
    for engine in {database.engine, database.beat_engine}:
        event.listen(engine, "before_cursor_execute", _before_statement)
        event.listen(engine, "commit", lambda connection: _before_end(connection, "commit"))
        event.listen(engine, "rollback", lambda connection: _before_end(connection, "rollback"))


def _before_statement(connection: Connection, _: Any, statement: str, *__: Any) -> None:
    # A reader on SQLite sees nothing before its first query; a savepoint that is set or kept means nothing to others.
    if not statement.lower().startswith(_NO_STEP) or statement == _BEGIN_WRITING:
        _stop(connection, " ".join(statement.split()))


def _before_end(connection: Connection, how: str) -> None:
    if not connection.get_execution_options().get("runlane_read_only"):
        _stop(connection, how)


def _stop(connection: Connection, statement: str) -> None:
    racer: Racer | None = getattr(_own, "racer", None)
    if racer is not None and not racer.abandoned:
        raw: Any = connection.connection.dbapi_connection
        racer.stop_at(statement, raw.info.backend_pid if isinstance(raw, psycopg.Connection) else 0)


@define
class Schedule:
    """Lets operations go one step at a time.

    Args:
        plan: who takes the first steps; after them each goes on for as long as it can.
        monitor: tells on PostgreSQL who waits for whom; None on SQLite.
    """

    plan: str
    monitor: psycopg.Connection | None

    def run(self, operations: Sequence[Operation]) -> tuple[list[Racer], list[Step]]:
        """Run the operations to their ends; they, and the steps that were taken.

        Raises:
            Stuck, Diverged: with the steps so far as a note.
        """
        changed = threading.Condition()
        racers: list[Racer] = []
        steps: list[Step] = []
        try:
            for letter, work in zip("ABCDEF", operations, strict=False):
                racers.append(Racer(letter, work, changed))
                self._settle(racers, changed)
            while not all(racer.ended for racer in racers):
                racer = self._next(racers, steps)
                self._take(racer, racers, changed)
        except BaseException as error:
            error.add_note(told(steps))
            raise
        finally:
            for racer in racers:
                racer.abandon()
        return racers, steps

    def _next(self, racers: Sequence[Racer], steps: list[Step]) -> Racer:
        """Whose turn it is; adds the step."""
        writer = any(racer.writes for racer in racers)
        runnable = {
            racer.letter: racer
            for racer in racers
            if racer.at is not None and not racer.ended and not (writer and racer.at == _BEGIN_WRITING)
        }
        if not runnable:
            raise Stuck(f"nobody can go on: {[(racer.letter, racer.at or 'waits for a lock') for racer in racers]}")
        last = steps[-1].letter if steps else ""
        letter = last if last in runnable else min(runnable)
        if len(steps) < len(self.plan):
            letter = self.plan[len(steps)]
            if letter not in runnable:
                raise Diverged(f"schedule {self.plan!r}: {letter} cannot take step {len(steps) + 1}")
        steps.append(Step(letter, runnable[letter].at or "", "".join(runnable)))
        return runnable[letter]

    def _take(self, racer: Racer, racers: Sequence[Racer], changed: threading.Condition) -> None:
        statement = racer.at
        if statement == _BEGIN_WRITING:
            racer.writes = True
        racer.let_go()
        self._settle([racer, *(other for other in racers if other is not racer)], changed)
        if statement in ("commit", "rollback"):
            racer.writes = False

    def _settle(self, racers: Sequence[Racer], changed: threading.Condition) -> None:
        """Until everybody stands before a statement, waits for another one's lock, or has ended."""
        under_way = [racer for racer in racers if racer.at is None and not racer.ended]
        while under_way:
            # One that arrives may have freed another: those are looked at again.
            arrived = [racer for racer in under_way if self._arrives(racer, racers, changed)]
            under_way = [racer for racer in under_way if racer not in arrived]
            if not arrived:
                return

    def _arrives(self, racer: Racer, racers: Sequence[Racer], changed: threading.Condition) -> bool:
        """Wait for it; False if it waits for a lock of another one."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with changed:
                if changed.wait_for(lambda: racer.at is not None or racer.ended, _LOOK):
                    return True
            if self._is_blocked(racer, racers):
                return False
            if time.monotonic() > deadline:
                raise Stuck(f"{racer.letter} did not come back in {PATIENCE} s")

    def _is_blocked(self, racer: Racer, racers: Sequence[Racer]) -> bool:
        if self.monitor is None:
            return False
        row = self.monitor.execute("select pg_blocking_pids(%s)", (racer.backend,)).fetchone()
        assert row is not None
        return any(other.backend in row[0] for other in racers if other is not racer)


def told(steps: Sequence[Step]) -> str:
    """The steps, one a line."""
    return "\n".join(f"  {step.letter}  {step.statement[:150]}" for step in steps)


def explore(
    scene: Callable[[], Race], monitor: psycopg.Connection | None, *, switches: int = 2, few: int = 0
) -> Counter[str]:
    """Run the race in every schedule with up to `switches` switches, each on a scene of its own.

    Args:
        scene: prepares fresh data and returns the race.
        few: with more switches too, until so many schedules were run.

    Returns:
        How often each course was taken, as the race's check names them.
    """
    courses: Counter[str] = Counter()
    only = os.environ.get("RUNLANE_TEST_SCHEDULE")
    # By the number of switches, then in the order found.
    waiting: list[tuple[int, int, str]] = [(0, 0, only or "")]
    found = 1
    while waiting and (waiting[0][0] <= switches or courses.total() < few):
        number, _, plan = heapq.heappop(waiting)
        course, steps = _once(scene, plan, monitor)
        courses[course] += 1
        for cost, other in () if only else _others(steps, len(plan), number):
            heapq.heappush(waiting, (cost, found, other))
            found += 1
    return courses


def _once(scene: Callable[[], Race], plan: str, monitor: psycopg.Connection | None) -> tuple[str, list[Step]]:
    race = scene()
    steps: list[Step] = []
    try:
        racers, steps = Schedule(plan, monitor).run(race.operations)
        for racer in racers:
            if racer.error is not None and not isinstance(racer.error, race.expected):
                raise AssertionError(f"{racer.letter} raised {racer.error!r}") from racer.error
        return race.check(*(racer.error or racer.result for racer in racers)), steps
    except BaseException as error:
        schedule = "".join(step.letter for step in steps) or plan
        error.add_note(f"RUNLANE_TEST_SCHEDULE={schedule or 'A'}\n{told(steps)}")
        raise


def _others(steps: Sequence[Step], decided: int, switches: int) -> Iterator[tuple[int, str]]:
    """The schedules that differ from this one for the first time behind its `decided` steps, with their switches."""
    for place in range(decided, len(steps)):
        step = steps[place]
        before = steps[place - 1].letter if place else ""
        for letter in step.runnable:
            if letter != step.letter:
                cost = switches + (before in step.runnable if before else 0)
                yield cost, "".join(one.letter for one in steps[:place]) + letter
