"""SQS in the hands of strangers: whatever stands in a queue, and whatever the service answers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from runlane import Runlane, RunStatus
from runlane.sqs import SqsConsumer
from runlane.sqs.batches import tens
from runlane.sqs.inflight import InFlight
from runlane.sqs.messages import Message, receive, wakeup_in
from runlane.sqs.polling import Poller
from runlane.transport import PublishStatus, Wakeup
from runlane.values import new_run_id
from tests.engine.tasks import echo
from tests.hostile.corpus import CONTROLS, JSON, SQL, TRICKS
from tests.hostile.oracle import Failures
from tests.hostile.test_wakeups import bodies
from tests.sqs.conftest import client, consume, left, make_queue, make_sqs_app, sqs, sqs_client, sqs_server, url
from tests.sqs.server import SqsServer
from tests.support import PATIENCE, START, eventually

__all__ = ["client", "consume", "left", "make_queue", "make_sqs_app", "sqs", "sqs_client", "sqs_server", "url"]

MakeApp = Callable[..., Runlane]
#: What SQS takes as a message.
_CARRIED = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
#: Each field of a wakeup with some of the corpus in it, and whatever is none at all.
SENT = [
    body
    for number, body in enumerate(dict.fromkeys(filter(lambda one: type(one) is str, bodies())))
    if len(body) < 10_000 and _CARRIED.fullmatch(body) and (number < 80 or number % 8 == 0)
]
#: What a poll might be answered: no messages, messages that are none, and many more than were asked for.
POLLED: list[Any] = [
    *({}, {"Messages": None}, {"Messages": []}, {"Messages": {}}, {"Messages": "all"}, {"Messages": 5}, [], 5, "x"),
    *({"Messages": [None]}, {"Messages": [5]}, {"Messages": [{}]}, {"Messages": [[]]}, {"Messages": {"a": {}}}),
    *({"Messages": [{"Body": value}]} for value in (None, 5, {}, [], True, *JSON.values())),
    *({"Messages": [{"MessageId": value, "Body": "x"}]} for value in (None, 5, {}, *CONTROLS.values(), "m" * 100_000)),
    *({"Messages": [{"MessageId": "m", "ReceiptHandle": value, "Body": "x"}]} for value in (None, 5, [], "\x00")),
    {"Messages": [{"MessageId": "m", "ReceiptHandle": "r", "Body": "x"}] * 50},
]
#: What a batch that was sent might be answered.
PUBLISHED: list[Any] = [
    *({}, [], 5, "x", {"Successful": None}, {"Successful": 5}, {"Successful": [None]}, {"Successful": [{}]}),
    *({"Successful": [{"Id": value}]} for value in (None, 5, {}, "x", "-1", "1.5", "7", "9" * 5000, "\u0660", " 0 ")),
    *({"Failed": value} for value in (None, 5, [None], [{}], [{"Id": None}], [{"Id": "x"}], [{"Id": "7"}])),
    *({"Failed": [{"Id": "0", "Code": value, "Message": value}]} for value in (None, 5, {}, *CONTROLS.values())),
]


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> None:
    """Everything that is logged."""
    caplog.set_level(logging.DEBUG, "runlane")


def test_a_consumer_goes_past_whatever_stands_in_its_queue(
    make_sqs_app: MakeApp,
    sqlite_url: str,
    url: str,
    client: Any,
    consume: Callable[..., SqsConsumer],
    left: Callable[[str], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_sqs_app(sqlite_url, url, echo)
    for ten in tens(SENT):
        entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(ten)]
        assert not client.send_message_batch(QueueUrl=url, Entries=entries).get("Failed")
    run = app.trigger(echo, 1).run
    consumer = consume(app)
    assert app.runs.wait(run.id, timeout=PATIENCE).status is RunStatus.SUCCEEDED
    eventually(lambda: left(url) == 0, "an empty queue")
    assert not consumer.closed
    assert len(app.runs.list().data) == 1
    refused = [one for one in caplog.records if "is no wakeup of Runlane" in one.getMessage()]
    assert len(refused) == len([body for body in SENT if wakeup_in(body) is None]) > 50
    for text in (*SQL.values(), *TRICKS.values()):
        assert len(text) < 9 or text not in caplog.text


def test_a_poll_comes_back_whatever_it_is_answered(
    make_sqs_app: MakeApp, sqlite_url: str, url: str, client: Any, sqs: SqsServer
) -> None:
    app = make_sqs_app(sqlite_url, url, echo)
    run = app.trigger(echo, 1).run
    poller = Poller(app.lane.transport, "work", InFlight(client, 30), 1, 30)  # type: ignore[arg-type]
    answers = list(POLLED)
    answered = lambda action, _: (200, answers.pop()) if answers and action == "ReceiveMessage" else None  # noqa: E731
    sqs.faults.append(answered)
    failures = Failures()
    while answers:
        one = answers[-1]
        try:
            assert poller.poll(1) == []
        except Exception as error:
            failures.note(ascii(one)[:80], error)
    failures.show()
    ((_, wakeup),) = poller.poll(1)
    assert wakeup.run_id == run.id


def test_each_wakeup_has_an_outcome_whatever_is_answered(
    make_sqs_app: MakeApp, sqlite_url: str, url: str, sqs: SqsServer
) -> None:
    transport: Any = make_sqs_app(sqlite_url, url, echo).lane.transport
    several = [Wakeup("default", new_run_id(), "work", START) for _ in range(12)]
    failures = Failures()
    for one in PUBLISHED:
        sqs.faults[:] = [lambda action, _, one=one: (200, one) if action == "SendMessageBatch" else None]
        try:
            outcomes = transport.publish(several)
            assert [outcome.status for outcome in outcomes].count(PublishStatus.PUBLISHED) <= 1
            assert len(outcomes) == len(several)
            for outcome in outcomes:
                outcome.detail is None or outcome.detail.encode()
        except Exception as error:
            failures.note(ascii(one)[:80], error)
    failures.show()


def test_messages_are_deleted_whatever_was_answered_before(
    url: str, client: Any, sqs: SqsServer, left: Callable[[str], int]
) -> None:
    in_flight = InFlight(client, 30)
    in_flight.start()
    answers = list(PUBLISHED)
    sqs.faults[:] = [lambda action, _: (200, answers[-1]) if action != "ReceiveMessage" else None]
    stranger = Message("m", url, "r", None)
    while answers:
        for action, ask in (
            ("ChangeMessageVisibilityBatch", lambda: in_flight.give_back([stranger])),
            ("DeleteMessageBatch", lambda: in_flight.acknowledge(stranger)),
        ):
            asked = len(sqs.made(action))
            ask()
            eventually(lambda of=action, asked=asked: len(sqs.made(of)) > asked, "a call")  # type: ignore[misc]
        answers.pop()
    sqs.faults.clear()
    client.send_message(QueueUrl=url, MessageBody="x")
    (taken,) = receive(client, url, 1, 1, 30)
    in_flight.acknowledge(taken)
    eventually(lambda: left(url) == 0, "an empty queue")
    in_flight.close(PATIENCE)


def test_a_run_is_kept_until_its_wakeup_is_taken(
    make_sqs_app: MakeApp, sqlite_url: str, url: str, sqs: SqsServer, left: Callable[[str], int]
) -> None:
    """An answer that names nothing that was sent is no promise."""
    app = make_sqs_app(sqlite_url, url, echo)
    sqs.faults[:] = [lambda action, _: (200, {"Successful": [{"Id": "x"}]}) if action == "SendMessageBatch" else None]
    run = app.trigger(echo, 1).run
    assert app.runs.get(run.id).status is RunStatus.QUEUED
    assert left(url) == 0
    assert app.execute_next().id == run.id  # type: ignore[union-attr]
    assert app.runs.get(run.id).status is RunStatus.SUCCEEDED
