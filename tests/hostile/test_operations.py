"""Every other call of the public surface, and every value of the corpus as each of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runlane import Actor, Exponential, Fixed, Queue, Retry, Runlane, RunlaneError, Schedule, task
from runlane.auditing import Audit
from runlane.export import import_events, replay
from runlane.operators import IdempotencyKeys, Runs
from runlane.sealing import check_proof
from runlane.steering import Queues, Schedules
from runlane.transport import Wakeup
from tests.engine.tasks import echo
from tests.hostile.corpus import TEXTS, Hostile, lanes_for, poison
from tests.hostile.fuzzing import EXAMPLES, junk
from tests.hostile.oracle import Failures, ask, clear

Call = Callable[[Runlane, Any], Any]
NOBODY = str(uuid4())
NOW = datetime(2026, 1, 1, tzinfo=UTC)

#: What takes one argument of any kind, and reads or changes nothing that is there.
CALLS: dict[str, Call] = {
    "runs.get": lambda app, value: app.runs.get(value),
    "runs.get at_sequence": lambda app, value: app.runs.get(NOBODY, at_sequence=value),
    "runs.get at": lambda app, value: app.runs.get(NOBODY, at=value),
    "runs.events": lambda app, value: app.runs.events(value),
    "runs.attempts": lambda app, value: app.runs.attempts(value),
    "runs.why": lambda app, value: app.runs.why(value),
    "runs.cancel": lambda app, value: app.runs.cancel(value),
    "runs.rerun": lambda app, value: app.runs.rerun(value),
    "runs.retry": lambda app, value: app.runs.retry(value),
    "runs.cancel reason": lambda app, value: app.runs.cancel(NOBODY, reason=value),
    "runs.cancel actor": lambda app, value: app.runs.cancel(NOBODY, actor=value),
    "runs.cancel meta": lambda app, value: app.runs.cancel(NOBODY, meta=value),
    "runs.wait": lambda app, value: app.runs.wait(value, timeout=0),
    "runs.wait timeout": lambda app, value: app.runs.wait(NOBODY, timeout=value),
    "runs.find_active task": lambda app, value: app.runs.find_active(value, idempotency_key="k"),
    "runs.find_active key": lambda app, value: app.runs.find_active(echo, idempotency_key=value),
    "runs.find_active singleton": lambda app, value: app.runs.find_active(echo, singleton_key=value),
    "runs.find_current": lambda app, value: app.runs.find_current(echo, value),
    "runs.prune older_than": lambda app, value: app.runs.prune(value, dry_run=True),
    "runs.prune statuses": lambda app, value: app.runs.prune("1d", statuses=value),
    "runs.prune a status": lambda app, value: app.runs.prune("1d", statuses=[value]),
    "runs.prune limit": lambda app, value: app.runs.prune("1d", limit=value),
    "runs.prune cursor": lambda app, value: app.runs.prune("1d", cursor=value),
    "runs.prune reason": lambda app, value: app.runs.prune("1d", reason=value, dry_run=True),
    "cancel_many limit": lambda app, value: app.runs.cancel_many(limit=value, correlation_id="nobody"),
    "cancel_many cursor": lambda app, value: app.runs.cancel_many(cursor=value, correlation_id="nobody"),
    "retry_many statuses": lambda app, value: app.runs.retry_many(statuses=value, correlation_id="nobody"),
    "idempotency_keys.reset": lambda app, value: app.idempotency_keys.reset(echo, value),
    "idempotency_keys.reset task": lambda app, value: app.idempotency_keys.reset(value, "k"),
    "schedules.get": lambda app, value: app.schedules.get(value),
    "schedules.pause": lambda app, value: app.schedules.pause(value),
    "schedules.resume": lambda app, value: app.schedules.resume(value),
    "schedules.trigger": lambda app, value: app.schedules.trigger(value),
    "schedules.preview": lambda app, value: app.schedules.preview(value),
    "schedules.preview count": lambda app, value: app.schedules.preview("yearly", value),
    "schedules.occurrences": lambda app, value: app.schedules.occurrences(value),
    "schedules.occurrences limit": lambda app, value: app.schedules.occurrences("yearly", limit=value),
    "schedules.pause reason": lambda app, value: app.schedules.pause("nobody", reason=value),
    "queues.resume": lambda app, value: app.queues.resume(value),
    "audit.verify": lambda app, value: app.audit.verify(value),
    "audit.verify since": lambda app, value: app.audit.verify(since=value) and None,
    "audit.verify processes": lambda app, value: app.audit.verify(NOBODY, processes=value),
    "audit.checkpoint actor": lambda app, value: app.audit.checkpoint("/no/key.pem", actor=value),
    "audit.prove": lambda app, value: app.audit.prove(value),
    "audit.prove sequence": lambda app, value: app.audit.prove(NOBODY, value),
    "audit.repair": lambda app, value: app.audit.repair(value),
    "audit.repair reason": lambda app, value: app.audit.repair(NOBODY, reason=value),
    "audit.who actor": lambda app, value: app.audit.who(actor=value).data and None,
    "audit.who worker": lambda app, value: app.audit.who(worker=value).data and None,
    "audit.who key": lambda app, value: app.audit.who(key=value).data and None,
    "audit.who limit": lambda app, value: app.audit.who(key="k", limit=value).data,
    "audit.who cursor": lambda app, value: app.audit.who(key="k", cursor=value).data,
    "audit.diff": lambda app, value: app.audit.diff(value),
    "audit.diff from": lambda app, value: app.audit.diff(NOBODY, value),
    "audit.diff to": lambda app, value: app.audit.diff(NOBODY, 1, value),
    "audit.timeline": lambda app, value: app.audit.timeline(value),
    "audit.as_of": lambda app, value: app.audit.as_of(value) and None,
    "audit.as_of limit": lambda app, value: app.audit.as_of(NOW, limit=value) and None,
    "audit.erase": lambda app, value: app.audit.erase(value),
    "audit.export since": lambda app, value: app.audit.export("/no/such/folder/x", since=value),
    "audit.simulate since": lambda app, value: app.audit.simulate(since=value) and None,
    "audit.simulate retry": lambda app, value: app.audit.simulate(retry=value) and None,
    "audit.simulate limit": lambda app, value: app.audit.simulate(limit=value) and None,
    "audit.simulate workers": lambda app, value: app.audit.simulate(workers=value) and None,
    "audit.simulate tasks": lambda app, value: app.audit.simulate(tasks=[value]) and None,
    "audit.simulate seed": lambda app, value: app.audit.simulate(seed=value) and None,
    "follow cursor": lambda app, value: list(app.follow(value, poll=None)) and None,
    "follow name": lambda app, value: (
        list(app.follow(f"name:{value}" if type(value) is str else value, poll=None)) and None
    ),
    "follow batch": lambda app, value: app.follow("end", batch=value) and None,
    "follow types": lambda app, value: list(app.follow("end", types=value, poll=None)),
    "follow a type": lambda app, value: list(app.follow("end", types=[value], poll=None)),
    "follow poll": lambda app, value: app.follow("end", poll=value) and None,
    "follow stop": lambda app, value: app.follow("end", stop=value) and None,
    "worker mode": lambda app, value: app.worker(value) and None,
    "worker queues": lambda app, value: app.worker(queues=[value]) and None,
    "worker concurrency": lambda app, value: app.worker(concurrency=value) and None,
    "worker poll_interval": lambda app, value: app.worker(poll_interval=value) and None,
    "worker maintenance_interval": lambda app, value: app.worker(maintenance_interval=value) and None,
    "execute_next queues": lambda app, value: app.execute_next([value]),
    "execute_delivery": lambda app, value: app.execute_delivery(value),
    "execute_delivery environment": lambda app, value: app.execute_delivery(wakeup(app, environment=value)),
    "execute_delivery run_id": lambda app, value: app.execute_delivery(wakeup(app, run_id=value)),
    "execute_delivery queue": lambda app, value: app.execute_delivery(wakeup(app, queue=value)),
    "execute_delivery requested_at": lambda app, value: app.execute_delivery(wakeup(app, requested_at=value)),
    "execute_delivery trace_carrier": lambda app, value: app.execute_delivery(wakeup(app, trace_carrier=value)),
    "projections.rebuild": lambda app, value: app.projections.rebuild(value),
    "projections.remove": lambda app, value: app.projections.remove(value),
    "project": lambda app, value: app.project(value, poll=None),
    "connection": lambda app, value: app.trigger(echo, 1, connection=value) if value is not None else None,
}
#: Which condition on runs is which.
CONDITIONS = (
    *("statuses", "tasks", "queues", "correlation_id", "idempotency_key", "singleton_key", "concurrency_key"),
    *("source_run_id", "parent_run_id", "schedule_id", "created_after", "created_before", "limit", "cursor", "order"),
)
for condition in CONDITIONS:
    CALLS[f"runs.list {condition}"] = lambda app, value, name=condition: app.runs.list(**{name: value}).data and None
for condition in ("statuses", "tasks", "queues"):
    CALLS[f"runs.list an entry of {condition}"] = lambda app, value, name=condition: (
        app.runs.list(**{name: [value]}).data and None
    )


def wakeup(app: Runlane, **options: Any) -> Wakeup:
    return Wakeup(**{"environment": app.environment, "run_id": uuid4(), "queue": "main", "requested_at": NOW} | options)


def test_every_call_of_an_operator_is_among_them() -> None:
    """Those that take anything from outside: a call that is new has to be given the corpus, too."""
    parts = {
        "runs": Runs,
        "idempotency_keys": IdempotencyKeys,
        "schedules": Schedules,
        "queues": Queues,
        "audit": Audit,
    }
    without_arguments = {"schedules.list", "queues.list", "audit.count"}
    elsewhere = {"runs.count", "runs.rerun_many", "queues.pause", "audit.rebuild", "audit.rewrap"}
    elsewhere |= {"audit.archives", "audit.export", "audit.checkpoint"}
    public = {f"{part}.{name}" for part, cls in parts.items() for name in dir(cls) if not name.startswith("_")}
    named = {name.split(" ")[0] for name in CALLS} | {f"runs.{name.split(' ')[0]}" for name in CALLS}
    assert public - named - without_arguments - elsewhere == set()


@pytest.mark.parametrize("call", CALLS)
def test_it_is_answered_or_refused_in_one_clear_error(
    apps: list[Runlane], call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failures = Failures()
    for name, value in poison():
        text = [value] if type(value) is str else []
        some = lanes_for(name, apps)
        try:
            ask(some, lambda app, value=value: CALLS[call](app, value), *text, also=(TimeoutError, Hostile))
        except Exception as error:
            failures.note(name, error)
    failures.show()


@given(st.dictionaries(st.sampled_from(CONDITIONS), junk, min_size=1, max_size=4))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_conditions_together(apps: list[Runlane], where: dict[str, Any]) -> None:
    # What an object raises when it is gone through is its owner's, as above.
    ask(apps, lambda app: len(app.runs.list(**where).data) and None, also=(Hostile,))


@given(st.text(st.characters(), max_size=60))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_cursors_that_nobody_has_given(apps: list[Runlane], cursor: str) -> None:
    for app in apps:
        for call in (
            lambda app=app: app.runs.list(cursor=cursor),
            lambda app=app: app.runs.prune("1d", cursor=cursor, dry_run=True),
            lambda app=app: app.audit.who(key="k", cursor=cursor),
        ):
            with pytest.raises(RunlaneError) as caught:
                call()
            clear(caught.value, cursor)


#: Definitions and constructors: no database is there yet.
DEFINITIONS: dict[str, Callable[[Any], Any]] = {
    "task id": lambda value: task(value)(lambda payload: None) if not callable(value) else None,
    "task queue": lambda value: task("t", queue=value)(lambda payload: None),
    "task retry": lambda value: task("t", retry=value)(lambda payload: None),
    "task priority": lambda value: task("t", priority=value)(lambda payload: None),
    "task idempotency_key": lambda value: task("t", idempotency_key=value)(lambda payload: None),
    "task idempotency_ttl": lambda value: task("t", idempotency_key="k", idempotency_ttl=value)(lambda payload: None),
    "task timeout": lambda value: task("t", timeout=value)(lambda payload: None),
    "task schedules": lambda value: task("t", schedules=[value])(lambda payload: None),
    "Queue": lambda value: Queue(value),
    "Queue concurrency_limit": lambda value: Queue("q", concurrency_limit=value),
    "Queue dispatch_timeout": lambda value: Queue("q", concurrency_limit=1, dispatch_timeout=value),
    "Schedule": lambda value: Schedule(value, every="1h"),
    "Schedule every": lambda value: Schedule("s", every=value),
    "Schedule run_at": lambda value: Schedule("s", run_at=value),
    "Schedule cron": lambda value: Schedule("s", cron=value),
    "Schedule time_zone": lambda value: Schedule("s", cron="0 0 * * *", time_zone=value),
    "Schedule payload": lambda value: Runlane(
        "memory:", tasks=[task("t", schedules=[Schedule("s", every="1h", payload=value)])(lambda payload: None)]
    ),
    "Retry": lambda value: Retry(value),
    "Retry jitter": lambda value: Retry(1, jitter=value),
    "Retry backoff": lambda value: Retry(1, value),
    "Retry retry_on": lambda value: Retry(1, retry_on=value),
    "Fixed": lambda value: Fixed(value),
    "Exponential factor": lambda value: Exponential("1s", factor=value),
    "Actor": lambda value: Actor.operator(value),
    "Runlane": lambda value: Runlane(value),
    "Runlane tasks": lambda value: Runlane("memory:", tasks=[value]),
    "Runlane queues": lambda value: Runlane("memory:", queues=[value]),
    "Runlane environment": lambda value: Runlane("memory:", environment=value),
    "Runlane worker_id": lambda value: Runlane("memory:", worker_id=value) if value is not None else None,
    "Runlane dispatch": lambda value: Runlane("memory:", dispatch=value),
    "Runlane heartbeat": lambda value: Runlane("memory:", heartbeat=value),
    "Runlane lease_duration": lambda value: Runlane("memory:", lease_duration=value),
    "Runlane max_events": lambda value: Runlane("memory:", max_events=value),
    "Runlane payload_codec": lambda value: Runlane("memory:", payload_codec=value) if value is not None else None,
    "Wakeup.from_json": lambda value: Wakeup.from_json(value),
}


#: What takes the path of a file: of these texts none is one.
PATHS: dict[str, Callable[[Runlane, str], Any]] = {
    "prune archive": lambda app, path: app.runs.prune("1d", archive=path),
    "prune key": lambda app, path: app.runs.prune("1d", archive="/tmp", key=path),
    "verify key": lambda app, path: app.audit.verify(key=path),
    "verify checkpoints": lambda app, path: app.audit.verify(checkpoints=[path]),
    "checkpoint": lambda app, path: app.audit.checkpoint(path),
    "archives": lambda app, path: app.audit.archives(path),
    "replay": lambda app, path: replay(path),
    "import": lambda app, path: import_events(path, "memory:"),
    "check_proof": lambda app, path: check_proof(path),
}


@pytest.mark.parametrize("call", PATHS)
def test_a_path_that_is_none_is_refused(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failures = Failures()
    with Runlane("memory:") as app:
        for name, text in TEXTS.items():
            try:
                PATHS[call](app, text)
                if not Path(text).exists():
                    failures.append(f"{name}: taken")
            except RunlaneError:
                continue
            except Exception as error:
                failures.note(name, error)
    failures.show()


@pytest.mark.parametrize("make", DEFINITIONS)
def test_a_definition_is_made_or_refused(make: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failures = Failures()
    for name, value in poison():
        try:
            made = DEFINITIONS[make](value)
            if isinstance(made, Runlane):
                with made:
                    made.tick()
                    assert made.audit.verify().identical
        except RunlaneError as error:
            try:
                clear(error, *([value] if type(value) is str else []))
            except AssertionError as unclear:
                failures.note(name, unclear)
        except Hostile:  # what an object of the caller's own kind raises is his own
            continue
        except Exception as error:
            failures.note(name, error)
    failures.show()


@pytest.mark.parametrize("longest", [timedelta.max, timedelta(days=36500)])
def test_lengths_of_time_beyond_the_calendar_stop_nobody(longest: timedelta) -> None:
    patient = task("patient", timeout=longest, idempotency_key="k", idempotency_ttl=longest)(lambda payload: payload)
    again = task("again", retry=Retry(2, Fixed(longest)))(_fails)
    with Runlane("memory:", tasks=[patient, again]) as app:
        app.tick()
        assert app.run_now(patient, 1).run.status == "succeeded"
        assert app.trigger(patient, 2).outcome == "reused_idempotent"
        assert app.run_now(again, 1).run.status == "retrying"
        assert app.audit.verify().identical


def test_a_schedule_that_fires_once_in_a_century() -> None:
    with pytest.raises(RunlaneError, match="every of schedule s must be at most 36525 days"):
        Schedule("s", every=timedelta.max)
    late = task("late", schedules=[Schedule("s", every=timedelta(days=36_525))])(lambda payload: payload)
    with Runlane("memory:", tasks=[late]) as app:
        app.tick()
        assert app.schedules.get("s").next_at is not None


def _fails(payload: Any) -> None:
    raise ValueError("as always")


def test_time_zones_are_no_paths() -> None:
    for name in ("../../../etc/passwd", "/etc/passwd", "Europe", "Europe/Berlin/../Paris", *TEXTS.values()):
        with pytest.raises(RunlaneError, match="time_zone of schedule s"):
            Schedule("s", cron="0 0 * * *", time_zone=name)
