"""Bad input: one clear error that names the field, the same text on every lane, and nothing written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import attrs
import pytest

from runlane import (
    Actor,
    ConfigurationInvalid,
    PayloadInvalid,
    Queue,
    Runlane,
    RunlaneError,
    TaskNotFound,
    Trigger,
    task,
)
from runlane.testing import drain
from tests.engine.tasks import echo
from tests.support import count, database_of

Call = Callable[[Runlane], Any]


@attrs.frozen
class Order:
    number: int
    lines: list[str]


@task("order")
def order(payload: Order) -> None:
    """Takes an attrs class."""


@task("number")
def number(payload: int) -> None:
    """Takes an integer."""


@task("keyed", idempotency_key=lambda payload: payload["key"])
def keyed(payload: dict) -> None:
    """Takes its key from the payload."""


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.fixture(scope="module")
def apps(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Runlane]]:
    """A runtime on each lane."""
    urls = ["memory:", f"sqlite:///{tmp_path_factory.mktemp('bad') / 'app.db'}", postgres.migrated()]
    made = [Runlane(url, tasks=[echo, order, number, keyed]).start() for url in urls]
    for app in made:
        app.trigger(echo, "already there", idempotency_key="taken")
    yield made
    for app in made:
        assert app.audit.verify().differences == ()
        app.close()


#: What is asked for, the class of the error, and what its text has to say.
PAYLOADS: dict[str, tuple[Call, type[RunlaneError], str]] = {
    "text for a number": (
        lambda app: app.trigger(number, "7"),
        PayloadInvalid,
        "payload does not fit int: invalid type (expected int, got str)",
    ),
    "nothing for a number": (lambda app: app.trigger(number), PayloadInvalid, "payload does not fit int"),
    "true for a number": (lambda app: app.trigger(number, True), PayloadInvalid, "payload does not fit int"),
    "a field of the wrong type": (
        lambda app: app.trigger(order, {"number": "7", "lines": []}),
        PayloadInvalid,
        "payload.number",
    ),
    "a wrong element": (
        lambda app: app.trigger(order, {"number": 7, "lines": ["a", 2]}),
        PayloadInvalid,
        "payload.lines[1]",
    ),
    "an instance with a wrong field": (
        lambda app: app.trigger(order, Order("7", [])),
        PayloadInvalid,
        "payload.number",
    ),
    "a missing field": (lambda app: app.trigger(order, {"number": 7}), PayloadInvalid, "lines"),
    "an unknown field": (
        lambda app: app.trigger(order, {"number": 7, "lines": [], "colour": 1}),
        PayloadInvalid,
        "colour",
    ),
    "two mebibytes": (
        lambda app: app.trigger(echo, "x" * 2 * 1024 * 1024),
        PayloadInvalid,
        "payload is 2,097,154 bytes of JSON; at most 1,048,576 are allowed",
    ),
    "NaN": (lambda app: app.trigger(echo, {"a": [float("nan")]}), PayloadInvalid, "payload.a[0] is nan"),
    "infinity": (lambda app: app.trigger(echo, float("-inf")), PayloadInvalid, "payload is -inf"),
    "NUL": (lambda app: app.trigger(echo, {"a": "x\x00"}), PayloadInvalid, "payload.a contains a NUL character"),
    "NUL beside other letters": (lambda app: app.trigger(echo, "é\x00"), PayloadInvalid, "payload contains a NUL"),
    "NUL in a key": (lambda app: app.trigger(echo, {"\x00": 1}), PayloadInvalid, "a key of payload contains a NUL"),
    "a lone surrogate": (lambda app: app.trigger(echo, ["\ud800"]), PayloadInvalid, "payload[0] contains a lone surr"),
    "a surrogate in a key": (lambda app: app.trigger(echo, {"\udfff": 1}), PayloadInvalid, "a key of payload contains"),
    "100 levels": (
        lambda app: app.trigger(echo, nested(100)),
        PayloadInvalid,
        "payload is nested deeper than 64 levels",
    ),
    "65 levels": (lambda app: app.trigger(echo, nested(65)), PayloadInvalid, "payload is nested deeper than 64 levels"),
    "2**63": (lambda app: app.trigger(echo, 2**63), PayloadInvalid, "payload is an integer beyond 64 bits"),
    "-2**63 - 1": (lambda app: app.trigger(echo, [-(2**63) - 1]), PayloadInvalid, "payload[0] is an integer beyond"),
    "an object": (
        lambda app: app.trigger(echo, object()),
        PayloadInvalid,
        "payload is a object, which is no JSON value",
    ),
    "a nested object": (
        lambda app: app.trigger(echo, {"a": {"b": object()}}),
        PayloadInvalid,
        "payload.a.b is a object",
    ),
    "bytes within": (lambda app: app.trigger(echo, [b"x"]), PayloadInvalid, "payload[0]"),
    "a number as a key": (lambda app: app.trigger(echo, {1: 2}), PayloadInvalid, "payload has the key 1 of type int"),
    "run_now": (lambda app: app.run_now(number, "7"), PayloadInvalid, "payload does not fit int"),
    "trigger_many": (lambda app: app.trigger_many(number, [1, "2"]), PayloadInvalid, "payload does not fit int"),
}
OPTIONS: dict[str, tuple[Call, type[RunlaneError], str]] = {
    "task": (lambda app: app.trigger("unheard.of", 1), TaskNotFound, "task 'unheard.of' is not registered"),
    "key with a colon": (
        lambda app: app.trigger(echo, 1, idempotency_key="a:b"),
        ConfigurationInvalid,
        "idempotency_key must not contain ':' (it has: 'a:b')",
    ),
    "key from the payload": (
        lambda app: app.trigger(keyed, {"key": "a:b"}),
        ConfigurationInvalid,
        "idempotency_key must",
    ),
    "key that is no text": (
        lambda app: app.trigger(keyed, {"key": 7}),
        ConfigurationInvalid,
        "must be a string, not int",
    ),
    "key that is empty": (
        lambda app: app.trigger(echo, 1, idempotency_key=""),
        ConfigurationInvalid,
        "idempotency_key",
    ),
    "key too long": (lambda app: app.trigger(echo, 1, idempotency_key="k" * 256), ConfigurationInvalid, "it has 256"),
    "key with a line": (lambda app: app.trigger(echo, 1, idempotency_key="a\nb"), ConfigurationInvalid, "control char"),
    "key with NUL": (lambda app: app.trigger(echo, 1, idempotency_key="a\x00"), ConfigurationInvalid, "control char"),
    "ttl": (
        lambda app: app.trigger(echo, 1, idempotency_key="k", idempotency_ttl="soon"),
        ConfigurationInvalid,
        "idempotency_ttl must be a timedelta or text like '30s'",
    ),
    "ttl without key": (lambda app: app.trigger(echo, 1, idempotency_ttl="1h"), ConfigurationInvalid, "needs an idem"),
    "priority": (
        lambda app: app.trigger(echo, 1, priority=40_000),
        ConfigurationInvalid,
        "priority must be an integer",
    ),
    "priority text": (
        lambda app: app.trigger(echo, 1, priority="high"),
        ConfigurationInvalid,
        "priority must be an int",
    ),
    "delay": (lambda app: app.trigger(echo, 1, delay="0s"), ConfigurationInvalid, "delay must be a timedelta or text"),
    "negative delay": (
        lambda app: app.trigger(echo, 1, delay=-timedelta(1)),
        ConfigurationInvalid,
        "delay must be posi",
    ),
    "endless delay": (
        lambda app: app.trigger(echo, 1, delay="999999999999d"),
        ConfigurationInvalid,
        "delay is too long",
    ),
    "naive run_at": (
        lambda app: app.trigger(echo, 1, run_at=datetime(2026, 1, 1)),
        ConfigurationInvalid,
        "run_at must be timezone-aware",
    ),
    "run_at text": (lambda app: app.trigger(echo, 1, run_at="now"), ConfigurationInvalid, "run_at must be a datetime"),
    "both times": (
        lambda app: app.trigger(echo, 1, delay="1s", run_at=datetime.now().astimezone()),
        ConfigurationInvalid,
        "give run_at or delay, not both",
    ),
    "run_id": (lambda app: app.trigger(echo, 1, run_id="seven"), ConfigurationInvalid, "a run id must be a UUID"),
    "queue": (lambda app: app.trigger(echo, 1, queue=Queue("q")), ConfigurationInvalid, "queue 'q' is not registered"),
    "queue by name": (lambda app: app.trigger(echo, 1, queue="default"), ConfigurationInvalid, "queue must be a Queue"),
    "correlation_id": (lambda app: app.trigger(echo, 1, correlation_id="\x00"), ConfigurationInvalid, "correlation_id"),
    "long correlation_id": (
        lambda app: app.trigger(echo, 1, correlation_id="c" * 4097),
        ConfigurationInvalid,
        "correlation_id must have at most 4096 characters; it has 4097",
    ),
    "actor": (lambda app: app.trigger(echo, 1, actor="ann"), ConfigurationInvalid, "actor must be an Actor"),
    "actor id": (
        lambda app: app.trigger(echo, 1, actor=Actor.operator("a:b")),
        ConfigurationInvalid,
        "actor id must not",
    ),
    "meta": (lambda app: app.trigger(echo, 1, meta=["a"]), ConfigurationInvalid, "meta must be a mapping; got list"),
    "meta value": (lambda app: app.trigger(echo, 1, meta={"a": object()}), ConfigurationInvalid, "meta.a is a object"),
    "meta size": (
        lambda app: app.trigger(echo, 1, meta={"a": "x" * 70_000}),
        ConfigurationInvalid,
        "meta is 70,008 bytes",
    ),
    "trace_carrier": (
        lambda app: app.trigger(echo, 1, trace_carrier="00"),
        ConfigurationInvalid,
        "trace_carrier must be",
    ),
    "trace value": (
        lambda app: app.trigger(echo, 1, trace_carrier={"a": 1}),
        ConfigurationInvalid,
        "trace_carrier['a']",
    ),
    "entry": (
        lambda app: app.trigger_many([Trigger(echo, 1), Trigger(echo, 2, priority=0.5)]),
        ConfigurationInvalid,
        "entry 1: priority must be an integer",
    ),
    "mode": (lambda app: app.worker("forever"), ConfigurationInvalid, "mode must be 'poll' or 'drain'; got 'forever'"),
    "concurrency 0": (
        lambda app: app.worker(concurrency=0),
        ConfigurationInvalid,
        "concurrency must be an integer from 1 to 10000; got 0",
    ),
    "concurrency text": (
        lambda app: app.worker(concurrency="10"),
        ConfigurationInvalid,
        "concurrency must be an integer",
    ),
    "poll_interval": (
        lambda app: app.worker(poll_interval=0),
        ConfigurationInvalid,
        "poll_interval must be from 0.001",
    ),
    "maintenance_interval": (
        lambda app: app.worker(maintenance_interval=float("nan")),
        ConfigurationInvalid,
        "maintenance_interval must be from 0.001",
    ),
    "worker queue": (lambda app: app.worker(queues=[Queue("q")]), ConfigurationInvalid, "queue 'q' is not registered"),
    "execute_next queue": (
        lambda app: app.execute_next(["q"]),
        ConfigurationInvalid,
        "queue must be a Queue definition",
    ),
    "get": (lambda app: app.runs.get("seven"), ConfigurationInvalid, "a run id must be a UUID"),
    "wait": (lambda app: app.runs.wait(7, timeout=0), ConfigurationInvalid, "a run id must be a UUID"),
    "list": (lambda app: app.runs.list(limit=501), ConfigurationInvalid, "limit must be an integer from 1 to 500"),
}


def told(app: Runlane, call: Call) -> tuple[type, str]:
    with pytest.raises(RunlaneError) as caught:
        call(app)
    assert not caught.value.retryable
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(("call", "kind", "text"), [*PAYLOADS.values(), *OPTIONS.values()], ids=[*PAYLOADS, *OPTIONS])
def test_it_is_named_in_the_same_words_on_every_lane_and_nothing_is_written(
    apps: list[Runlane], call: Call, kind: type[RunlaneError], text: str
) -> None:
    before = [[count(database_of(app), table) for table in ("events", "runs", "idempotency_keys")] for app in apps]
    words = [told(app, call) for app in apps]
    assert words == [words[0]] * 3
    assert words[0][0] is kind
    assert text in words[0][1]
    after = [[count(database_of(app), table) for table in ("events", "runs", "idempotency_keys")] for app in apps]
    assert after == before


@pytest.mark.parametrize("wrong", [{"poll_interval": "1s"}, {"maintenance_interval": None}], ids=str)
def test_an_interval_that_is_no_number_is_named(wrong: dict) -> None:
    with Runlane("memory:") as app, pytest.raises(ConfigurationInvalid, match=next(iter(wrong))):
        app.worker(**wrong)


def test_the_edges_of_what_can_be_stored_come_back_unchanged(apps: list[Runlane]) -> None:
    edges = [2**63 - 1, -(2**63), 1.5e308, 5e-324, "\uffff\U0010ffff", "\x01\x7f\x80", nested(64), {"": {"": ""}}, {}]
    edges += [None, True, -0.0, "x" * (1024 * 1024 - 2)]
    for app in apps:
        for value in edges:
            run = app.trigger(echo, value).run
            stored = app.runs.get(run.id).payload
            assert (stored, type(stored)) == (value, type(value))
        drain(app)
        ended = app.runs.list(limit=500).data
        assert all(run.status == "succeeded" for run in ended), [run.failure for run in ended]
