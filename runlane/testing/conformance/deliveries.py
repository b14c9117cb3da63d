"""Storage, the outbox: a row for each delivery that is asked for, published by one of many, and never left behind."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from runlane.capabilities import Capability
from runlane.storage import log, outbox, tables
from runlane.storage.outbox import Claimed
from runlane.storage.transaction import Transaction
from runlane.testing.conformance.cases import (
    ENVIRONMENT,
    HOUR,
    SECOND,
    StorageCases,
    Store,
    birth,
    needs,
    new,
    together,
)
from runlane.testing.conformance.upkeep import remove
from runlane.wakeup import OutboxStatus, PublishOutcome, PublishStatus

PUBLISHED = PublishOutcome(PublishStatus.PUBLISHED)


def claim(store: Store, publisher: UUID, most: int = 100) -> list[Claimed]:
    """Take rows for publishing."""
    return store.transact(lambda tx: outbox.claim(tx, ENVIRONMENT, publisher, tx.now(), most))[0]


def settle(store: Store, publisher: UUID, claimed: Claimed, outcome: PublishOutcome) -> dict[OutboxStatus, int]:
    """Record what became of a row."""
    return store.transact(lambda tx: outbox.settle(tx, publisher, [(claimed, outcome)], tx.now()))


def statuses(store: Store) -> list[OutboxStatus]:
    """The status of every row."""
    return sorted(store.read(lambda tx: list(tx.execute(select(tables.outbox.c.status)).scalars())))


@needs(Capability.PERSISTS_OUTBOX)
class OutboxCases(StorageCases):
    """What ``persists_outbox`` promises."""

    def test_each_delivery_that_is_asked_for_has_a_row(self, store: Store) -> None:
        store.append(birth())
        assert statuses(store) == [], "without a transport that publishes there is nothing to be kept"
        store.database.publishes = True
        wanted = new(trace_carrier={"traceparent": "00-1"})
        store.append(birth(wanted), birth(new(delay=HOUR)))
        (claimed,) = claim(store, uuid4())
        wakeup = claimed.wakeup
        assert (wakeup.environment, wakeup.run_id) == (ENVIRONMENT, wanted.id), f"the wakeup is {wakeup}"
        assert (wakeup.queue, wakeup.trace_carrier) == (wanted.created.queue, {"traceparent": "00-1"})

    def test_a_row_is_written_with_its_event_or_not_at_all(self, store: Store) -> None:
        store.database.publishes = True

        def work(tx: Transaction) -> None:
            log.append_runs(tx, [birth()])
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.transact(work)
        assert statuses(store) == [], "a transaction that raised left a wakeup"

    def test_a_row_is_taken_by_one_publisher(self, store: Store) -> None:
        store.database.publishes = True
        store.append(*(birth() for _ in range(20)))
        taken = [one.key for batch in together([lambda: claim(store, uuid4(), 8)] * 4) for one in batch]
        assert len(taken) == len(set(taken)), "a row was taken by two publishers at once"
        taken += [one.key for one in claim(store, uuid4())]
        assert len(set(taken)) == 20, f"of 20 rows {len(set(taken))} were taken"

    def test_what_a_publisher_left_is_taken_over(self, store: Store) -> None:
        store.database.publishes = True
        store.append(birth())
        lost, next_one = uuid4(), uuid4()
        (claimed,) = claim(store, lost)
        assert claim(store, next_one) == [], "the publisher has its time still"
        store.clock.advance(HOUR)
        (again,) = claim(store, next_one)
        assert again.attempts == 2, "it is the second attempt"
        assert settle(store, lost, claimed, PUBLISHED) == {}, "a publisher whose time was up settled the row"
        assert settle(store, next_one, again, PUBLISHED) == {OutboxStatus.PUBLISHED: 1}
        assert claim(store, lost) == [], "a published row was taken again"

    def test_a_failed_row_waits_and_a_rejected_one_is_given_up(self, store: Store) -> None:
        store.database.publishes = True
        store.append(birth())
        me = uuid4()
        (claimed,) = claim(store, me)
        settle(store, me, claimed, PublishOutcome(PublishStatus.FAILED, "the provider is away"))
        assert claim(store, me) == [], "a row that failed was taken before its time"
        store.clock.advance(timedelta(minutes=5))
        (again,) = claim(store, me)
        settle(store, me, again, PublishOutcome(PublishStatus.REJECTED, "never"))
        store.clock.advance(HOUR)
        assert claim(store, me) == [], "a row that was rejected was taken again"
        assert statuses(store) == [OutboxStatus.DEAD_LETTERED]

    @needs(Capability.LEASES_RUNS)
    def test_nothing_is_published_for_a_run_that_has_gone_on(self, store: Store) -> None:
        store.database.publishes = True
        store.append(birth())
        store.claim(store.hold())
        assert claim(store, uuid4()) == [], "a run that was claimed already needs no wakeup"

    @needs(Capability.LEASES_RUNS, Capability.PRUNES_RUNS)
    def test_a_pruned_run_leaves_no_row(self, store: Store) -> None:
        store.database.publishes = True
        store.end(new())
        store.clock.advance(SECOND)
        assert remove(store).runs == 1
        assert statuses(store) == [], "a pruned run left a wakeup"
