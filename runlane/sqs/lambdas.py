"""AWS Lambda with SQS as its event source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runlane.aio import AsyncRunlane
from runlane.app import Runlane
from runlane.errors import ConfigurationInvalid
from runlane.shown import shown, told
from runlane.sqs.faces import runlane_of
from runlane.sqs.messages import wakeup_in

log = logging.getLogger("runlane.sqs")

Record = Mapping[str, Any]
Handler = Callable[[Mapping[str, Any], object], dict[str, list[dict[str, str]]]]


def lambda_handler(app: Runlane | AsyncRunlane, *, concurrency: int = 10) -> Handler:
    """A Lambda function that executes the runs that an event's messages are about.

    The event source mapping must have ``ReportBatchItemFailures`` on: messages whose delivery came to an end are
    named done, the others are delivered again.  Those are the ones that the database could not be asked about, and
    those that hold no wakeup, which the queue's redrive policy takes away.  On a FIFO queue what follows a failed
    message in its group is not begun, and delivered again as well.

    Args:
        app: the runtime; it is started by the first message.
        concurrency: the greatest number of handlers at once; messages of one FIFO group come one after the other.

    Raises:
        ConfigurationInvalid: `concurrency` is not valid; by the function: the event is none of SQS.
    """
    if type(concurrency) is not int or not 1 <= concurrency <= 1000:
        raise ConfigurationInvalid(f"concurrency must be an integer from 1 to 1000; got {shown(concurrency)}")

    runlane = runlane_of(app)

    def handler(event: Mapping[str, Any], context: object) -> dict[str, list[dict[str, str]]]:
        groups = _groups(event)
        if len(groups) == 1:
            failed = _deliver_group(runlane, groups[0])
        else:
            with ThreadPoolExecutor(max(1, min(concurrency, len(groups))), "runlane-lambda") as threads:
                found = threads.map(lambda group: _deliver_group(runlane, group), groups)
                failed = [message for some in found for message in some]
        return {"batchItemFailures": [{"itemIdentifier": message} for message in failed]}

    return handler


def _groups(event: Mapping[str, Any]) -> list[list[Record]]:
    """The messages of an event: those of one FIFO group together and in their order, each other one alone."""
    records = event.get("Records") if isinstance(event, Mapping) else None
    if not isinstance(records, Sequence) or isinstance(records, str | bytes) or not all(map(_is_message, records)):
        raise ConfigurationInvalid(
            'the event is not one of an SQS event source: {"Records": [{"eventSource": "aws:sqs", …}]}'
        )
    groups: dict[object, list[Record]] = {}
    for place, record in enumerate(records):
        fifo = str(record.get("eventSourceARN", "")).endswith(".fifo")
        attributes = record.get("attributes") if fifo else None
        group = attributes.get("MessageGroupId") if isinstance(attributes, Mapping) else None
        groups.setdefault(group if isinstance(group, str) else place, []).append(record)
    return list(groups.values())


def _is_message(record: object) -> bool:
    if not isinstance(record, Mapping) or record.get("eventSource") != "aws:sqs":
        return False
    return isinstance(record.get("messageId"), str)


def _deliver_group(app: Runlane, records: Sequence[Record]) -> list[str]:
    """Deliver messages one after the other; the ids of the first that fails and of all after it."""
    for place, record in enumerate(records):
        if not _delivered(app, record):
            return [str(left["messageId"]) for left in records[place:]]
    return []


def _delivered(app: Runlane, record: Record) -> bool:
    message = told(record["messageId"])
    wakeup = wakeup_in(record.get("body", ""))
    if wakeup is None:
        log.error("message %s of %s is no wakeup of Runlane", message, told(record.get("eventSourceARN")))
        return False
    try:
        delivery = app.execute_delivery(wakeup)
    except Exception as error:
        log.warning("run %s: message %s is to be delivered again: %s", wakeup.run_id, message, error)
        return False
    log.debug("run %s: %s %s", wakeup.run_id, delivery.outcome, delivery.reason or "")
    return True
