"""A fold of runs of its own, written from the tables of the specification, that judges every step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from attrs import Factory, define

from tests.chaos.history.evidence import Event, instant
from tests.chaos.history.report import Report

Token = tuple[str, int]

WAITS = frozenset({"queued", "scheduled", "released", "retrying"})
LEASED = frozenset({"running", "cancellation_requested"})
ENDED = frozenset({"succeeded", "failed", "cancelled"})

#: From which statuses an event may follow, and to which it leads ("" where that takes a look at the event).
STEPS: Mapping[str, tuple[frozenset[str], str]] = {
    "run.delivery_requested": (WAITS, ""),
    "run.dispatch_reserved": (frozenset({"queued"}), "queued"),
    "run.dispatch_reservation_expired": (frozenset({"queued"}), "queued"),
    "run.leased": (WAITS, "running"),
    "run.succeeded": (frozenset({"running"}), "succeeded"),
    "run.retry_scheduled": (frozenset({"running"}), "retrying"),
    "run.released": (frozenset({"running"}), "released"),
    "run.interrupted": (frozenset({"running"}), "queued"),
    "run.lease_expired": (frozenset({"running"}), "queued"),
    "run.failed": (LEASED, "failed"),
    "run.cancellation_requested": (frozenset({"running"}), "cancellation_requested"),
    "run.cancelled": (WAITS | LEASED, "cancelled"),
}
#: What an attempt writes about itself; each names its lease.
OUTCOMES = frozenset({"run.succeeded", "run.retry_scheduled", "run.released", "run.interrupted", "run.failed"})
#: After these nobody holds the run.
CLOSES = OUTCOMES | {"run.lease_expired", "run.cancelled"}


@define
class Life:
    """A run as its events tell it.

    `leases` says of each token when it was given, `closed` by which event, when, and whether maintenance did it since
    the owner had vanished.
    """

    id: str
    born: Event
    status: str
    due_at: datetime | None
    updated_at: datetime
    sequence: int = 1
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    failures: int = 0
    retries: int = 0
    releases: int = 0
    losses: int = 0
    failure: Any = None
    token: Token | None = None
    worker: str | None = None
    leased_at: datetime | None = None
    leases: dict[Token, datetime] = Factory(dict)
    closed: dict[Token, tuple[str, datetime, bool]] = Factory(dict)
    first_lease: int | None = None
    ended: Event | None = None
    stop_asked: bool = False

    @property
    def data(self) -> Mapping[str, Any]:
        """What it was created with."""
        return self.born.data


def live(events: Iterable[Event], report: Report) -> dict[str, Life]:
    """The lives of all runs, each step judged."""
    streams: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.type.startswith("run."):
            streams[event.stream].append(event)
    lives = {}
    for stream, steps in streams.items():
        steps.sort(key=lambda event: event.sequence)
        if (life := _life(steps, report)) is not None:
            lives[stream] = life
    return lives


def _life(steps: list[Event], report: Report) -> Life | None:
    first, *rest = steps
    if first.type != "run.created" or first.sequence != 1:
        report.violate("gap", f"run {first.stream} begins with {first.type} as event {first.sequence}")
        return None
    run_at = first.data.get("run_at")
    waits = run_at is not None and instant(run_at) > first.at
    status = "scheduled" if waits else "queued"
    life = Life(first.stream, first, status, instant(run_at) if waits else first.at, first.at)
    for event in rest:
        _judge(life, event, report)
        _move(life, event)
    return life


def _judge(life: Life, event: Event, report: Report) -> None:
    where = f"event {event.sequence} of run {life.id}, {event.type},"
    if event.sequence != life.sequence + 1:
        report.violate("gap", f"{where} follows event {life.sequence}")
    if event.at < life.updated_at:
        report.violate("time_backwards", f"{where} is earlier than the one before")
    if event.type not in STEPS:
        report.violate("illegal_step", f"{where} is no event of a run")
        return
    if life.status not in STEPS[event.type][0]:
        report.violate("illegal_step", f"{where} cannot follow {life.status}")
    if event.type == "run.leased":
        _judge_lease(life, event, where, report)
    elif event.type in OUTCOMES or event.type == "run.lease_expired":
        _judge_end(life, event, where, report)


def _judge_lease(life: Life, event: Event, where: str, report: Report) -> None:
    if life.token is not None:
        report.violate("two_leases", f"{where} while {life.token} is open")
    if event.data["attempt"] != life.attempts + 1:
        report.violate("attempt_order", f"{where} is attempt {event.data['attempt']} after {life.attempts}")
    if life.due_at is not None and event.at < life.due_at:
        report.violate("early", f"{where} at {event.at}, is due only at {life.due_at}")


def _judge_end(life: Life, event: Event, where: str, report: Report) -> None:
    """Whoever ends an attempt must name the open lease, and what came out of it must have been made under it."""
    token = _token(event)
    if token != life.token:
        if is_recovery(event):
            report.violate("foreign_recovery", f"{where} of {token} while {life.token} is open")
        else:
            report.stale_accepted.append(f"{where} of {token} while {life.token} is open")
    result = event.data.get("result")
    if isinstance(result, dict) and "token" in result and tuple(result["token"]) != token:
        report.stale_accepted.append(f"{where} of {token} has the result of {tuple(result['token'])}")


def is_recovery(event: Event) -> bool:
    """Whether maintenance ended the attempt, as its owner had vanished."""
    failure = event.data.get("failure")
    return event.type == "run.lease_expired" or (isinstance(failure, dict) and failure.get("code") == "lease_lost")


def _token(event: Event) -> Token:
    return str(event.data.get("session_id")), event.data.get("attempt", 0)


def _move(life: Life, event: Event) -> None:
    """What the event does, be it legal or not."""
    life.sequence, life.updated_at = event.sequence, event.at
    data = event.data
    match event.type:
        case "run.delivery_requested":
            if life.due_at is None or life.due_at <= event.at:
                life.status = "queued"
            return
        case "run.leased":
            life.status, life.token, life.worker = "running", _token(event), data["worker_id"]
            life.attempts, life.leased_at, life.due_at = data["attempt"], event.at, None
            life.started_at = life.started_at or event.at
            life.first_lease = life.first_lease or event.position
            life.leases[life.token] = event.at
            return
        case "run.cancellation_requested":
            life.stop_asked = True
        case "run.retry_scheduled":
            life.failures += 1
            life.retries += 1
            life.failure = data["failure"]
        case "run.released":
            life.releases += 1
            life.failure = None
        case "run.lease_expired":
            life.losses += 1
        case "run.succeeded":
            life.failure = None
        case "run.failed":
            life.failures += 1
            life.losses += is_recovery(event)
            life.failure = data["failure"]
    life.status = STEPS[event.type][1] if event.type in STEPS else life.status
    if event.type in CLOSES:
        _close(life, event)


def _close(life: Life, event: Event) -> None:
    if life.token is not None:
        # A cancellation is recorded without a name: whether it was its owner's, only the effects can tell.
        life.closed.setdefault(life.token, (event.type, event.at, is_recovery(event)))
    life.token = life.worker = life.leased_at = None
    if life.status in ENDED:
        life.finished_at, life.due_at = event.at, None
        life.ended = life.ended or event
    elif event.type in ("run.retry_scheduled", "run.released"):
        life.due_at = instant(event.data["run_at"])
    else:
        life.due_at = event.at
