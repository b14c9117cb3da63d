"""Publishing wakeups to SQS, in batches, with an outcome for each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from attrs import evolve

from runlane.errors import ConfigurationInvalid
from runlane.sqs.batches import MOST_BYTES, Entry, answered, batches, entry_of
from runlane.sqs.bindings import SqsQueue, bindings_of, missing, shared
from runlane.sqs.client import check_boto3, make_client
from runlane.sqs.faults import entry_outcome, failed, is_missing_queue, is_unreachable, words_of
from runlane.transport import PublishOutcome, PublishStatus, Wakeup
from runlane.transport.local import LocalTransport

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

log = logging.getLogger("runlane.sqs")

#: Calls under way at once when much is published.
_SENDERS = 8
#: So many calls in a row without an answer, and the rest of what was to be published is not tried.
_ENOUGH = 3

Outcomes = dict[int, PublishOutcome]


class SqsTransport(LocalTransport):
    """Carries wakeups through Amazon SQS, one message per run; rings within this process as well.

    Args:
        queues: an ``SqsQueue`` for each queue of the runtime.
        client: a boto3 SQS client of yours, which you close; else one is made at the start, with the region and the
            credentials of boto3's own search.  A consumer needs one whose read timeout is longer than its polls.

    Raises:
        ConfigurationInvalid: naming what is not valid, or boto3 is not installed.
    """

    name = "sqs"

    def __init__(self, queues: Iterable[SqsQueue], *, client: SQSClient | None = None) -> None:
        super().__init__()
        check_boto3()
        self.bindings: Mapping[str, SqsQueue] = bindings_of(queues)
        self._own = client is None
        self._client = client
        self._urls: dict[str, str] = {}
        self._connecting = threading.Lock()

    def start(self) -> None:
        """Look up the queues that are given by name.

        An SQS that cannot be reached, or refuses to answer, does not stop a runtime from starting: runs are stored
        all the same, and their wakeups wait.

        Raises:
            ConfigurationInvalid: there is no such queue, two queues are bound to one, or boto3 has no region.
        """
        _ = self.client
        for binding in self.bindings.values():
            try:
                self.url_of(binding)
            except ConfigurationInvalid:
                raise
            except Exception as error:
                if is_missing_queue(error):
                    raise ConfigurationInvalid(
                        f"there is no SQS queue {binding.name!r} for queue {binding.queue.name!r}; create it, or give "
                        "the name of one in the region and account of the client"
                    ) from error
                log.warning("SQS queue %s cannot be looked up for now: %s", binding.name, words_of(error))

    def close(self) -> None:
        """Close the connections of a client that was made here."""
        with self._connecting:
            if self._own and self._client is not None:
                self._client.close()
                self._client = None

    @property
    def client(self) -> SQSClient:
        """The client, made at first need.

        Raises:
            ConfigurationInvalid: boto3 has no region.
        """
        with self._connecting:
            if self._client is None:
                self._client = make_client()
            return self._client

    def url_of(self, binding: SqsQueue) -> str:
        """The URL of an SQS queue, looked up once; boto3's errors are the caller's.

        Raises:
            ConfigurationInvalid: another queue is bound to it by its URL.
        """
        if binding.name is None:
            return binding.place
        if binding.name not in self._urls:
            url = self.client.get_queue_url(QueueName=binding.name)["QueueUrl"]
            for other in self.bindings.values():
                if other.url == url:
                    raise shared(other.queue.name, binding.queue.name, url)
            self._urls[binding.name] = url
        return self._urls[binding.name]

    def check(self, queues: Collection[str]) -> None:
        """Refuse queues without a binding.

        Raises:
            ConfigurationInvalid: naming them.
        """
        if problem := missing(self.bindings, queues):
            raise ConfigurationInvalid(problem)

    def publish(self, wakeups: Sequence[Wakeup]) -> Sequence[PublishOutcome]:
        """Send one message per wakeup; one outcome each, in their order.

        ``failed``: SQS was not reached or refused the call (throttling, credentials, no such queue), or no SQS queue
        is bound here to the wakeup's queue, which another process may have.  ``rejected``: SQS says that it will
        never take this message.
        """
        outcomes: Outcomes = {}
        entries: dict[str, list[Entry]] = {}
        for place, wakeup in enumerate(wakeups):
            entry = entry_of(place, wakeup)
            if entry.size > MOST_BYTES:  # a run that is not traced is better than one that nobody is told of
                log.warning("the trace carrier of run %s is too large for SQS and stays behind", wakeup.run_id)
                entry = entry_of(place, evolve(wakeup, trace_carrier=None))
            if wakeup.queue not in self.bindings:
                problem = missing(self.bindings, [wakeup.queue])
                outcomes[place] = PublishOutcome(PublishStatus.FAILED, problem)
            else:
                entries.setdefault(wakeup.queue, []).append(entry)
        calls = [(self.bindings[queue], batch) for queue, some in entries.items() for batch in batches(some)]
        for some_outcomes in self._send_all(calls):
            outcomes |= some_outcomes
        waiting = [outcome for outcome in outcomes.values() if outcome.status is PublishStatus.FAILED]
        if waiting:
            log.warning("%d of %d wakeups have to wait: %s", len(waiting), len(wakeups), waiting[0].detail)
        return [outcomes[place] for place in range(len(wakeups))]

    def _send_all(self, calls: Sequence[tuple[SqsQueue, list[Entry]]]) -> list[Outcomes]:
        reached = _Reached()
        if len(calls) <= 1:
            return [self._send(binding, batch, reached) for binding, batch in calls]
        with ThreadPoolExecutor(min(_SENDERS, len(calls)), "runlane-sqs-send") as threads:
            return list(threads.map(lambda call: self._send(call[0], call[1], reached), calls))

    def _send(self, binding: SqsQueue, batch: Sequence[Entry], reached: _Reached) -> Outcomes:
        if reached.enough is not None:
            return {entry.place: reached.enough for entry in batch}
        try:
            answer = self.client.send_message_batch(
                QueueUrl=self.url_of(binding), Entries=[entry.message(binding.fifo) for entry in batch]
            )
        except Exception as error:
            outcome = failed(error)
            reached.note(outcome if is_unreachable(error) else None)
            return {entry.place: outcome for entry in batch}
        reached.note(None)
        unanswered = PublishOutcome(PublishStatus.FAILED, "SQS did not say what became of it")
        outcomes = {entry.place: unanswered for entry in batch}
        for place, _ in answered(answer.get("Successful", ()), outcomes):
            outcomes[place] = _PUBLISHED
        for place, refused in answered(answer.get("Failed", ()), outcomes):
            outcomes[place] = entry_outcome(refused)
        return outcomes


_PUBLISHED = PublishOutcome(PublishStatus.PUBLISHED)


class _Reached:
    """Whether it is worth going on: a call that nobody answers takes seconds, and thousands may wait behind it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_a_row = 0
        #: The outcome of whatever is left once nobody has answered often enough.
        self.enough: PublishOutcome | None = None

    def note(self, unreachable: PublishOutcome | None) -> None:
        with self._lock:
            self._in_a_row = 0 if unreachable is None else self._in_a_row + 1
            if self._in_a_row >= _ENOUGH:
                self.enough = unreachable
