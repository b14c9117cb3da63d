"""From what a caller asks for to a validated request: nothing wrong gets as far as the database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import attrs
import pytest
from attrs import evolve

from runlane import Queue, task
from runlane.context import Context, current
from runlane.engine.trigger import NewRun
from runlane.errors import ConfigurationInvalid, PayloadInvalid, RunlaneError, TaskNotFound
from runlane.registry import Registry
from runlane.requests import Trigger, build
from runlane.values import APPLICATION, Actor, SourceType, duration
from tests.unit.lives import RUN_ID, run_in

AT = datetime(2026, 1, 1, tzinfo=UTC)
EMAILS, REPORTS = Queue("emails", default=True), Queue("reports")


@attrs.frozen
class Welcome:
    user_id: str


@task("plain")
def plain(payload: Any) -> None:
    """Takes any JSON."""


@task("welcome", queue=REPORTS, priority=5, idempotency_key=lambda p: f"welcome-{p.user_id}", idempotency_ttl="1h")
def welcome(payload: Welcome) -> None:
    """Has defaults for everything."""


@task("constant", idempotency_key="only-one")
def constant(payload: Any) -> None:
    """Has a fixed key."""


REGISTRY = Registry.of([EMAILS, REPORTS], [plain, welcome, constant])


def asked(task: Any = plain, payload: Any = None, **options: Any) -> NewRun:
    return build(REGISTRY, Trigger(task, payload, **options))


def test_a_plain_request_has_the_defaults() -> None:
    new = asked(payload={"a": 1})
    assert (new.created.task_id, new.created.queue, new.created.payload) == ("plain", "emails", {"a": 1})
    assert (new.created.priority, new.created.run_at, new.delay) == (0, None, None)
    assert (new.created.idempotency_key, new.created.idempotency_ttl, new.created.meta) == (None, None, None)
    assert (new.created.source.type, new.created.source.parent_run_id) == (SourceType.TRIGGER, None)
    assert new.actor == APPLICATION
    assert new.id.version == 7


def test_the_tasks_own_options_are_the_defaults() -> None:
    created = asked(welcome, Welcome("u")).created
    assert (created.queue, created.priority, created.payload) == ("reports", 5, {"user_id": "u"})
    assert (created.idempotency_key, created.idempotency_ttl) == ("welcome-u", "1h")


def test_a_triggers_options_replace_the_tasks() -> None:
    options = {"queue": EMAILS, "priority": -1, "idempotency_key": "mine", "idempotency_ttl": "active"}
    created = asked(welcome, Welcome("u"), **options).created
    assert (created.queue, created.priority) == ("emails", -1)
    assert (created.idempotency_key, created.idempotency_ttl) == ("mine", "active")


def test_a_triggers_ttl_replaces_the_tasks_for_the_tasks_key() -> None:
    created = asked(welcome, Welcome("u"), idempotency_ttl=timedelta(minutes=5)).created
    assert created.idempotency_key == "welcome-u"
    assert duration("ttl", created.idempotency_ttl) == timedelta(minutes=5)


def test_a_triggers_key_keeps_the_tasks_ttl() -> None:
    assert asked(welcome, Welcome("u"), idempotency_key="mine").created.idempotency_ttl == "1h"


def test_a_key_without_a_ttl_is_kept_for_thirty_days() -> None:
    assert asked(idempotency_key="k").created.idempotency_ttl == "30d"
    assert asked(constant).created.idempotency_key == "only-one"


def test_a_task_may_be_asked_for_by_its_id() -> None:
    assert asked("welcome", {"user_id": "u"}).created.idempotency_key == "welcome-u"


def test_times_are_brought_to_utc() -> None:
    created = asked(run_at=datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))).created
    assert created.run_at == AT
    assert created.run_at.tzinfo is UTC


@pytest.mark.parametrize("delay", ["90s", timedelta(seconds=90)])
def test_a_delay_is_left_to_the_clock_of_the_database(delay: Any) -> None:
    new = asked(delay=delay)
    assert (new.delay, new.created.run_at) == (timedelta(seconds=90), None)


@pytest.mark.parametrize("run_id", [RUN_ID, str(RUN_ID)])
def test_a_caller_may_bring_its_own_id(run_id: Any) -> None:
    assert asked(run_id=run_id).id == RUN_ID


def test_what_the_caller_attaches_is_kept() -> None:
    ann = Actor.operator("ann")
    new = asked(correlation_id="order 1:2", actor=ann, trace_carrier={"traceparent": "00"}, meta={"a": [1]})
    assert (new.created.correlation_id, new.actor) == ("order 1:2", ann)
    assert (new.created.trace_carrier, new.created.meta) == ({"traceparent": "00"}, {"a": [1]})


def test_what_the_caller_attaches_is_a_copy() -> None:
    meta, carrier = {"a": 1}, {"traceparent": "00"}
    new = asked(meta=meta, trace_carrier=carrier)
    meta["a"], carrier["traceparent"] = 2, "01"
    assert (new.created.meta, new.created.trace_carrier) == ({"a": 1}, {"traceparent": "00"})


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"delay": "1s", "run_at": AT}, "run_at or delay, not both"),
        ({"run_at": datetime(2026, 1, 1)}, "run_at must be timezone-aware"),
        ({"run_at": "2026-01-01T00:00:00Z"}, "run_at must be a datetime"),
        ({"delay": "soon"}, "delay must be"),
        ({"delay": 30}, "delay must be"),
        ({"delay": timedelta(0)}, "delay must be positive"),
        ({"delay": "0s"}, "delay"),
        ({"idempotency_ttl": "1h"}, "idempotency_ttl needs an idempotency_key"),
        ({"idempotency_key": "k", "idempotency_ttl": "soon"}, "idempotency_ttl must be"),
        ({"idempotency_key": "k", "idempotency_ttl": 30}, "idempotency_ttl must be"),
        ({"idempotency_key": "a:b"}, "idempotency_key must not contain ':'"),
        ({"idempotency_key": ""}, "idempotency_key must have 1 to 255"),
        ({"idempotency_key": "x" * 256}, "idempotency_key must have 1 to 255"),
        ({"idempotency_key": "\n"}, "idempotency_key must not contain control"),
        ({"idempotency_key": 5}, "idempotency_key must be a string"),
        ({"run_id": "abc"}, "a run id must be a UUID"),
        ({"run_id": ""}, "a run id must be a UUID"),
        ({"run_id": 5}, "a run id must be a UUID"),
        ({"priority": 32768}, "priority must be an integer from"),
        ({"priority": "high"}, "priority must be an integer from"),
        ({"priority": True}, "priority must be an integer from"),
        ({"queue": "emails"}, "queue must be a Queue definition"),
        ({"queue": Queue("other")}, "queue 'other' is not registered"),
        ({"correlation_id": 5}, "correlation_id must be a string"),
        ({"correlation_id": "a\x00"}, "correlation_id must not contain NUL"),
        ({"correlation_id": "x" * 4097}, "correlation_id must have at most"),
        ({"actor": "ann"}, "actor must be an Actor"),
        ({"actor": Actor("operator", "a:b")}, "actor id must not contain ':'"),
        ({"actor": Actor("operator", "")}, "actor id must have 1 to 255"),
        ({"meta": [1]}, "meta must be a mapping"),
        ({"meta": "x"}, "meta must be a mapping"),
        ({"meta": {"at": AT}}, r"meta\.at is a datetime"),
        ({"meta": {1: 2}}, "meta has the key 1"),
        ({"meta": {"a": "x" * 65_536}}, "meta is .* at most 65,536"),
        ({"meta": {"a": {"b": float("nan")}}}, r"meta\.a\.b is nan"),
        ({"trace_carrier": "00"}, "trace_carrier must be a mapping"),
        ({"trace_carrier": {"a": 1}}, r"trace_carrier\['a'\] must be a string"),
        ({"trace_carrier": {1: "a"}}, "a key of trace_carrier must be a string"),
        ({"trace_carrier": {"a": "\x00"}}, r"trace_carrier\['a'\] must not contain NUL"),
    ],
)
def test_a_bad_option_is_refused_by_name(options: dict, names: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=names):
        asked(**options)


def test_a_bad_payload_is_refused_by_field() -> None:
    with pytest.raises(PayloadInvalid, match=r"payload\.user_id"):
        asked(welcome, {"user_id": 5})


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(TaskNotFound):
        asked("other")


@pytest.mark.parametrize("key", ["a:b", "", 5, b"k"])
def test_what_a_key_function_returns_is_checked(key: Any) -> None:
    keyed = task("keyed", idempotency_key=lambda payload: key)(lambda payload: None)
    with pytest.raises(ConfigurationInvalid, match="idempotency_key must"):
        build(Registry.of([], [keyed]), Trigger(keyed))


@pytest.fixture
def parent() -> Iterator[Context]:
    created = evolve(run_in("queued").created, correlation_id="order 7", trace_carrier={"traceparent": "00-7"})
    context = Context(evolve(run_in("running"), created=created), 1, "w1")
    token = current.set(context)
    yield context
    current.reset(token)


def test_a_run_triggered_by_a_handler_remembers_its_parent(parent: Context) -> None:
    created = asked().created
    assert created.source.parent_run_id == parent.run.id
    assert (created.correlation_id, created.trace_carrier) == ("order 7", {"traceparent": "00-7"})


def test_a_child_may_be_told_otherwise(parent: Context) -> None:
    created = asked(correlation_id="", trace_carrier={}).created
    assert created.source.parent_run_id == parent.run.id
    assert (created.correlation_id, created.trace_carrier) == ("", {})


def test_the_source_is_what_the_caller_is() -> None:
    new = build(REGISTRY, Trigger(plain), SourceType.RUN_NOW)
    assert new.created.source.type == "run_now"


def test_ids_are_fresh_for_each_request() -> None:
    assert len({asked().id for _ in range(50)}) == 50
    assert all(isinstance(asked().id, UUID) for _ in range(2))


def test_a_refusal_is_never_worth_repeating() -> None:
    with pytest.raises(RunlaneError) as refused:
        asked(priority=99_999)
    assert not refused.value.retryable
