"""Wakeups from strangers: on PostgreSQL's channel, in messages of SQS, in events of Lambda."""

from __future__ import annotations

import json
import logging
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runlane import ConfigurationInvalid, Runlane, RunStatus
from runlane.sqs import lambda_handler
from runlane.sqs.messages import message_of, wakeup_in
from runlane.transport import Wakeup
from runlane.transport.notify import NotifyTransport, channel_of
from tests.engine.tasks import echo
from tests.hostile.corpus import JSON, OBJECTS, TEXTS, Hostile, poison
from tests.hostile.fuzzing import EXAMPLES, anything, junk
from tests.hostile.oracle import Failures, clear
from tests.support import PATIENCE, eventually, written

NEVER = 3600.0
#: What a stranger might send on the channel: no JSON, other JSON, nearly ours.
NOTICES = [
    *(text for text in (*TEXTS.values(), *JSON.values()) if "\x00" not in text and text.isprintable()),
    *("5", "null", '"abc"', "[]", "{}", '{"a": 1, "b": 2, "c": 3}', '["x", "default", 5]', '["x", {}, []]'),
    *('["x", "default", [[]]]', '["x", [], null]', "[null, null, null]", '["x", "default", "main"]', "[" * 7000),
    *('["x", "default", null, 1]', '[{"__class__": "x"}, "default", {}]', "\\u0000", "true"),
]


def test_a_listener_goes_on_listening(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "runlane")
    with Runlane(postgres_url, tasks=[echo]) as app, psycopg.connect(postgres_url, autocommit=True) as stranger:
        worker = app.worker(poll_interval=NEVER, maintenance=False)
        worker.start()
        transport = app.lane.transport
        assert isinstance(transport, NotifyTransport)
        assert transport.hears.wait(PATIENCE)
        listener = listeners(stranger)
        for notice in NOTICES:
            if len(notice.encode()) < 8000:
                stranger.execute("select pg_notify(%s, %s)", (channel_of("runlane"), notice))
        with Runlane(postgres_url, tasks=[echo]) as other:
            run = other.trigger(echo, 1).run
            assert other.runs.wait(run.id, timeout=PATIENCE).status is RunStatus.SUCCEEDED
        assert listeners(stranger) == listener  # it was not deaf in between
        worker.stop()
    assert "not heard" not in caplog.text


def listeners(connection: psycopg.Connection[Any]) -> set[int]:
    """The server's processes that listen for this application."""
    query = "select pid from pg_stat_activity where application_name = 'runlane wakeups' and query ilike 'listen%'"

    def found() -> set[int]:
        return {pid for (pid,) in connection.execute(query)}

    return eventually(found, "a listener")


def test_a_notice_never_raises() -> None:
    """Also those that the server would not pass on."""
    transport = NotifyTransport("host=nowhere", "runlane")
    rung = []
    transport._listeners = ()
    transport.ring_all = lambda: rung.append(1)  # type: ignore[method-assign]
    for notice in [*TEXTS.values(), *JSON.values(), *NOTICES]:
        transport._dispatch(notice)
    assert rung


def facts(**options: Any) -> dict[str, Any]:
    """What a wakeup says, but for these."""
    return {
        "environment": "default",
        "run_id": "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f",
        "queue": "default",
        "requested_at": "2026-01-01T00:00:00+00:00",
    } | options


def bodies() -> list[Any]:
    """Bodies of messages."""
    found: list[Any] = [*TEXTS.values(), *JSON.values(), None, 5, b"\xff", {}]
    for field in (*facts(), "trace_carrier"):
        for value in (*TEXTS.values(), 5, None, [], {}, {"a": 1}, True, 1e308, -1):
            try:
                found.append(json.dumps(facts(**{field: value})))
            except ValueError:
                continue
        found += [f'{{"{field}": {text}}}' for text in JSON.values()]
    return found


def test_a_body_is_a_wakeup_or_none() -> None:
    for body in bodies():
        found = wakeup_in(body)
        assert found is None or Wakeup.from_json(found.to_json()) == found
        received: Any = {"MessageId": "m", "ReceiptHandle": "r", "Body": body}
        assert message_of("https://queue", received).wakeup == found


@given(st.dictionaries(st.sampled_from([*facts(), "trace_carrier", "other"]), anything, max_size=5) | anything)
@settings(max_examples=EXAMPLES)
def test_a_drawn_body_is_refused_with_one_clear_error_or_is_a_wakeup(drawn: Any) -> None:
    try:
        body = json.dumps(
            facts(**drawn) if isinstance(drawn, dict) and all(type(key) is str for key in drawn) else drawn
        )
    except (TypeError, ValueError):
        return
    try:
        found = Wakeup.from_json(body)
    except ConfigurationInvalid as error:
        clear(error)
        assert wakeup_in(body) is None
    else:
        assert Wakeup.from_json(found.to_json()) == found


@pytest.fixture
def app(sqlite_url: str) -> Any:
    with Runlane(sqlite_url, tasks=[echo]) as made:
        yield made
        assert made.audit.verify().identical


def record(body: Any, number: int = 0, **options: Any) -> dict[str, Any]:
    """A record of an event of Lambda."""
    arn = "arn:aws:sqs:eu-central-1:123456789012:q"
    return {"messageId": f"m{number}", "body": body, "eventSource": "aws:sqs", "eventSourceARN": arn} | options


def test_the_lambda_handler_names_each_body_that_is_no_wakeup(app: Runlane, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "runlane")
    run = app.trigger(echo, 1).run
    good = Wakeup("default", run.id, "default", run.created_at).to_json()
    records = [record(body, number) for number, body in enumerate(bodies())]
    answer = lambda_handler(app)({"Records": [*records, record(good, len(records))]}, None)
    failed = {one["itemIdentifier"] for one in answer["batchItemFailures"]}
    assert failed == {one["messageId"] for one in records if wakeup_in(one["body"]) is None}
    assert app.runs.get(run.id).status == "succeeded"
    assert all(one.getMessage().isprintable() for one in caplog.records)


def test_an_event_that_is_none_is_refused(app: Runlane) -> None:
    failures = Failures()
    handler = lambda_handler(app)
    before = written(app)
    for name, value in poison():
        events = [value, {"Records": value}, {"Records": [value]}, {"Records": [record("x", messageId=value)]}]
        for event in events:
            try:
                answer = handler(event, value)
                assert set(answer) == {"batchItemFailures"}
            except ConfigurationInvalid as error:
                clear(error)
            except Hostile:  # what an object of the caller's own kind raises is his own
                continue
            except Exception as error:
                failures.note(name, error)
    failures.show()
    assert written(app) == before


def test_odd_attributes_of_a_fifo_message_are_no_group(app: Runlane) -> None:
    arn = "arn:aws:sqs:eu-central-1:123456789012:q.fifo"
    for value in (None, [], "x", {"MessageGroupId": []}, {"MessageGroupId": None}, {"MessageGroupId": {}}):
        answer = lambda_handler(app)({"Records": [record("x", eventSourceARN=arn, attributes=value)]}, None)
        assert answer == {"batchItemFailures": [{"itemIdentifier": "m0"}]}


@given(junk, junk, junk, junk)
@settings(max_examples=EXAMPLES)
def test_a_wakeup_made_by_hand(environment: Any, run_id: Any, queue: Any, requested_at: Any) -> None:
    with Runlane("memory:", tasks=[echo]) as app:
        with pytest.raises(ConfigurationInvalid) as caught:
            app.execute_delivery(Wakeup(environment, run_id, queue, requested_at))
        clear(caught.value)


def test_every_object_in_the_place_of_a_wakeup() -> None:
    with Runlane("memory:", tasks=[echo]) as app:
        for make in OBJECTS.values():
            with pytest.raises(ConfigurationInvalid, match="wakeup must be a Wakeup") as caught:
                app.execute_delivery(make())
            clear(caught.value)
