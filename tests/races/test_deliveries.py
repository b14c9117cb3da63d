"""Wakeups: published once or more, delivered in any order and number, and slots set aside for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from runlane import (
    Delivery,
    PublishOutcome,
    PublishStatus,
    Queue,
    Run,
    Runlane,
    RunStateInvalid,
    Triggered,
    Wakeup,
    task,
)
from runlane.decisions import Succeeded
from runlane.engine.tick import TickReport
from runlane.errors import TransportUnavailable
from runlane.storage.outbox import CLAIM
from tests.engine.post import Post
from tests.races.arena import Arena, Place, claim, finish
from tests.races.interleave import Race, gate
from tests.support import SECOND, database_of, named, types_of

TIMEOUT = timedelta(minutes=1)
FREE = Queue("free", default=True)
ONE = Queue("one", concurrency_limit=1, dispatch_timeout=TIMEOUT)
QUEUES = [FREE, ONE]


class Killed(BaseException):
    """The death of a process: no handler of errors sees it, and nothing that it had in mind happens."""


class SlowPost(Post):
    """Publishing is a step of its own; `dies` says where the process does: before it, or once it has happened."""

    dies: str | None = None

    def publish(self, wakeups: Sequence[Wakeup]) -> list[PublishOutcome]:
        gate("publish")
        if self.dies == "before":
            raise Killed
        outcomes = super().publish(wakeups)
        if self.dies == "after":
            raise Killed
        return outcomes


@task("work")
def work(payload: Any = None) -> Any:
    return payload


def office(place: Place, **options: Any) -> tuple[Runlane, Runlane, SlowPost, SlowPost]:
    """Two processes that publish, each through a provider that a test can look into."""
    posts = SlowPost(), SlowPost()
    a, b = (place.app(work, queues=QUEUES, post=post, **options) for post in posts)
    return a, b, *posts


def statuses(app: Runlane) -> list[str]:
    """The rows of the outbox."""
    database = database_of(app)
    statement = f"select status from {named(database, 'outbox')} where environment = '{app.environment}' order by 1"
    with database.read() as tx:
        return [str(row[0]) for row in tx.connection.exec_driver_sql(statement)]


def wakeup_of(run: Run, **other: Any) -> Wakeup:
    """The wakeup of a run, or one that says something else."""
    facts = {"environment": run.environment, "run_id": run.id, "queue": run.queue, "requested_at": run.created_at}
    return Wakeup(**{**facts, **other})


@pytest.mark.parametrize("dies", ["before", "after"])
def test_invariant_11_a_wakeup_whose_publisher_dies_is_published_by_a_tick(arena: Arena, dies: str) -> None:
    """Before it was handed over, or once it was and nobody has marked that: then it comes twice and is done once."""

    def scene(place: Place) -> Race:
        a, b, first, second = office(place)
        first.dies = dies

        def check(triggered: Triggered | Killed, report: TickReport) -> str:
            assert report.errors == ()
            (run,) = a.runs.list().data
            place.clock.advance(CLAIM)
            later = b.tick()
            assert statuses(a) == ["published"]
            assert report.wakeups_published + later.wakeups_published == 1 == len(second.wakeups)
            assert len(first.wakeups) == (1 if isinstance(triggered, Killed) and dies == "after" else 0)
            done = [b.execute_delivery(wakeup) for wakeup in first.wakeups + second.wakeups]
            assert [one.reason for one in done] == [None] + ["terminal"] * len(first.wakeups)
            assert a.runs.get(run.id).attempt_count == 1
            return f"dies {isinstance(triggered, Killed)}, at once {report.wakeups_published}"

        return Race([lambda: a.trigger(work), b.tick], check, (Killed,))

    assert set(arena.race(scene, switches=1)) >= {"dies True, at once 0", "dies False, at once 1"}


@pytest.mark.parametrize("how", ["failed", "away"])
def test_invariant_11_an_eager_trigger_succeeds_whatever_becomes_of_its_wakeup(arena: Arena, how: str) -> None:
    def scene(place: Place) -> Race:
        a, b, first, second = office(place)
        if how == "failed":
            first.answer = lambda _: PublishOutcome(PublishStatus.FAILED, "later")
        else:
            first.refuse = TransportUnavailable("away")

        def check(triggered: Triggered, report: TickReport) -> str:
            assert a.runs.get(triggered.run.id).status == "queued"
            if report.wakeups_published:
                assert statuses(a) == ["published"]
                return "by the tick at once"
            assert statuses(a) == ["failed"]
            assert b.tick().wakeups_published == 0
            place.clock.advance(SECOND)
            assert b.tick().wakeups_published == 1 == len(second.wakeups)
            return "by the next one"

        return Race([lambda: a.trigger(work), b.tick], check)

    assert set(arena.race(scene, switches=1)) == {"by the tick at once", "by the next one"}


def test_invariant_11_two_ticks_publish_a_row_once(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b, first, second = office(place, dispatch="deferred")
        runs = [a.trigger(work, n).run for n in range(2)]

        def check(x: TickReport, y: TickReport) -> str:
            assert x.errors == y.errors == ()
            assert sorted(one.run_id for one in first.wakeups + second.wakeups) == [run.id for run in runs]
            assert (x.wakeups_published, y.wakeups_published) == (len(first.wakeups), len(second.wakeups))
            assert statuses(a) == ["published", "published"]
            return f"{x.wakeups_published}{y.wakeups_published}"

        return Race([a.tick, b.tick], check)

    assert set(arena.race(scene, switches=1)) == {"20", "02"}


def test_a_slow_publisher_marks_nothing_that_another_one_has_taken_over(arena: Arena) -> None:
    """Its time is up while it publishes: the wakeup goes twice, and the row tells of the second publishing."""

    def scene(place: Place) -> Race:
        a, b, first, second = office(place, dispatch="deferred")
        first.answer = lambda _: PublishOutcome(PublishStatus.FAILED, "after a long time")
        a.trigger(work)

        def later() -> TickReport:
            place.wait(CLAIM)
            return b.tick()

        def check(slow: TickReport, other: TickReport) -> str:
            if not other.wakeups_published:
                assert (slow.wakeups_failed, statuses(a)) == (1, ["failed"])
                return "left for the next tick"
            assert (len(second.wakeups), statuses(a)) == (1, ["published"])
            return "published again" if slow.wakeups_failed else "taken over"

        return Race([a.tick, later], check)

    assert set(arena.race(scene, switches=1)) >= {"taken over", "published again"}


def test_invariant_9_two_ticks_reserve_the_last_slot_once(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b, first, second = office(place, dispatch="deferred")
        for n in range(2):
            a.trigger(work, n, queue=ONE)

        def check(x: TickReport, y: TickReport) -> str:
            assert x.errors == y.errors == ()
            assert x.slots_reserved + y.slots_reserved == 1 == len(first.wakeups + second.wakeups)
            return "A" if x.slots_reserved else "B"

        return Race([a.tick, b.tick], check)

    assert set(arena.race(scene, switches=1)) == {"A", "B"}


def test_invariant_9_a_tick_that_reserves_and_a_claimer_share_no_slot(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b, *_ = office(place, dispatch="deferred")
        runs = [a.trigger(work, n, queue=ONE).run for n in range(2)]

        def check(report: TickReport, claimed: list[Run]) -> str:
            assert report.errors == ()
            now = [a.runs.get(run.id) for run in runs]
            assert sum(run.lease is not None or run.reservation is not None for run in now) == 1
            assert len(claimed) + sum(run.reservation is not None for run in now) == 1
            return f"{report.slots_reserved}{len(claimed)}"

        return Race([a.tick, lambda: claim(b, 2)], check)

    assert set(arena.race(scene, switches=1)) >= {"01", "11"}


def reserved(place: Place) -> tuple[Runlane, Runlane, Run, Wakeup]:
    """A run with a reservation, and the wakeup that was published for it."""
    a, b, first, _ = office(place, dispatch="deferred")
    run = a.trigger(work, queue=ONE).run
    assert a.tick().slots_reserved == 1
    (wakeup,) = first.take()
    return a, b, run, wakeup


def test_a_reservation_past_its_timeout_gives_its_slot_back_or_becomes_a_lease(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b, run, wakeup = reserved(place)
        place.clock.advance(TIMEOUT)

        def check(report: TickReport, delivery: Delivery) -> str:
            assert report.errors == ()
            ended = a.runs.get(run.id)
            if delivery.outcome == "executed":
                assert (ended.status, ended.reservation, ended.attempt_count) == ("succeeded", None, 1)
            else:
                assert (ended.status, ended.attempt_count) == ("queued", 0)
                assert b.execute_delivery(wakeup).outcome == "executed"
            return f"{delivery.reason or 'executed'}, expired {report.reservations_expired}"

        return Race([a.tick, lambda: b.execute_delivery(wakeup)], check)

    courses = arena.race(scene, switches=1)
    assert {"executed, expired 0", "executed, expired 1"} <= set(courses)


def test_two_deliveries_of_one_wakeup_execute_once(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b, _, _ = office(place)
        run = a.trigger(work).run

        def check(x: Delivery, y: Delivery) -> str:
            assert sorted([str(x.outcome), str(y.outcome)]) == ["executed", "ignored"]
            late = y if x.outcome == "executed" else x
            assert late.reason in ("terminal", "already_leased")
            assert types_of(a, run.id)[2:] == ["RunLeased", "RunSucceeded"]
            return str(late.reason)

        wakeup = wakeup_of(run)
        return Race([lambda: a.execute_delivery(wakeup), lambda: b.execute_delivery(wakeup)], check)

    assert set(arena.race(scene)) == {"terminal", "already_leased"}


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
def test_a_delivery_and_a_poller_execute_a_run_once(arena: Arena, queue: Queue) -> None:
    def scene(place: Place) -> Race:
        a, b, _, _ = office(place)
        run = a.trigger(work, queue=queue).run

        def check(delivery: Delivery, polled: Run | None) -> str:
            assert (delivery.outcome == "executed") is (polled is None)
            assert types_of(a, run.id)[-2:] == ["RunLeased", "RunSucceeded"]
            assert a.runs.get(run.id).attempt_count == 1
            return "polled" if polled else "delivered"

        return Race([lambda: a.execute_delivery(wakeup_of(run)), b.execute_next], check)

    assert set(arena.race(scene)) == {"polled", "delivered"}


def test_invariant_9_a_delivery_and_a_poller_share_no_slot(arena: Arena) -> None:
    """Of two runs for one slot each wants another one."""

    def scene(place: Place) -> Race:
        a, b, _, _ = office(place)
        first, second = (a.trigger(work, n, queue=ONE).run for n in range(2))

        def check(delivery: Delivery, claimed: list[Run]) -> str:
            if claimed:
                assert [run.id for run in claimed] == [first.id] or delivery.outcome == "executed"
            return f"{delivery.reason or 'executed'} {len(claimed)}"

        return Race([lambda: a.execute_delivery(wakeup_of(second)), lambda: claim(b)], check)

    assert set(arena.race(scene, switches=1)) >= {"no_capacity 1", "executed 1"}


def test_invariant_12_a_cancellation_and_a_delivery_come_one_after_the_other(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b, _, _ = office(place)
        run = a.trigger(work).run

        def check(cancelled: Run | RunStateInvalid, delivery: Delivery) -> str:
            now = a.runs.get(run.id).status
            assert now == ("succeeded" if isinstance(cancelled, RunStateInvalid) else "cancelled")
            return f"{now} {delivery.outcome} {delivery.reason}"

        return Race(
            [lambda: a.runs.cancel(run.id), lambda: b.execute_delivery(wakeup_of(run))], check, (RunStateInvalid,)
        )

    assert set(arena.race(scene)) >= {
        "succeeded executed None",
        "cancelled executed None",
        "cancelled ignored terminal",
    }


@pytest.mark.parametrize("what", ["early", "wrong queue", "wrong environment", "post-terminal"])
def test_a_useless_wakeup_changes_nothing_whatever_else_happens(arena: Arena, what: str) -> None:
    """Beside it the run is claimed and finished, as if the wakeup had not come."""

    def scene(place: Place) -> Race:
        a, b, _, _ = office(place)
        run = a.trigger(work, delay="1h" if what == "early" else None).run
        other = {"wrong queue": {"queue": "one"}, "wrong environment": {"environment": "elsewhere"}}.get(what, {})
        if what == "post-terminal":
            finish(a, claim(a)[0], Succeeded(None))
        length = len(types_of(a, run.id))

        def check(delivery: Delivery, executed: Run | None) -> str:
            assert delivery.outcome == "ignored"
            assert (executed is None) == (what in ("early", "post-terminal"))
            assert len(types_of(a, run.id)) == length + (0 if executed is None else 2)
            return str(delivery.reason)

        return Race([lambda: a.execute_delivery(wakeup_of(run, **other)), b.execute_next], check)

    seen = set(arena.race(scene))
    expected = {"early": "not_due", "post-terminal": "terminal"}.get(what, what.replace(" ", "_"))
    assert seen - {"terminal", "already_leased"} == {expected} - {"terminal"}


def test_a_prune_and_a_publisher_of_its_runs_wakeups_wait_for_each_other_in_no_circle(arena: Arena) -> None:
    def scene(place: Place) -> Race:
        a, b, first, _ = office(place, dispatch="deferred")
        runs = [a.trigger(work, n).run for n in range(2)]

        def end_and_prune() -> int:
            for run in runs:
                b.runs.cancel(run.id)
            place.clock.advance(SECOND)
            return b.runs.prune(place.clock()).runs

        def check(report: TickReport, pruned: int) -> str:
            assert (pruned, statuses(a), report.errors) == (2, [], ())
            return str(len(first.wakeups))

        return Race([a.tick, end_and_prune], check)

    assert set(arena.race(scene, switches=1)) >= {"0", "2"}
