"""Publishing wakeups: claimed in one transaction, handed to the transport outside of any, settled in another."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from time import monotonic
from uuid import UUID, uuid4

from attrs import frozen

from runlane.clock import Clock
from runlane.errors import AdapterContractViolation, RunlaneError, TransportUnavailable
from runlane.shown import shown, words_of
from runlane.storage import outbox
from runlane.storage.database import Database
from runlane.storage.outbox import Claimed
from runlane.transport import Publisher
from runlane.wakeup import OutboxStatus, PublishOutcome, PublishStatus

log = logging.getLogger("runlane.dispatch")

#: The most wakeups that are claimed at once.
BATCH = 100
#: Seconds for trying wakeups each by itself: others may take them over after ``outbox.CLAIM``.
_ALONE = 10.0


@frozen
class Flushed:
    """How many wakeups were published, failed for now, or were given up; whether more wait."""

    published: int = 0
    failed: int = 0
    dead_lettered: int = 0
    more: bool = False


class Dispatcher:
    """Publishes wakeups of one environment; those of queues that are not known here are left to others."""

    def __init__(
        self,
        database: Database,
        transport: Publisher,
        environment: str,
        queues: Collection[str],
        clock: Clock | None,
    ) -> None:
        self._database = database
        self._transport = transport
        self._environment = environment
        self._queues = queues
        self._clock = clock
        self._me = uuid4()

    def flush(self) -> Flushed:
        """Publish what is due, and look after what was published a while ago.

        Raises:
            StorageUnavailable: the database cannot be reached.
        """
        more = self._database.transact(
            lambda tx: outbox.look_again(tx, self._environment, tx.now(), BATCH), self._clock
        )
        flushed = self._publish(None)
        return Flushed(flushed.published, flushed.failed, flushed.dead_lettered, more or flushed.more)

    def publish(self, run_ids: Sequence[UUID]) -> None:
        """Publish the wakeups of runs just made, each tried once, until one fails; the rest is left to maintenance."""
        try:
            for start in range(0, len(run_ids), BATCH):
                if self._publish(run_ids[start : start + BATCH]).failed:
                    break
        except RunlaneError as error:
            log.warning("wakeups are left to maintenance: %s", error)
        except Exception:  # the runs are there: nothing of a publisher makes a failure of it
            log.exception("wakeups are left to maintenance")

    def _publish(self, run_ids: Collection[UUID] | None) -> Flushed:
        claimed, more = self._database.transact(
            lambda tx: outbox.claim(tx, self._environment, self._me, tx.now(), BATCH, self._queues, run_ids),
            self._clock,
        )
        if not claimed:
            return Flushed(more=more)
        outcomes = list(zip(claimed, self._hand_over(claimed, alone=run_ids is None), strict=True))
        counts = self._database.transact(lambda tx: outbox.settle(tx, self._me, outcomes, tx.now()), self._clock)
        for one, outcome in outcomes:
            if outcome.status is PublishStatus.REJECTED:
                log.error("the wakeup of run %s is given up: %s", one.wakeup.run_id, outcome.detail)
        found = Counter(counts)
        return Flushed(
            found[OutboxStatus.PUBLISHED], found[OutboxStatus.FAILED], found[OutboxStatus.DEAD_LETTERED], more
        )

    def _hand_over(self, claimed: Sequence[Claimed], alone: bool) -> Sequence[PublishOutcome]:
        """What the transport made of them; whatever it raises, they are tried again.

        Args:
            alone: where it fails for no reason that all of them share, try each by itself, as one may be to blame.
        """
        try:
            return self._answers(claimed)
        except TransportUnavailable as error:
            log.warning("%d wakeups have to wait: %s", len(claimed), error)
            return _failed(claimed, words_of(error))
        except Exception as error:
            log.exception("transport %s failed", self._transport.name)
            reason = f"{type(error).__name__}: {words_of(error)}"
        if not alone or len(claimed) == 1:
            return _failed(claimed, reason)
        outcomes: list[PublishOutcome] = []
        until = monotonic() + _ALONE
        for one in claimed:
            outcomes += self._hand_over([one], alone) if monotonic() < until else _failed([one], reason)
        return outcomes

    def _answers(self, claimed: Sequence[Claimed]) -> Sequence[PublishOutcome]:
        answers = list(self._transport.publish([one.wakeup for one in claimed]))
        if len(answers) != len(claimed):
            raise AdapterContractViolation(
                f"transport {self._transport.name} answered {len(answers)} times for {len(claimed)} wakeups"
            )
        for answer in answers:
            if not isinstance(answer, PublishOutcome):
                raise AdapterContractViolation(
                    f"transport {self._transport.name} must answer with PublishOutcome(…); got {shown(answer)}"
                )
        return answers


def _failed(claimed: Sequence[Claimed], reason: str) -> list[PublishOutcome]:
    return [PublishOutcome(PublishStatus.FAILED, reason)] * len(claimed)
