"""Messages in a consumer's hands: kept, deleted, left or given back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest

from runlane.sqs.inflight import InFlight
from runlane.sqs.messages import Message, receive
from tests.sqs.server import Body, SqsServer, refusal
from tests.support import PATIENCE, eventually


@pytest.fixture
def take(client: Any, url: str) -> Callable[..., list[Message]]:
    """Sends messages and receives them."""

    def take(number: int = 1, visibility: int = 60) -> list[Message]:
        for n in range(number):
            client.send_message(QueueUrl=url, MessageBody=f"message {n}")
        found: list[Message] = []
        while len(found) < number:
            found += receive(client, url, 10, 1, visibility)
        return found

    return take


@pytest.fixture
def make(client: Any) -> Iterator[Callable[[int], InFlight]]:
    """Makes started ones, and closes them."""
    made: list[InFlight] = []

    def make(visibility: int) -> InFlight:
        made.append(InFlight(client, visibility))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close(PATIENCE)


def test_what_is_held_stays_invisible(
    make: Callable[[int], InFlight], take: Callable[..., list[Message]], client: Any, url: str, sqs: SqsServer
) -> None:
    asked = monotonic()
    messages = take(visibility=2)
    make(2).hold(messages, asked)
    eventually(lambda: monotonic() > asked + 2.5, "its first time is over")
    assert len(sqs.made("ChangeMessageVisibilityBatch")) >= 2
    assert receive(client, url, 10, 0, 1) == []


def test_what_is_left_becomes_visible_by_itself(
    make: Callable[[int], InFlight], take: Callable[..., list[Message]], client: Any, url: str
) -> None:
    (message,) = take(visibility=1)
    in_flight = make(1)
    in_flight.hold([message], monotonic())
    in_flight.leave(message)
    assert [again.id for again in receive(client, url, 10, 10, 60)] == [message.id]


def test_what_is_given_back_is_visible_at_once(
    make: Callable[[int], InFlight], take: Callable[..., list[Message]], client: Any, url: str
) -> None:
    messages = take(12)
    in_flight = make(60)
    in_flight.hold(messages, monotonic())
    in_flight.give_back(messages)
    in_flight.close(PATIENCE)
    again = [*receive(client, url, 10, 0, 60), *receive(client, url, 10, 0, 60)]
    assert {message.id for message in again} == {message.id for message in messages}


def test_what_is_done_is_deleted_in_batches(
    make: Callable[[int], InFlight],
    take: Callable[..., list[Message]],
    left: Callable[[str], int],
    url: str,
    sqs: SqsServer,
) -> None:
    messages = take(25)
    in_flight = make(60)
    for message in messages:
        in_flight.acknowledge(message)
    in_flight.close(PATIENCE)
    assert left(url) == 0
    sizes = [len(call["Entries"]) for call in sqs.made("DeleteMessageBatch")]
    assert sum(sizes) == 25
    assert max(sizes) <= 10


def test_what_cannot_be_deleted_is_forgotten(
    make: Callable[[int], InFlight], take: Callable[..., list[Message]], sqs: SqsServer, caplog: Any
) -> None:
    """It will be delivered again, and ignored."""
    sqs.faults.append(
        lambda action, body: refusal("InternalFailure", status=500) if action == "DeleteMessageBatch" else None
    )
    in_flight = make(60)
    with caplog.at_level(logging.WARNING, "runlane.sqs"):
        in_flight.acknowledge(take()[0])
        in_flight.close(PATIENCE)
    assert "1 messages could not be deleted and will be delivered again" in caplog.text


def test_a_failure_to_extend_is_followed_by_another_try(
    make: Callable[[int], InFlight], take: Callable[..., list[Message]], client: Any, url: str, sqs: SqsServer
) -> None:
    def refuse_once(action: str, body: Body) -> Any:
        if action == "ChangeMessageVisibilityBatch" and len(sqs.made(action)) == 1:
            return refusal("InternalFailure", status=500)
        return None

    sqs.faults.append(refuse_once)
    asked = monotonic()
    messages = take(visibility=2)
    make(2).hold(messages, asked)
    eventually(lambda: monotonic() > asked + 2.5, "its first time is over")
    assert receive(client, url, 10, 0, 1) == []


def test_what_sqs_will_never_extend_is_not_asked_for_again(
    make: Callable[[int], InFlight], take: Callable[..., list[Message]], sqs: SqsServer
) -> None:
    """As after twelve hours, or when somebody else has received it."""
    gone, kept = take(2, visibility=60)

    def refuse_the_first(action: str, body: Body) -> Any:
        if action != "ChangeMessageVisibilityBatch":
            return None
        refused = [e for e in body["Entries"] if e["ReceiptHandle"] == gone.receipt]
        taken = [{"Id": e["Id"]} for e in body["Entries"] if e["ReceiptHandle"] != gone.receipt]
        failed = [{"Id": e["Id"], "Code": "InvalidParameterValue", "SenderFault": True} for e in refused]
        return 200, {"Successful": taken, "Failed": failed}

    sqs.faults.append(refuse_the_first)
    make(1).hold([gone, kept], monotonic())
    eventually(lambda: len(sqs.made("ChangeMessageVisibilityBatch")) >= 3)
    asked_for = [
        [entry["ReceiptHandle"] for entry in call["Entries"]] for call in sqs.made("ChangeMessageVisibilityBatch")
    ]
    assert asked_for[0] == [gone.receipt, kept.receipt]
    assert all(receipts == [kept.receipt] for receipts in asked_for[1:])
