"""Long polls of one SQS queue."""

from __future__ import annotations

import logging
from time import monotonic

from runlane.shown import told
from runlane.sqs.backoff import Backoff
from runlane.sqs.batches import MOST_ENTRIES
from runlane.sqs.faults import words_of
from runlane.sqs.inflight import InFlight
from runlane.sqs.messages import Message, gives_up, receive
from runlane.sqs.transport import SqsTransport
from runlane.transport import Wakeup

log = logging.getLogger("runlane.sqs")


class Poller:
    """Takes the messages of one queue, and keeps them invisible until they are let go.

    Args:
        queue: the name of the Runlane queue.
        wait: seconds that a poll waits for a message.
        visibility: seconds for which a message is taken at a time.
    """

    def __init__(self, transport: SqsTransport, queue: str, in_flight: InFlight, wait: int, visibility: int) -> None:
        self._transport = transport
        self._binding = transport.bindings[queue]
        self._in_flight = in_flight
        self._wait = wait
        self._visibility = visibility
        #: Until when polls are to rest, as SQS refused them.
        self.failures = Backoff()

    def poll(self, most: int) -> list[tuple[Message, Wakeup]]:
        """Take up to `most` messages that are wakeups; none if none come in time, or SQS fails."""
        try:
            messages = self._receive(min(most, MOST_ENTRIES))
        except Exception as error:
            log.warning("SQS queue %s gives no messages for now: %s", self._binding.place, words_of(error))
            self.failures.failed()
            return []
        self.failures.worked()
        for message in messages:
            if message.wakeup is None:
                self._refuse(message)
        return [(message, message.wakeup) for message in messages if message.wakeup is not None]

    def _receive(self, most: int) -> list[Message]:
        # A poll hands messages over after it was asked for, so that this is the earliest that their time can end.
        url, asked = self._transport.url_of(self._binding), monotonic()
        messages = receive(self._transport.client, url, most, self._wait, self._visibility)
        self._in_flight.hold([message for message in messages if message.wakeup is not None], asked)
        return messages

    def _refuse(self, message: Message) -> None:
        """Somebody else's words: for the dead-letter queue, if there is one, so that they can be looked at."""
        try:
            kept = gives_up(self._transport.client, message.url)
        except Exception as error:
            log.debug("the redrive policy of %s is not known: %s", message.url, words_of(error))
            kept = True
        what = "left to the queue's redrive policy" if kept else "deleted, as the queue has no redrive policy"
        log.error("message %s of %s is no wakeup of Runlane: %s", told(message.id), message.url, what)
        if not kept:
            self._in_flight.acknowledge(message)
