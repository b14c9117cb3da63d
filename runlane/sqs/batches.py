"""Wakeups as entries of SQS batches, within what SQS takes at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from attrs import frozen

from runlane.transport import Wakeup

if TYPE_CHECKING:
    from types_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

#: Messages of one call.
MOST_ENTRIES = 10
#: Bytes of one message and of one call together.  SQS may take four times as much, depending on the queue's settings.
MOST_BYTES = 256 * 1024


@frozen
class Entry:
    """One wakeup of a batch: its place among all that are published, its message, and that one's size in bytes."""

    place: int
    body: str
    size: int
    run_id: UUID

    def message(self, fifo: bool) -> SendMessageBatchRequestEntryTypeDef:
        """As SQS takes it.

        On a FIFO queue a run is a group of its own, so that runs do not wait for each other.  What is published again
        arrives again: SQS would swallow what it has seen in the last five minutes, a double is only ignored.
        """
        entry: SendMessageBatchRequestEntryTypeDef = {"Id": str(self.place), "MessageBody": self.body}
        if fifo:
            entry["MessageGroupId"] = str(self.run_id)
            entry["MessageDeduplicationId"] = f"{self.run_id}-{uuid4().hex}"
        return entry


def entry_of(place: int, wakeup: Wakeup) -> Entry:
    """The entry of a wakeup."""
    # The two characters that JSON leaves as they are and SQS refuses.
    body = wakeup.to_json().replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
    return Entry(place, body, len(body.encode()), wakeup.run_id)


def batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries in their order, as few calls as SQS allows; none may be larger than ``MOST_BYTES``."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) == MOST_ENTRIES or size + entry.size > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.size
    if batch:
        yield batch


def tens(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Items in portions of a call's greatest number."""
    for start in range(0, len(items), MOST_ENTRIES):
        yield items[start : start + MOST_ENTRIES]


def answered(entries: Iterable[object], numbers: Collection[int]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """What an answer says about entries of a batch, by their numbers; what was not in the batch is passed over."""
    known = {str(number): number for number in numbers}
    for entry in entries:
        told = entry.get("Id") if isinstance(entry, Mapping) else None
        if isinstance(entry, Mapping) and isinstance(told, str) and told in known:
            yield known[told], entry
