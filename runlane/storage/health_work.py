"""Whether the work goes on: vanished workers, overdue schedules, wakeups, reserved slots, and runs nobody takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from attrs import frozen
from sqlalchemy import BindParameter, Select, bindparam, func, literal_column, select, text

from runlane.clock import system_clock
from runlane.health import Check, Health, worst
from runlane.storage import claims, epochs, queues, sessions, tables
from runlane.storage.choices import OneOf
from runlane.storage.health import Look
from runlane.storage.spans import counted, some, span

#: The most rows of each kind that are told of, runs that are counted, wakeups that are looked at.
_MOST, _MANY = 20, 1000
#: The most queues, and levels of priority of each, that are looked at.
_QUEUES, _LEVELS = 200, 20
_HOUSE = "start a worker (`runlane worker`), or make single passes of maintenance with `runlane tick`"
_R, _S, _D, _O = tables.runs.c, tables.sessions.c, tables.schedules.c, tables.outbox.c
_ENVIRONMENT: BindParameter[str] = bindparam("environment")
_NOW: BindParameter[datetime] = bindparam("now")
_ONE: Any = literal_column("1")
_EMPTY: Any = literal_column("''")

_EXPIRED = (
    select(_S.id, _S.worker_id, _S.expires_at)
    .where(_S.environment == _ENVIRONMENT, _S.expires_at <= bindparam("before"))
    .order_by(_S.expires_at)
    .limit(_MOST)
)
_HELD = select(_R.id).where(_R.lease_session_id == bindparam("session_id")).limit(_MANY)
_HELD_COUNT = select(func.count()).select_from(_HELD.subquery())
_OVERDUE = (
    select(_D.schedule_id, _D.task_id, _D.next_at)
    .where(_D.environment == _ENVIRONMENT, _D.next_at <= bindparam("before"), _D.next_at.is_not(None))
    .where(text("not paused"), _D.enabled.is_(True), _D.removed.is_(False))
    .order_by(_D.next_at)
    .limit(_MOST)
)
# As the indexes of `outbox` and `runs` say it.
_OPEN = OneOf("status", "pending", "claimed", "failed")
_TO_PUBLISH = (
    select(_O.run_id, _O.status, _O.requested_at, _O.due_at, _O.attempts, _O.detail)
    .where(_O.environment == _ENVIRONMENT, _OPEN)
    .order_by(_O.due_at)
    .limit(_MANY)
)
_DEAD = (
    select(_O.run_id, _O.requested_at, _O.detail)
    .where(_O.environment == _ENVIRONMENT, text("status = 'dead_lettered'"), _O.requested_at >= bindparam("since"))
    .order_by(_O.requested_at.desc())
    .limit(_MOST)
)
_OCCUPIED = text("(lease_session_id is not null or reservation is not null)")
_RESERVED = (
    select(_R.id, _R.queue, _R.reservation)
    .where(_R.environment == _ENVIRONMENT, _OCCUPIED, _R.reservation.is_not(None))
    .limit(10 * _MANY)
)
_CLAIMED_FROM = (text("status = 'queued'"), OneOf("status", *tables.WAITING))


def _each(column: Any, most: int, *which: Any) -> Select[Any]:
    """The values of a column in such rows, by one look into an index each; no value is empty."""

    def following(value: Any) -> Any:
        found = select(column).where(*which, column > value)
        return found.order_by(column).limit(_ONE).scalar_subquery()

    seen = select(following(_EMPTY).label("name")).cte("seen", recursive=True)
    seen = seen.union_all(select(following(seen.c.name)).where(seen.c.name.is_not(None)))
    return select(seen.c.name).where(seen.c.name.is_not(None)).limit(most)


@frozen
class _Line:
    """One kind of claimable runs: how its queues are found, and the oldest run of each level of a queue."""

    queues: Select[Any]
    level: Select[Any]
    level_below: Select[Any]
    lowest: Select[Any]
    oldest: Select[Any, Any, Any]


def _line(which: Any) -> _Line:
    mine = (_R.environment == _ENVIRONMENT, _R.queue == bindparam("queue"), which)
    level = select(func.max(_R.priority)).where(*mine)
    oldest = (
        select(_R.id, _R.task_id, _R.due_at)
        .where(*mine, _R.priority == bindparam("level"), _R.due_at <= _NOW)
        .order_by(_R.due_at, _R.id)
        .limit(1)
    )
    below = level.where(_R.priority < bindparam("level"))
    queues_of = _each(_R.queue, _QUEUES, _R.environment == _ENVIRONMENT, which)
    return _Line(queues_of, level, below, select(func.min(_R.priority)).where(*mine), oldest)


_LINES = tuple(_line(which) for which in _CLAIMED_FROM)
#: The environments in which something happens, as far as indexes tell.
_SOMEWHERE = (
    select(_S.environment).distinct().limit(_MOST),
    _each(_D.environment, _MOST, _D.next_at.is_not(None), text("not paused")),
    _each(_R.environment, _MOST, text("status = 'queued'")),
    _each(_R.environment, _MOST, text("status = 'failed'")),
)


def _seconds(length: timedelta) -> float:
    return round(length.total_seconds(), 3)


def _processes(number: int, most: int | None = None) -> str:
    return counted(number, "worker process", most) + ("" if number == 1 else "es")


def clock(look: Look) -> Check:
    """This machine's clock against the database's, by the quickest of three questions."""
    database = look.tx.dialect
    if database.name == "sqlite":
        return Check("clock", Health.OK, "the clock of a file is that of the machine", None, {"skew": 0.0})
    skew, leeway = min((_asked_time(look) for _ in range(3)), key=lambda asked: asked[1])
    status = look.thresholds.clock.at_most_warning().judge(abs(skew) - leeway)
    values = {"skew": _seconds(skew), "uncertainty": _seconds(leeway)}
    within = f"({abs(skew).total_seconds():.3f} s, give or take {leeway.total_seconds():.3f} s)"
    if status is Health.OK:
        return Check("clock", status, f"this machine's clock is that of the database {within}", None, values)
    which = "ahead of" if skew > timedelta() else "behind"
    return Check(
        "clock",
        status,
        f"this machine's clock is {abs(skew).total_seconds():,.1f} s {which} the database's; leases and due times are"
        " the database's, but ids of runs made here, and lists of runs by them, are out of order",
        "let NTP set the clock of this machine (`timedatectl`)",
        values,
    )


def _asked_time(look: Look) -> tuple[timedelta, timedelta]:
    """How far this machine is ahead, and by how much that may be wrong: half a round trip."""
    before = system_clock()
    there = look.tx.dialect.now(look.tx.statements)
    half = (system_clock() - before) / 2
    return before + half - there, half


def epoch(look: Look) -> Check:
    """Whether the database is another one than before, and nobody has noted it."""
    if look.database.schema is not None and look.asked("select pg_is_in_recovery()")[0][0]:
        return Check("epoch", Health.OK, "a standby opens no epoch of the log")
    if not epochs.is_due(look.tx):
        return Check("epoch", Health.OK, "the log goes on where it was", None, {"due": False})
    return Check(
        "epoch",
        Health.WARNING,
        "this database is another one than before, by a restore or a failover, and the log has not noted it",
        "run `runlane migrate` once, or start any process with the role of a maintainer; then see docs/following.md",
        {"due": True},
    )


def environment(look: Look) -> Check:
    """Whether something happens in this environment, or only in others: then another one is probably meant."""
    mine = look.environment
    found = {row[0] for statement in _SOMEWHERE for row in look.tx.execute(statement)}
    others = sorted(found - {mine})
    values = {"environment": mine, "others": others}
    if mine in found or not others:
        beside = f"; beside it there {'is' if len(others) == 1 else 'are'} {some(others)}" if others else ""
        return Check("environment", Health.OK, f"this is environment {mine}{beside}", None, values)
    return Check(
        "environment",
        Health.WARNING,
        f"no run waits or has failed in environment {mine}, and it has no worker and no schedule; {some(others)} has",
        f"if that one is meant, say so: `runlane --environment {others[0]} doctor`",
        values,
    )


def workers(look: Look) -> Check:
    """Sessions that expired long ago and are still there: nobody makes the passes of maintenance."""
    bound, now, tx = look.thresholds.sessions, look.now(), look.tx
    alive = sessions.count_alive(tx, look.environment, now)
    asked = {"environment": look.environment, "before": now - bound.warning}
    expired = tx.execute(_EXPIRED, asked).all()
    held = [int(tx.execute(_HELD_COUNT, {"session_id": row.id}).scalar_one()) for row in expired]
    orphans = claims.orphaned_sessions(tx, look.environment, _MOST)
    stale = [
        (bound if runs else bound.at_most_warning()).judge(now - row.expires_at)
        for row, runs in zip(expired, held, strict=True)
    ]
    status = worst(*stale, *([Health.WARNING] if orphans else []))
    values: dict[str, Any] = {"alive": alive, "expired": len(expired), "held": sum(held), "orphans": len(orphans)}
    living = f"{_processes(alive)} {'is' if alive == 1 else 'are'}" if alive else "no worker process is"
    if status is Health.OK:
        return Check(
            "workers",
            status,
            f"{living} alive{', and none' if alive else '; none'} has vanished unnoticed",
            None,
            values,
        )
    if not expired:
        told = f"{counted(len(orphans), 'session', _MOST)} without a row hold runs; {living} alive"
        return Check("workers", status, told, f"they are taken back by maintenance: {_HOUSE}", values)
    oldest = now - expired[0].expires_at
    values["oldest"] = _seconds(oldest)
    gone = f"{_processes(len(expired), _MOST)} vanished, the first ({expired[0].worker_id}) {span(oldest)} ago"
    told = (
        f"{gone}, and nobody has taken back the {counted(sum(held), 'run')} held there: nobody makes the passes of"
        f" maintenance; {living} alive"
    )
    return Check("workers", status, told, _HOUSE, values)


def schedules(look: Look) -> Check:
    """Schedules that should have fired."""
    bound, now = look.thresholds.schedules, look.now()
    found = look.tx.execute(_OVERDUE, {"environment": look.environment, "before": now - bound.warning}).all()
    values: dict[str, Any] = {"overdue": len(found), "schedules": [row.schedule_id for row in found]}
    if not found:
        return Check("schedules", Health.OK, "no schedule is overdue", None, values)
    first = found[0]
    late = now - first.next_at
    values["oldest"] = _seconds(late)
    return Check(
        "schedules",
        bound.judge(late),
        f"{counted(len(found), 'schedule', _MOST)} {'is' if len(found) == 1 else 'are'} overdue; {first.schedule_id} of"
        f" task {first.task_id} by {span(late)}",
        f"a process that knows the task has to keep house: {_HOUSE}; if the task is gone for good,"
        f" `runlane schedules pause {first.schedule_id}`",
        values,
    )


def outbox(look: Look) -> Check:
    """Wakeups that wait to be published, or were given up."""
    thresholds, now, mine = look.thresholds, look.now(), {"environment": look.environment}
    found = look.tx.execute(_TO_PUBLISH, mine).all()
    dead = look.tx.execute(_DEAD, {**mine, "since": now - thresholds.dead_letters}).all()
    # One that failed has waited since it was asked for; one that is published again only since it is due.
    late = [(now - (row.requested_at if row.status == "failed" else row.due_at), row) for row in found]
    age, oldest = max(late, key=lambda one: one[0], default=(timedelta(), None))
    age = max(age, timedelta())
    status = worst(thresholds.outbox.judge(age), *([Health.WARNING] if dead else []))
    values = {"waiting": len(found), "oldest": _seconds(age), "dead_lettered": len(dead)}
    if status is Health.OK:
        waiting = f"{counted(len(found), 'wakeup', _MANY)} on the way" if found else "no wakeup waits to be published"
        return Check("outbox", status, waiting, None, values)
    told = []
    if oldest is not None and thresholds.outbox.judge(age) is not Health.OK:
        why = f" (tried {oldest.attempts} times: {oldest.detail})" if oldest.detail else ""
        told.append(
            f"{counted(len(found), 'wakeup', _MANY)} wait to be published, the oldest for {span(age)},"
            f" of run {oldest.run_id}{why}"
        )
    if dead:
        why = f" ({dead[0].detail})" if dead[0].detail else ""
        told.append(
            f"{counted(len(dead), 'wakeup', _MOST)} of the last {span(thresholds.dead_letters)} given up,"
            f" the last of run {dead[0].run_id}{why}"
        )
    advice = f"see whether the transport can be reached from where maintenance runs; else {_HOUSE} with the same --app"
    return Check("outbox", status, "; ".join(told), advice, values)


def reservations(look: Look) -> Check:
    """Slots of bounded queues that are set aside for longer than they may be."""
    now = look.now()
    found = []
    for row in look.tx.execute(_RESERVED, {"environment": look.environment}):
        until = row.reservation["expires_at"]
        if until is not None and (late := now - datetime.fromisoformat(until)) > timedelta():
            found.append((late, row))
    late, first = max(found, key=lambda one: one[0], default=(timedelta(), None))
    status = look.thresholds.reservations.judge(late)
    values = {"expired": len(found), "oldest": _seconds(late)}
    if status is Health.OK or first is None:
        return Check("reservations", Health.OK, "no slot is set aside for too long", None, values)
    told = f"{counted(len(found), 'slot')} set aside for runs nobody took, the first expired {span(late)} ago"
    return Check("reservations", status, f"{told} (queue {first.queue}, run {first.id})", _HOUSE, values)


def waiting(look: Look) -> Check:
    """The oldest due run of each queue that is not paused."""
    bound, now = look.thresholds.waiting, look.now()
    paused = {control.name for control in queues.queues_of(look.tx, look.environment) if control.paused}
    oldest: dict[str, Any] = {}
    for line in _LINES:
        for name in look.tx.execute(line.queues, {"environment": look.environment}).scalars().all():
            for row in () if name in paused else _heads(look, line, name, now):
                if name not in oldest or row.due_at < oldest[name].due_at:
                    oldest[name] = row
    alive = sessions.count_alive(look.tx, look.environment, now)
    stuck = sorted((row.due_at, name) for name, row in oldest.items() if bound.judge(now - row.due_at) is not Health.OK)
    values = {
        "workers": alive,
        "paused": sorted(paused),
        "queues": {
            name: {"run": str(row.id), "task": row.task_id, "due_for": _seconds(now - row.due_at)}
            for name, row in sorted(oldest.items())
        },
    }
    if not stuck:
        longest = max((now - row.due_at for row in oldest.values()), default=None)
        told = "no run is due" if longest is None else f"the oldest due run has waited for {span(longest)}"
        beside = f"; paused: {some(sorted(paused))}" if paused else ""
        return Check("waiting", Health.OK, told + beside, None, values)
    _, name = stuck[0]
    row = oldest[name]
    late = now - row.due_at
    more = f"; so it is on {counted(len(stuck) - 1, 'more queue')}" if len(stuck) > 1 else ""
    return Check(
        "waiting",
        bound.judge(late),
        f"nobody takes run {row.id} (task {row.task_id}) on queue {name}, which has been due for {span(late)}{more}"
        + ("" if alive else "; no worker is alive"),
        f"`runlane why {row.id}` tells what holds it back"
        + ("" if alive else "; start a worker that knows the task (`runlane worker`)"),
        values,
    )


def _heads(look: Look, line: _Line, queue: str, now: datetime) -> Iterator[Any]:
    """The oldest due run of the highest levels of priority of a queue, and of the lowest, which starves first."""
    mine: dict[str, Any] = {"environment": look.environment, "queue": queue}
    level = look.tx.execute(line.level, mine).scalar_one()
    seen = 0
    while level is not None:
        seen += 1
        head = look.tx.execute(line.oldest, {**mine, "level": level, "now": now}).first()
        if head is not None:
            yield head
        if seen == _LEVELS:
            lowest = look.tx.execute(line.lowest, mine).scalar_one()
            level = lowest if lowest is not None and lowest < level else None
        else:
            level = None if seen > _LEVELS else look.tx.execute(line.level_below, {**mine, "level": level}).scalar_one()
