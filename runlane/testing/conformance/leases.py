"""Storage, leases: what is claimed and in which order, by whom it is held, and how it is taken back."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from runlane import decisions
from runlane.capabilities import Capability
from runlane.decisions import MAX_EVENTS, Interrupted, Released
from runlane.engine import lease, operate
from runlane.engine.operate import Said
from runlane.engine.queues import set_paused
from runlane.errors import QueueCapacityExceeded
from runlane.events import RunCancelled, RunLeased
from runlane.projections.runs import Run
from runlane.storage import claims, sessions
from runlane.testing.conformance.cases import (
    ENVIRONMENT,
    HOUR,
    QUEUE,
    SECOND,
    StorageCases,
    Store,
    birth,
    needs,
    new,
    together,
)
from runlane.values import APPLICATION, SYSTEM, RunStatus

THREADS = 4


def payloads(runs: list[Run]) -> list[object]:
    """What the runs are about, in order."""
    return [run.payload for run in runs]


@needs(Capability.LEASES_RUNS)
class LeaseCases(StorageCases):
    """What ``leases_runs`` promises."""

    def test_claims_go_by_priority_then_due_time_then_id(self, store: Store) -> None:
        wanted = [
            new("low", priority=-5),
            new("early"),
            new("late", delay=2 * SECOND),
            new("high", priority=9, delay=3 * SECOND),
            new("middle", delay=SECOND),
            new("early too"),
        ]
        store.append(*(birth(one) for one in wanted))
        store.clock.advance(HOUR)
        order = ["high", "early", "early too", "middle", "late", "low"]
        holder = store.hold()
        first = payloads(store.claim(holder, 4))
        assert first == order[:4], f"the best four are {order[:4]}, claimed were {first}"
        rest = payloads(store.claim(holder, 9))
        assert rest == order[4:], f"then {order[4:]}, claimed were {rest}"

    def test_only_what_is_wanted_and_due_is_claimed(self, store: Store) -> None:
        store.append(
            birth(new("not due", delay=HOUR)),
            birth(new("other queue", queue="other")),
            birth(new("other task", task_id="other")),
            birth(new("wanted")),
        )
        holder = store.hold()
        assert store.claim(holder, 9, environment="elsewhere") == [], "a run of another environment was claimed"
        found = payloads(store.claim(holder, 9))
        assert found == ["wanted"], f"claimed were {found}"
        store.clock.advance(HOUR)
        assert payloads(store.claim(holder, 9)) == ["not due"], "it is due now"

    def test_a_lease_is_what_its_event_says(self, store: Store) -> None:
        store.append(birth())
        holder = store.hold()
        (leased,) = store.claim(holder)
        assert store.run(leased.id) == leased, "the claimed run is not the stored one"
        event = store.history(leased.id)[-1].event
        assert event == RunLeased(holder.session_id, holder.worker_id, 1, None), f"the last event is {event}"
        assert store.claim(store.hold(), 9) == [], "a leased run was claimed again"

    def test_released_runs_wait_for_their_time_and_keep_their_priority(self, store: Store) -> None:
        store.append(birth(new("released", priority=3)), birth(new("queued")))
        holder = store.hold()
        (leased,) = store.claim(holder)
        store.finish(leased, Released(delay=HOUR))
        assert payloads(store.claim(holder, 1)) == ["queued"], "a released run is not due yet"
        store.clock.advance(HOUR)
        store.append(birth(new("new", priority=2), at=store.clock()))
        assert payloads(store.claim(holder, 9)) == ["released", "new"]

    def test_no_run_is_claimed_twice(self, store: Store) -> None:
        made = [birth(new(n)) for n in range(60)]
        store.append(*made)

        def work() -> list[Run]:
            holder, mine = store.hold(), list[Run]()
            while found := store.claim(holder, 3):
                mine += found
            return mine

        claimed = Counter(run.id for runs in together([work] * THREADS) for run in runs)
        assert max(claimed.values()) == 1, "a run was claimed by two workers at once"
        left = len(made) - len(claimed)
        while more := store.claim(store.hold(), 50):  # what another one had locked at the very end
            left -= len(more)
        assert left == 0, f"{left} runs were hidden from all workers"

    def test_a_paused_queue_gives_nothing(self, store: Store) -> None:
        store.append(birth())
        holder = store.hold()

        def pause(paused: bool) -> None:
            store.transact(lambda tx: set_paused(tx, ENVIRONMENT, QUEUE, paused, None, APPLICATION))

        pause(True)
        assert store.claim(holder) == [], "a run of a paused queue was claimed"
        pause(False)
        assert len(store.claim(holder)) == 1, "the queue goes on"

    def test_a_session_that_has_ended_claims_nothing(self, store: Store) -> None:
        store.append(birth())
        holder = store.hold()
        store.transact(lambda tx: sessions.close_session(tx, holder.session_id))
        assert store.claim(holder) == [], "a session without a row took a lease"
        alive = store.transact(lambda tx: sessions.extend_session(tx, holder.session_id, tx.now() + HOUR))
        assert not alive, "a session that has ended was extended"

    def test_only_the_holder_of_the_lease_ends_an_attempt(self, store: Store) -> None:
        store.append(birth())
        (leased,) = store.claim(store.hold(SECOND))
        store.clock.advance(HOUR)
        assert self.recover(store, leased) == 1
        (again,) = store.claim(store.hold())
        assert store.finish(leased) is None, "a worker that lost its lease ended the run"
        assert store.run(leased.id) == again, "a worker that lost its lease changed the run"
        ended = store.finish(again)
        assert ended is not None
        assert store.finish(again, Interrupted("late")) is None, "an attempt was ended twice"
        # As after a commit that nobody heard of.
        assert store.finish(again) == ended, "the outcome that an attempt had is known to be stored"
        assert (ended.status, store.run(leased.id)) == (RunStatus.SUCCEEDED, ended)

    def test_a_session_is_recovered_when_it_has_expired_and_not_before(self, store: Store) -> None:
        store.append(birth())
        holder = store.hold(2 * SECOND)
        (leased,) = store.claim(holder)
        store.clock.advance(SECOND)
        assert self.recover(store, leased) == 0, "the runs of a living session were taken away"
        store.transact(lambda tx: sessions.extend_session(tx, holder.session_id, tx.now() + 5 * SECOND))
        store.clock.advance(4 * SECOND)
        assert self.recover(store, leased) == 0, "the session was extended"
        store.clock.advance(SECOND)
        expired = store.read(lambda tx: sessions.expired_sessions(tx, ENVIRONMENT, tx.now(), 10))
        assert expired == [holder.session_id], "the session has expired"
        assert self.recover(store, leased) == 1
        found = store.run(leased.id)
        assert (found.status, found.counters.losses, found.lease) == (RunStatus.QUEUED, 1, None)

    def test_many_maintainers_recover_a_run_once(self, store: Store) -> None:
        store.append(birth())
        (leased,) = store.claim(store.hold(SECOND))
        store.clock.advance(HOUR)
        assert sum(together([lambda: self.recover(store, leased)] * THREADS)) == 1
        assert store.run(leased.id).counters.losses == 1, "one loss was counted more than once"

    def test_a_session_without_a_row_is_found(self, store: Store) -> None:
        store.append(birth())
        holder = store.hold()
        (leased,) = store.claim(holder)
        assert store.read(lambda tx: claims.orphaned_sessions(tx, ENVIRONMENT, 10)) == []
        store.transact(lambda tx: sessions.close_session(tx, holder.session_id))
        assert store.read(lambda tx: claims.orphaned_sessions(tx, ENVIRONMENT, 10)) == [holder.session_id]
        assert self.recover(store, leased) == 1, "its runs are to be taken back at once"

    def test_stray_leases_are_given_back(self, store: Store) -> None:
        store.append(birth())
        holder = store.hold()
        (leased,) = store.claim(holder)
        held = store.read(lambda tx: claims.leases_of(tx, holder.session_id))
        assert [(one.run_id, one.attempt) for one in held] == [(leased.id, 1)]
        given = store.transact(lambda tx: lease.give_back(tx, holder, {leased.id: 1}, "stray", MAX_EVENTS))
        assert given == 1
        assert store.run(leased.id).status is RunStatus.QUEUED

    def test_a_cancellation_is_never_lost(self, store: Store) -> None:
        store.append(birth())
        (leased,) = store.claim(store.hold())
        said = Said(APPLICATION, "enough")
        store.transact(lambda tx: operate.cancel(tx, ENVIRONMENT, leased.id, said))
        assert store.claim(store.hold()) == [], "a run that is asked to stop was claimed"
        ended = store.finish(leased)
        assert ended is not None
        assert ended.status is RunStatus.CANCELLED, f"a run that was asked to stop has {ended.status}"

    def test_claims_and_cancellations_at_once_leave_one_of_them(self, store: Store) -> None:
        for _ in range(5):
            change = birth()
            store.append(change)
            holder = store.hold()
            cancelled = decisions.advance(change.after, [RunCancelled("now")], change.after.updated_at, SYSTEM)
            claimed, lost = together([lambda h=holder: store.claim(h), lambda c=cancelled: store.append(c)])  # type: ignore[misc]
            assert bool(claimed) == bool(lost), "exactly one of the claim and the cancellation has to win"

    @staticmethod
    def recover(store: Store, leased: Run) -> int:
        """Take back what the run's session holds, if it has expired; how many runs."""
        assert leased.lease is not None
        session_id = leased.lease.session_id
        return store.transact(lambda tx: lease.recover_session(tx, session_id, lambda _: 3, MAX_EVENTS)).runs


@needs(Capability.LEASES_RUNS, Capability.ENFORCES_QUEUE_CONCURRENCY)
class CapacityCases(StorageCases):
    """What ``enforces_queue_concurrency`` promises."""

    LIMITS = {QUEUE: 2}  # noqa: RUF012

    def test_a_limit_holds_whoever_is_faster(self, store: Store) -> None:
        store.append(*(birth(new(n)) for n in range(12)))
        ended = 0
        while ended < 12:
            found = together([lambda: store.claim(store.hold(), 5, limits=self.LIMITS)] * THREADS)
            leased = [run for runs in found for run in runs]
            assert len(leased) == 2, f"a queue with a limit of 2 and {12 - ended} due runs leased {len(leased)}"
            for run in leased:
                store.finish(run)
            ended += len(leased)

    def test_a_limit_counts_each_concurrency_key_by_itself(self, store: Store) -> None:
        keys = ["a", "a", "a", "a", "b", None, None, None]
        store.append(*(birth(new(key, concurrency_key=key)) for key in keys))
        found = Counter(payloads(store.claim(store.hold(), 50, limits=self.LIMITS)))
        assert found == Counter({"a": 2, "b": 1, None: 2}), f"leased were {found}"

    def test_a_full_partition_of_a_limit_hides_no_other(self, store: Store) -> None:
        store.append(*(birth(new("full", concurrency_key="full", priority=9)) for _ in range(30)))
        store.append(birth(new("free", concurrency_key="free")))
        assert payloads(store.claim(store.hold(), 2, limits=self.LIMITS)) == ["full", "full"]
        assert payloads(store.claim(store.hold(), 1, limits=self.LIMITS)) == ["free"]

    def test_a_full_limit_refuses_a_run_to_be_made_and_writes_nothing(self, store: Store) -> None:
        store.append(*(birth() for _ in range(2)))
        assert len(store.claim(store.hold(), 2, limits=self.LIMITS)) == 2
        wanted, holder = new(), store.hold()
        with pytest.raises(QueueCapacityExceeded):
            store.transact(lambda tx: lease.create_leased(tx, ENVIRONMENT, holder, wanted, 2))
        assert store.history(wanted.id) == [], "a run that was refused was written"

    def test_a_lost_lease_leaves_no_slot_of_a_limit_behind(self, store: Store) -> None:
        store.append(*(birth() for _ in range(3)))
        leased = store.claim(store.hold(timedelta(seconds=1)), 3, limits=self.LIMITS)
        store.clock.advance(HOUR)
        LeaseCases.recover(store, leased[0])
        assert len(store.claim(store.hold(), 3, limits=self.LIMITS)) == 2, "the slots of a lost worker are free again"
