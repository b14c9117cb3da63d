"""The Lambda handler, with events as AWS makes them of messages that were really received."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from runlane import AsyncRunlane, Runlane, RunStatus, task
from runlane.errors import ConfigurationInvalid
from runlane.projections.runs import Run
from runlane.sqs import lambda_handler
from runlane.transport import Wakeup
from tests.sqs.server import Body
from tests.sqs.test_consumer import double, double_later, locked
from tests.support import PATIENCE

MakeApp = Callable[..., Runlane]
EventOf = Callable[..., Body]


@pytest.fixture
def event_of(client: Any) -> EventOf:
    """Receives `number` messages and makes the event of them that Lambda would pass on."""

    def event_of(url: str, number: int) -> Body:
        received: list[Body] = []
        while len(received) < number:
            answer = client.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(10, number - len(received)),
                WaitTimeSeconds=5,
                VisibilityTimeout=60,
                MessageSystemAttributeNames=["All"],
            )
            assert answer.get("Messages"), "there are too few messages"
            received += answer["Messages"]
        name = url.rpartition("/")[2]
        return {
            "Records": [
                {
                    "messageId": message["MessageId"],
                    "receiptHandle": message["ReceiptHandle"],
                    "body": message["Body"],
                    "attributes": message["Attributes"],
                    "messageAttributes": {},
                    "md5OfBody": message["MD5OfBody"],
                    "eventSource": "aws:sqs",
                    "eventSourceARN": f"arn:aws:sqs:eu-central-1:123456789012:{name}",
                    "awsRegion": "eu-central-1",
                }
                for message in received
            ]
        }

    return event_of


def message_of(event: Body, run: Run) -> str:
    """The id of the message about a run."""
    (found,) = [record["messageId"] for record in event["Records"] if str(run.id) in record["body"]]
    return str(found)


def wakeup(run: Run) -> str:
    return Wakeup("default", run.id, "work", run.created_at).to_json()


def failures(*ids: str) -> Body:
    return {"batchItemFailures": [{"itemIdentifier": one} for one in ids]}


def test_the_runs_of_an_event_are_executed(make_sqs_app: MakeApp, shared_url: str, url: str, event_of: EventOf) -> None:
    app = make_sqs_app(shared_url, url, double, double_later)
    runs = [app.trigger(work, n).run for n, work in enumerate([double, double_later] * 3)]
    assert lambda_handler(app)(event_of(url, 6), None) == failures()
    assert [app.runs.get(run.id).result for run in runs] == [0, 2, 4, 6, 8, 10]


def test_handlers_of_an_event_run_side_by_side(
    make_sqs_app: MakeApp, sqlite_url: str, url: str, event_of: EventOf
) -> None:
    together = threading.Barrier(3)

    @task("together")
    def meet() -> None:
        together.wait(PATIENCE)

    app = make_sqs_app(sqlite_url, url, meet)
    runs = [one.run for one in app.trigger_many(meet, [None] * 3)]
    assert lambda_handler(app)(event_of(url, 3), None) == failures()
    assert {app.runs.get(run.id).status for run in runs} == {RunStatus.SUCCEEDED}


def test_a_message_whose_run_has_ended_is_done_with(
    make_sqs_app: MakeApp, sqlite_url: str, url: str, event_of: EventOf
) -> None:
    app = make_sqs_app(sqlite_url, url, double)
    run = app.trigger(double, 1).run
    event = event_of(url, 1)
    handler = lambda_handler(app)
    assert handler(event, None) == failures()
    assert handler(event, None) == failures()
    assert app.runs.get(run.id).attempt_count == 1


def test_a_handler_that_fails_is_no_failure_of_its_message(
    make_sqs_app: MakeApp, sqlite_url: str, url: str, event_of: EventOf
) -> None:
    """What becomes of the run is in the run, and a retry comes with a message of its own."""

    @task("wrong")
    def wrong() -> None:
        raise ValueError("wrong")

    app = make_sqs_app(sqlite_url, url, wrong)
    run = app.trigger(wrong).run
    assert lambda_handler(app)(event_of(url, 1), None) == failures()
    assert app.runs.get(run.id).status is RunStatus.FAILED


def test_messages_that_the_database_could_not_be_asked_about_are_delivered_again(
    make_sqs_app: MakeApp, sqlite_url: str, url: str, event_of: EventOf
) -> None:
    app = make_sqs_app(sqlite_url, url, double, busy_timeout=0.05)
    runs = [app.trigger(double, n).run for n in range(3)]
    event = event_of(url, 3)
    handler = lambda_handler(app, concurrency=1)
    with locked(sqlite_url):
        report = handler(event, None)
    assert {one["itemIdentifier"] for one in report["batchItemFailures"]} == {message_of(event, run) for run in runs}
    assert handler(event, None) == failures()
    assert {app.runs.get(run.id).status for run in runs} == {RunStatus.SUCCEEDED}


def test_what_is_no_wakeup_is_left_to_the_redrive_policy(
    make_sqs_app: MakeApp, sqlite_url: str, url: str, event_of: EventOf, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_sqs_app(sqlite_url, url, double)
    run = app.trigger(double, 1).run
    client.send_message(QueueUrl=url, MessageBody="secret")
    event = event_of(url, 2)
    (poison,) = [record["messageId"] for record in event["Records"] if record["body"] == "secret"]
    with caplog.at_level(logging.DEBUG, "runlane"):
        assert lambda_handler(app)(event, None) == failures(poison)
    assert app.runs.get(run.id).status is RunStatus.SUCCEEDED
    assert poison in caplog.text
    assert "secret" not in caplog.text


def test_on_a_fifo_queue_nothing_of_a_group_is_begun_after_a_failure(
    make_sqs_app: MakeApp, sqlite_url: str, make_queue: Callable[..., str], event_of: EventOf, client: Any
) -> None:
    fifo = make_queue(fifo=True)
    app = make_sqs_app(sqlite_url, fifo, double, dispatch="deferred")
    before, after, other = (app.trigger(double, n).run for n in range(3))

    messages = [(wakeup(before), "one"), ("poison", "one"), (wakeup(after), "one"), (wakeup(other), "two")]
    for n, (body, group) in enumerate(messages):
        client.send_message(QueueUrl=fifo, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=str(n))
    event = event_of(fifo, 4)
    (poison,) = [record["messageId"] for record in event["Records"] if record["body"] == "poison"]
    assert lambda_handler(app)(event, None) == failures(poison, message_of(event, after))
    statuses = [app.runs.get(run.id).status for run in (before, after, other)]
    assert statuses == [RunStatus.SUCCEEDED, RunStatus.QUEUED, RunStatus.SUCCEEDED]


def test_on_a_standard_queue_a_failure_holds_nothing_back(
    make_sqs_app: MakeApp, sqlite_url: str, url: str, event_of: EventOf, client: Any
) -> None:
    """Though standard queues know message groups as well."""
    app = make_sqs_app(sqlite_url, url, double)
    client.send_message(QueueUrl=url, MessageBody="poison")
    run = app.trigger(double, 1).run
    event = event_of(url, 2)
    for record in event["Records"]:
        record["attributes"]["MessageGroupId"] = "same"
    event["Records"].sort(key=lambda record: record["body"] != "poison")
    lambda_handler(app)(event, None)
    assert app.runs.get(run.id).status is RunStatus.SUCCEEDED


def test_an_asyncio_runtime_serves_too(sqlite_url: str, make_sqs_app: MakeApp, url: str, event_of: EventOf) -> None:
    app = make_sqs_app(sqlite_url, url, double_later)
    run = app.trigger(double_later, 3).run
    asynchronous = AsyncRunlane(app.lane, queues=app.registry.queues.values(), tasks=[double_later])
    assert lambda_handler(asynchronous)(event_of(url, 1), None) == failures()
    assert app.runs.get(run.id).result == 6
    asynchronous._app.close()


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"Records": None},
        {"Records": [{"eventSource": "aws:s3"}]},
        {"Records": ["message"]},
        None,
        {"detail-type": "Scheduled Event"},
    ],
)
def test_another_services_event_is_refused(event: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="the event is not one of an SQS event source"):
        lambda_handler(Runlane("memory:"))(event, None)


def test_an_empty_event_is_nothing_to_do() -> None:
    assert lambda_handler(Runlane("memory:"))({"Records": []}, None) == failures()


@pytest.mark.parametrize("app", ["app", None])
def test_the_runtime_is_one(app: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="app must be a Runlane or an AsyncRunlane"):
        lambda_handler(app)


def test_concurrency_is_a_number() -> None:
    with pytest.raises(ConfigurationInvalid, match="concurrency must be an integer from 1 to 1000; got 0"):
        lambda_handler(Runlane("memory:"), concurrency=0)
