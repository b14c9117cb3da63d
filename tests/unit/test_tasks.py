"""Definitions of queues, schedules and tasks: what they take, and that each mistake is one clear refusal."""

from __future__ import annotations

import functools
import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from runlane import Queue, Retry, Schedule, task
from runlane.cadence import Cron, Every, Once
from runlane.errors import ConfigurationInvalid
from runlane.tasks import DEFAULT_TTL, idempotency_ttl, priority
from runlane.values import duration

AT = datetime(2026, 1, 1, tzinfo=UTC)


@attrs.frozen
class Welcome:
    user_id: str


def test_a_task_is_still_the_plain_function() -> None:
    @task("emails.welcome")
    def send(payload: Welcome, context: Any = None) -> dict:
        return {"sent_to": payload.user_id, "context": context}

    assert send(Welcome("u")) == {"sent_to": "u", "context": None}
    assert send(payload=Welcome("u"), context=1) == {"sent_to": "u", "context": 1}
    assert repr(send) == "<Task emails.welcome>"


def test_an_async_task_is_still_the_plain_function() -> None:
    @task("t")
    async def send(payload: Welcome) -> str:
        return payload.user_id

    coroutine = send(Welcome("u"))
    assert inspect.iscoroutine(coroutine)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value == "u"
    assert send.is_async


def test_a_bare_decorator_names_the_task_after_the_function() -> None:
    @task
    def rebuild(payload):
        return payload + 1

    assert (rebuild.id, rebuild(1), rebuild.is_async) == ("rebuild", 2, False)


def test_a_task_is_immutable() -> None:
    made = task("t")(lambda payload: None)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.id = "other"


def test_the_defaults_of_a_task() -> None:
    made = task("t")(lambda payload: None)
    assert (made.queue, made.priority, made.schedules) == (None, 0, ())
    assert (made.idempotency_key, made.idempotency_ttl) == (None, None)
    assert made.retry.max_attempts == 1


def annotated(payload: Welcome, context):
    """A handler with everything."""


def positional(payload, /, context, *, flag=False, **more):
    """A handler with odd but harmless parameters."""


@pytest.mark.parametrize(
    ("function", "given", "kind", "arity"),
    [
        (annotated, None, Welcome, 2),
        (annotated, dict, dict, 2),
        (positional, None, Any, 2),
        (lambda payload: None, None, Any, 1),
        (lambda payload: None, int, int, 1),
        (lambda: None, None, type(None), 0),
        (lambda *args: None, None, type(None), 0),
    ],
)
def test_the_payload_type_is_the_argument_else_the_annotation(function, given, kind, arity: int) -> None:
    made = task("t", payload=given)(function)
    assert (made.payload.type, made.arity) == (kind, arity)


NAMES = [
    ("", "1 to 255 characters"),
    ("x" * 256, "1 to 255 characters"),
    ("a:b", "':'"),
    ("a\nb", "control characters"),
    ("a\x00", "control characters"),
    (None, "a string"),
    (5, "a string"),
]


@pytest.mark.parametrize(("name", "reason"), NAMES)
@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("task id", lambda name: task(name)),
        ("queue name", lambda name: Queue(name)),
        ("schedule id", lambda name: Schedule(name, every="1m")),
    ],
)
def test_a_bad_name_is_refused_by_what_it_names(what: str, make, name: object, reason: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=f"^{what} must .*{reason}"):
        make(name)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"retry": 3}, "retry of task t must be Retry"),
        ({"retry": "5"}, "retry of task t must be Retry"),
        ({"queue": "emails"}, "queue must be a Queue definition, not 'emails'"),
        ({"queue": Queue}, "queue must be a Queue definition"),
        ({"priority": 32768}, "priority must be an integer from -32768 to 32767; got 32768"),
        ({"priority": -32769}, "priority must"),
        ({"priority": 1.0}, "priority must"),
        ({"priority": True}, "priority must"),
        ({"priority": None}, "priority must"),
        ({"idempotency_ttl": "30d"}, "task t has an idempotency_ttl but no idempotency_key"),
        ({"idempotency_key": "k", "idempotency_ttl": "soon"}, "idempotency_ttl must be"),
        ({"idempotency_key": "k", "idempotency_ttl": timedelta(0)}, "idempotency_ttl must be positive"),
        ({"idempotency_key": "k", "idempotency_ttl": 30}, "idempotency_ttl must be"),
    ],
)
def test_a_bad_option_is_refused_by_name(options: dict, names: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=names):
        task("t", **options)(lambda payload: None)


def required_keyword(payload, *, flag):
    """A handler nobody could call."""


def unresolvable(payload: Nowhere) -> None:  # noqa: F821
    """A handler whose annotation does not exist."""


@pytest.mark.parametrize(
    ("handler", "names"),
    [
        (lambda a, b, c: None, r"handler of task t takes \(payload\) or \(payload, context\); got \['a', 'b', 'c'\]"),
        (lambda a, b, c=1: None, "handler of task t takes"),
        (required_keyword, "handler of task t must not require flag="),
        (unresolvable, "annotations of task t cannot be resolved: .*Nowhere"),
        (functools.partial(annotated), "annotations of task t cannot be resolved"),
        (5, "task t decorates a function, not 5"),
        ("x", "task t decorates a function"),
    ],
)
def test_a_handler_that_cannot_be_called_is_refused_by_name(handler: Any, names: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=names):
        task("t")(handler)


@pytest.mark.parametrize(
    "make",
    [
        lambda: task("t", idempotency_key="a:b")(lambda payload: None),
        lambda: task("t", idempotency_key=5)(lambda payload: None),
        lambda: task("t", schedules=["nightly"])(lambda payload: None),
        lambda: task("t", schedules=Schedule("nightly", every="1m"))(lambda payload: None),
        lambda: task("t")(dict),
    ],
    ids=["key with colon", "key of no type", "schedule of no type", "schedules no list", "function without signature"],
)
def test_a_bad_definition_is_refused_where_it_is_made(make) -> None:
    with pytest.raises(ConfigurationInvalid):
        make()


@pytest.mark.parametrize(
    ("options", "cadence"),
    [
        ({"every": "10m"}, Every(timedelta(minutes=10))),
        ({"every": timedelta(seconds=1)}, Every(timedelta(seconds=1))),
        ({"run_at": AT}, Once(AT)),
        ({"cron": "30 2 * * *"}, Cron("30 2 * * *", "UTC")),
        ({"cron": " 30  2 * * * ", "time_zone": "Europe/Berlin"}, Cron("30 2 * * *", "Europe/Berlin")),
    ],
)
def test_a_schedule_has_one_rule(options: dict, cadence: object) -> None:
    assert Schedule("nightly", **options).cadence() == cadence


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "schedule nightly needs exactly one"),
        ({"run_at": AT, "every": "1m"}, "schedule nightly needs exactly one"),
        ({"cron": "30 2 * * *", "every": "1m"}, "schedule nightly needs exactly one"),
        ({"cron": "30 2 * * *", "every": "1m", "run_at": AT}, "schedule nightly needs exactly one"),
        ({"cron": "30 2 * *"}, "cron of schedule nightly must have five fields"),
        ({"cron": "0 30 2 * * *"}, "cron of schedule nightly must have five fields"),
        ({"cron": "often a b c d"}, "cron of schedule nightly cannot be understood"),
        ({"cron": "0 0 30 2 *"}, "cron of schedule nightly names no day"),
        ({"cron": "30 2 * * *", "time_zone": "Mars/Base"}, "time_zone of schedule nightly must be an IANA name"),
        ({"cron": "30 2 * * *", "time_zone": None}, "time_zone of schedule nightly must be an IANA name"),
        ({"every": "1m", "time_zone": "Europe/Berlin"}, "schedule nightly has a time_zone but no cron"),
        ({"run_at": AT, "time_zone": "Europe/Berlin"}, "schedule nightly has a time_zone but no cron"),
        ({"every": "0s"}, "every of schedule nightly"),
        ({"every": "soon"}, "every of schedule nightly"),
        ({"every": 60}, "every of schedule nightly"),
        ({"every": "999ms"}, "every of schedule nightly must be at least 1s"),
        ({"run_at": datetime(2026, 1, 1)}, "run_at of schedule nightly must be timezone-aware"),
        ({"run_at": "2026-01-01"}, "run_at of schedule nightly must be a datetime"),
    ],
)
def test_a_schedule_that_cannot_fire_is_refused_by_name(options: dict, names: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=names):
        Schedule("nightly", **options)


@pytest.mark.parametrize("value", [-32768, -1, 0, 32767])
def test_priorities_are_small_integers(value: int) -> None:
    assert priority(value) == value


@pytest.mark.parametrize(
    ("value", "stored"), [(None, DEFAULT_TTL), ("active", "active"), ("30d", "30d"), ("500ms", "500ms")]
)
def test_how_long_a_key_is_kept_is_stored_as_it_was_written(value: object, stored: str) -> None:
    assert idempotency_ttl(value) == stored


@pytest.mark.parametrize(
    "ttl",
    [
        timedelta(hours=1),
        timedelta(milliseconds=1),
        timedelta(milliseconds=1500),
        timedelta(days=12_000),
        timedelta(days=12_000, milliseconds=1),
        timedelta(days=999_999_999),
    ],
)
def test_how_long_a_key_is_kept_can_be_read_back(ttl: timedelta) -> None:
    assert duration("ttl", idempotency_ttl(ttl)) == ttl


def test_a_key_is_kept_for_a_millisecond_at_least() -> None:
    assert idempotency_ttl(timedelta(microseconds=1)) == "1ms"


def test_a_key_is_kept_for_thirty_days_by_default() -> None:
    assert DEFAULT_TTL == "30d"


def test_retry_is_kept_as_given() -> None:
    retry = Retry(5)
    assert task("t", retry=retry)(lambda payload: None).retry is retry
