"""What SQS hands over, and what it says about the queue it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from runlane.transport import Wakeup

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.type_defs import MessageTypeDef


@frozen(eq=False)
class Message:
    """A message that was received: which, from where, the receipt to answer with, and what it says."""

    id: str
    url: str
    receipt: str
    wakeup: Wakeup | None


def message_of(url: str, received: MessageTypeDef) -> Message:
    """A message as it was received from the queue at `url`; without a wakeup if it holds none."""
    return Message(
        received.get("MessageId", "?"), url, received.get("ReceiptHandle", ""), wakeup_in(received.get("Body", ""))
    )


def wakeup_in(body: str) -> Wakeup | None:
    """The wakeup that a message's body holds; None if it holds none, which is all that may be said of it in a log."""
    try:
        return Wakeup.from_json(body)
    except Exception:  # whatever strangers send, it must not hold up the messages beside it
        return None


def receive(client: SQSClient, url: str, most: int, wait: int, visibility: int) -> list[Message]:
    """Take up to `most` messages, waiting up to `wait` seconds for the first; nobody else sees them for `visibility`
    seconds."""
    answer = client.receive_message(
        QueueUrl=url, MaxNumberOfMessages=most, WaitTimeSeconds=wait, VisibilityTimeout=visibility
    )
    return [message_of(url, received) for received in answer.get("Messages", ())]


def gives_up(client: SQSClient, url: str) -> bool:
    """Whether the queue moves what is received too often to a dead-letter queue."""
    answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])
    return bool(answer.get("Attributes", {}).get("RedrivePolicy"))
