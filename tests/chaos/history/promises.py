"""What must hold between runs: keys, limits, schedules, the tables, and what handlers and clients saw."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from tests.chaos.history.evidence import Call, Effect, Event, Evidence, instant
from tests.chaos.history.lives import CLOSES, ENDED, Life, Token
from tests.chaos.history.report import Report

Lives = Mapping[str, Life]

#: Two transactions may draw their moments and positions the other way round than they commit; none takes this long.
_APART = timedelta(seconds=90)
#: A clock is read a little before what it stands for is written.
_SLACK = 0.25


def rows_are_what_the_log_says(evidence: Evidence, lives: Lives, report: Report) -> None:
    """Invariant 6, for runs."""
    rows = {row["id"]: row for row in evidence.runs}
    for run in rows.keys() ^ (lives.keys() - evidence.pruned):
        report.differences.append(f"run {run} has {'no history' if run in rows else 'no row'}")
    for run in rows.keys() & lives.keys():
        wanted = row_of(lives[run])
        for name, value in wanted.items():
            if rows[run][name] != value:
                report.differences.append(f"run {run}: {name} is {rows[run][name]!r}, and {value!r} by the log")


def row_of(life: Life) -> dict[str, Any]:
    """The row that a life should have left."""
    created = life.data
    return {
        "task_id": created["task_id"],
        "queue": created["queue"],
        "idempotency_key": created.get("idempotency_key"),
        "singleton_key": created.get("singleton_key"),
        "concurrency_key": created.get("concurrency_key"),
        "correlation_id": created.get("correlation_id"),
        "sequence": life.sequence,
        "status": life.status,
        "due_at": life.due_at,
        "created_at": life.born.at,
        "updated_at": life.updated_at,
        "started_at": life.started_at,
        "finished_at": life.finished_at,
        "attempt_count": life.attempts,
        "failure_count": life.failures,
        "retry_count": life.retries,
        "release_count": life.releases,
        "lost_count": life.losses,
        "lease_session_id": None if life.token is None else life.token[0],
        "lease_worker_id": life.worker,
        "leased_at": life.leased_at,
        "failure": life.failure,
    }


def every_run_ended(lives: Lives, report: Report) -> None:
    """Invariant 4, once the faults are over: nothing may be left hanging."""
    for life in lives.values():
        if life.status not in ENDED:
            report.violate("left_hanging", f"run {life.id} of {life.data['task_id']} is still {life.status}")


def keys_have_one_owner(evidence: Evidence, lives: Lives, report: Report) -> None:
    """Invariants 7 and 8: a new owner may only follow one that gave the key up."""
    owners: defaultdict[tuple[str, str], list[Life]] = defaultdict(list)
    singles: defaultdict[tuple[str, str], list[Life]] = defaultdict(list)
    for life in lives.values():
        task = life.data["task_id"]
        if (key := life.data.get("idempotency_key")) is not None:
            owners[task, key].append(life)
        if (key := life.data.get("singleton_key")) is not None:
            singles[task, key].append(life)
    for key, sharing in owners.items():
        _follow_each_other("idempotency", key, sharing, report, _keeps_its_key)
    for key, sharing in singles.items():
        _follow_each_other("singleton", key, sharing, report, lambda _: False)
    rows = {(row["task_id"], row["key"]): row["run_id"] for row in evidence.keys}
    gone = {key for key, sharing in owners.items() if evidence.pruned & {life.id for life in sharing}}
    for key in rows.keys() ^ (owners.keys() - gone | rows.keys() & gone):
        report.differences.append(f"idempotency key {key} is {'not in the log' if key in rows else 'not in its table'}")
    for key in rows.keys() & owners.keys():
        here = [life for life in owners[key] if life.id not in evidence.pruned]
        current = {life.id for life in here if life.status not in ENDED or _keeps_its_key(life)}
        if rows[key] not in (current or {life.id for life in here}):
            report.differences.append(f"idempotency key {key} belongs to {rows[key]}, and to {current} by the log")


def _keeps_its_key(life: Life) -> bool:
    """An ended owner keeps a retained key, unless it failed; no retention here is shorter than a test."""
    return life.status in ("succeeded", "cancelled") and life.data.get("idempotency_ttl") != "active"


def _follow_each_other(
    name: str, key: tuple[str, str], sharing: list[Life], report: Report, keeps: Callable[[Life], bool]
) -> None:
    sharing.sort(key=lambda life: life.born.position)
    for before, after in pairwise(sharing):
        told = f"runs {before.id} and {after.id} of key {key}"
        if before.ended is None:
            report.violate(name, f"{told} are both active")
        elif keeps(before):
            report.violate(name, f"{told}: the first one {before.status} and keeps the key")
        elif after.first_lease is not None and after.first_lease < before.ended.position:
            report.violate(name, f"{told}: the second one was leased before the first one had ended")
        elif before.ended.at - after.born.at > _APART:
            report.violate(name, f"{told} were active at once for longer than any transaction takes")


def limits_hold(evidence: Evidence, lives: Lives, report: Report) -> None:
    """Invariant 9, at every position of the log: leased and reserved runs of one queue and concurrency key."""
    used: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for event in evidence.events:
        life = lives.get(event.stream)
        if life is None or (limit := evidence.promised.limits.get(life.data["queue"])) is None:
            continue
        partition = life.data["queue"], life.data.get("concurrency_key") or ""
        if event.type in ("run.leased", "run.dispatch_reserved"):
            used[partition].add(life.id)
        elif event.type in CLOSES or event.type == "run.dispatch_reservation_expired":
            used[partition].discard(life.id)
        if len(used[partition]) > limit:
            report.violate("limit", f"{len(used[partition])} slots of {partition} in use at position {event.position}")


def occurrences_fire_once(evidence: Evidence, lives: Lives, report: Report) -> None:
    """Invariant 10: none twice, none left out, each with a run of its own."""
    streams: defaultdict[str, list[Event]] = defaultdict(list)
    for event in evidence.events:
        if event.type.startswith("schedule."):
            streams[event.stream].append(event)
    names = {row["stream_id"]: row["schedule_id"] for row in evidence.schedules}
    fired: Counter[str] = Counter()
    stored = {(row["schedule_id"], row["scheduled_for"], row["id"], row["run_id"]) for row in evidence.occurrences}
    told = set()
    for stream, events in streams.items():
        name = names.get(stream, stream)
        events.sort(key=lambda event: event.sequence)
        if [event.sequence for event in events] != list(range(1, len(events) + 1)):
            report.violate("gap", f"schedule {name} has a gap")
        _in_a_row(name, events, evidence.promised.periods.get(name), report)
        for event in events:
            if event.type == "schedule.fired":
                fired[event.data["run_id"]] += 1
                told.add(
                    (name, instant(event.data["scheduled_for"]), event.data["occurrence_id"], event.data["run_id"])
                )
                _made(event, lives.get(event.data["run_id"]), name, report)
    report.differences += [f"occurrence {one} is not in both the log and its table" for one in stored ^ told]
    for life in lives.values():
        if life.data.get("source", {}).get("occurrence_id") is not None and fired[life.id] != 1:
            report.violate("occurrence", f"run {life.id} of an occurrence was fired {fired[life.id]} times")


def _made(event: Event, life: Life | None, name: str, report: Report) -> None:
    if life is None:
        report.violate("occurrence", f"{name} at {event.data['scheduled_for']} made no run")
    elif life.data.get("source", {}).get("occurrence_id") != event.data["occurrence_id"]:
        report.violate("occurrence", f"{name} at {event.data['scheduled_for']} names run {life.id}, which does not")


def _in_a_row(name: str, events: list[Event], period: float | None, report: Report) -> None:
    """Each occurrence is where the one before said that the next one is."""
    following: datetime | None = None
    last: datetime | None = None
    for event in events:
        data = event.data
        if event.type == "schedule.fired":
            at, collapsed = instant(data["scheduled_for"]), data.get("collapsed", 0)
            began = instant(data["collapsed_from"]) if data.get("collapsed_from") else at
            if following is not None and began != following:
                report.violate("occurrence", f"{name}: {following} was to come, and {began} came")
            if last is not None and at <= last:
                report.violate("occurrence", f"{name}: {at} came again, or after {last}")
            if period is not None and at - began != timedelta(seconds=period) * collapsed:
                report.violate("occurrence", f"{name}: {collapsed} from {began} to {at} are not all that were missed")
            if at > event.at:
                report.violate("early", f"{name}: {at} fired at {event.at}")
            last = at
        if "next_at" in data or event.type == "schedule.fired":
            following = instant(data["next_at"]) if data.get("next_at") else None


def effects_belong_to_leases(evidence: Evidence, lives: Lives, report: Report) -> None:
    """Whatever a handler did, it did once for a claim; and nothing succeeded that was not executed."""
    began: defaultdict[tuple[str, Token], list[Effect]] = defaultdict(list)
    ended: defaultdict[tuple[str, Token], list[Effect]] = defaultdict(list)
    for effect in evidence.effects:
        (began if effect.began else ended)[effect.run, (effect.token, effect.attempt)].append(effect)
    for (run, token), effects in began.items():
        given = lives[run].leases.get(token) if run in lives else None
        if given is None:
            report.violate("unclaimed_effect", f"run {run}: {token} was executed and never leased")
        elif min(effect.at for effect in effects) < given.timestamp() - _SLACK:
            report.violate("unclaimed_effect", f"run {run}: {token} began before it was leased")
        if len(effects) > 1:
            report.violate("executed_twice", f"run {run}: {token} was executed {len(effects)} times")
    for run, token in ended.keys() - began.keys():
        report.violate("unclaimed_effect", f"run {run}: {token} ended and never began")
    _count_costs(lives, began, ended, report)


def _count_costs(
    lives: Lives,
    began: Mapping[tuple[str, Token], list[Effect]],
    ended: Mapping[tuple[str, Token], list[Effect]],
    report: Report,
) -> None:
    for life in lives.values():
        report.attempts += life.attempts
        for token, (how, at, recovered) in life.closed.items():
            executed, over = began.get((life.id, token), ()), ended.get((life.id, token), ())
            if how == "run.succeeded" and not over:
                report.violate("success_without_effect", f"run {life.id}: {token} succeeded and was not executed")
            if (recovered or how == "run.interrupted") and executed and life.attempts > token[1]:
                report.repeated += 1
            if recovered and any(effect.at > at.timestamp() for effect in over):
                report.stale_attempted += 1


def clients_were_told_the_truth(evidence: Evidence, lives: Lives, report: Report) -> None:
    """Invariants 1, 5 and 12: what was acknowledged is there, what was refused is not, and nothing happened twice."""
    made: defaultdict[str, list[str]] = defaultdict(list)
    for life in lives.values():
        if (name := _call_of(life)) is not None:
            made[name].append(life.id)
    report.calls = dict(Counter(call.answer for call in evidence.calls))
    for call in evidence.calls:
        if call.kind == "cancel":
            _cancelled(call, lives, report)
            continue
        here = made.pop(call.name, [])
        _told(call, here, lives, report)
        if call.ids and not set(here) <= set(call.ids):
            report.violate("written_twice", f"{call.name} made {here}, and had asked for {call.ids}")
    for name, runs in made.items():
        report.violate("nobody_asked", f"runs {runs} of {name}, which no client has asked for")


def _told(call: Call, here: list[str], lives: Lives, report: Report) -> None:
    if len(here) > call.count:
        report.violate("written_twice", f"{call.name} asked for {call.count} and made {len(here)}")
    elif call.answer == "failed" and here and call.kind != "run_now":  # whose run may be there, and its end not stored
        report.violate("refused_but_written", f"{call.name} was refused ({call.why}) and made {len(here)}")
    elif call.answer == "unknown" and call.count > 1 and 0 < len(here) < call.count:
        report.violate("torn_batch", f"{call.name} asked for {call.count} and made {len(here)}")
    if call.answer != "ok":
        return
    report.lost += [f"{run}, acknowledged to {call.name}" for run in call.runs if run not in lives]
    created = {run for run, outcome in zip(call.runs, call.outcomes, strict=True) if outcome == "created"}
    if created - lives.keys() == set() and created != set(here):
        report.violate("false_answer", f"{call.name} was told of {sorted(created)} and made {sorted(here)}")


def _cancelled(call: Call, lives: Lives, report: Report) -> None:
    for run in call.runs if call.answer == "ok" else ():
        life = lives.get(run)
        if life is None or not (life.stop_asked or life.status == "cancelled"):
            report.violate("cancellation_lost", f"{call.name}: run {run} was cancelled, and its log does not know")


def _call_of(life: Life) -> str | None:
    """The call that made a run: its correlation id, or where many runs are made alike, a part of their payload."""
    payload = life.data.get("payload")
    name = life.data.get("correlation_id") or (payload.get("call") if isinstance(payload, dict) else None)
    return None if name is None else str(name)
