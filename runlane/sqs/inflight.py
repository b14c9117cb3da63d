"""Messages that were received and are still in somebody's hands: kept invisible, deleted when done, or given back.

All of it is thrift.  A message that becomes visible too early, or is not deleted, is delivered again; then its run is
found to be leased or to have ended, and the message is acknowledged.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from runlane.shown import told
from runlane.sqs.batches import answered, tens
from runlane.sqs.faults import is_final, words_of
from runlane.sqs.messages import Message

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

log = logging.getLogger("runlane.sqs")


class InFlight:
    """The messages of one consumer.

    Args:
        client: a boto3 SQS client.
        visibility: seconds for which a message is kept to this consumer at a time.
    """

    def __init__(self, client: SQSClient, visibility: int) -> None:
        self._client = client
        self._visibility = visibility
        self._changed = threading.Condition()
        self._held: dict[Message, float] = {}  # until when nobody else sees it, by the monotonic clock
        self._done: list[Message] = []
        self._returned: list[Message] = []
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._delete, name="runlane-sqs-delete", daemon=True),
            threading.Thread(target=self._return, name="runlane-sqs-return", daemon=True),
            threading.Thread(target=self._extend, name="runlane-sqs-extend", daemon=True),
        ]

    def start(self) -> None:
        """Begin to extend and to delete."""
        for thread in self._threads:
            thread.start()

    def close(self, timeout: float) -> None:
        """Delete and return what is to be, for `timeout` seconds at most, and end; what is held is left as it is."""
        until = monotonic() + timeout
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, until - monotonic()))

    def hold(self, messages: Collection[Message], asked: float) -> None:
        """Keep messages invisible that were asked for at `asked`, by the monotonic clock, until they are let go."""
        with self._changed:
            self._held |= dict.fromkeys(messages, asked + self._visibility)

    def acknowledge(self, message: Message) -> None:
        """It is done with: delete it soon, together with others."""
        with self._changed:
            self._held.pop(message, None)
            self._done.append(message)
            self._changed.notify_all()

    def leave(self, message: Message) -> None:
        """Let it become visible by itself, when its time is over."""
        with self._changed:
            self._held.pop(message, None)

    def give_back(self, messages: Collection[Message]) -> None:
        """Make messages visible to others, as soon as SQS hears of it; nobody waits for that."""
        with self._changed:
            for message in messages:
                self._held.pop(message, None)
            closed = self._closed.is_set()
            if not closed:
                self._returned += messages
                self._changed.notify_all()
        if closed:  # its consumer has been cut off: whoever comes late has time
            self._send_back(messages)

    def _delete(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._done or self._closed.is_set())
                if not self._done:
                    return
                done, self._done = self._done, []
            for url, some in _by_url(done):
                entries = [{"Id": str(n), "ReceiptHandle": message.receipt} for n, message in enumerate(some)]
                refused = self._call(self._client.delete_message_batch, url, entries)
                if refused:
                    log.warning("%d messages could not be deleted and will be delivered again", len(refused))

    def _return(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._returned or self._closed.is_set())
                if not self._returned:
                    return
                returned, self._returned = self._returned, []
            self._send_back(returned)

    def _send_back(self, messages: Collection[Message]) -> None:
        for url, some in _by_url(messages):
            self._change(url, some, 0)

    def _extend(self) -> None:
        # Three looks in the time: one that fails is followed by another before a message becomes visible.
        look = self._visibility / 3
        while not self._closed.wait(look):
            with self._changed:
                due = [message for message, until in self._held.items() if until - monotonic() <= 2 * look]
            for url, some in _by_url(due):
                asked = monotonic()
                refused = self._change(url, some, self._visibility)
                with self._changed:
                    for n, message in enumerate(some):
                        if message not in self._held:
                            continue
                        if n not in refused:
                            self._held[message] = asked + self._visibility
                        elif is_final(refused[n]):
                            # It was received again or has been held for 12 hours: SQS goes on without us.
                            log.info("message %s cannot be kept invisible any longer", told(message.id))
                            del self._held[message]

    def _change(self, url: str, messages: Sequence[Message], visibility: int) -> Mapping[int, Mapping[str, Any]]:
        entries = [
            {"Id": str(n), "ReceiptHandle": message.receipt, "VisibilityTimeout": visibility}
            for n, message in enumerate(messages)
        ]
        return self._call(self._client.change_message_visibility_batch, url, entries)

    @staticmethod
    def _call(call: Any, url: str, entries: Sequence[Mapping[str, Any]]) -> Mapping[int, Mapping[str, Any]]:
        """Make a batch call; the entries that did not succeed, by their number, with SQS's reason if it gave one."""
        try:
            answer = call(QueueUrl=url, Entries=entries)
        except Exception as error:
            log.warning("SQS was asked in vain about %d messages: %s", len(entries), words_of(error))
            return {n: {} for n in range(len(entries))}
        return dict(answered(answer.get("Failed", ()), range(len(entries))))


def _by_url(messages: Collection[Message]) -> Iterator[tuple[str, Sequence[Message]]]:
    """Messages of one queue each, no more than a call takes."""
    found: dict[str, list[Message]] = defaultdict(list)
    for message in messages:
        found[message.url].append(message)
    for url, some in found.items():
        for ten in tens(some):
            yield url, ten
