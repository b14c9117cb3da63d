"""Wakeups that are carried to consumers: asked for with the event, published at least once, believed in nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from attrs import evolve
from sqlalchemy import select

from runlane import (
    AesGcm,
    AsyncRunlane,
    ConfigurationInvalid,
    Delivery,
    DeliveryOutcome,
    IgnoreReason,
    PublishOutcome,
    PublishStatus,
    Queue,
    Run,
    Runlane,
    RunStatus,
    SettableClock,
    Wakeup,
    task,
)
from runlane.errors import TransportUnavailable
from runlane.storage import outbox, sessions, tables
from runlane.storage.outbox import CLAIM, MOST_TRIES, REDELIVERY
from tests.engine.post import DONE, Office, office
from tests.engine.sessions import EXPIRY, session_of, take
from tests.engine.tasks import HOUR, echo, flaky, patient
from tests.support import SECOND, database_of, named, raw, types_of

__all__ = ["office"]

MAIN, ASIDE = Queue("main", default=True), Queue("aside")


@task("aside", queue=ASIDE)
def aside(payload: Any) -> Any:
    return payload


def rows(app: Runlane) -> list[Any]:
    """The outbox: run, sequence, status, tries, in the order of the runs."""
    with raw(database_of(app)) as connection:
        table = named(database_of(app), "outbox")
        found = connection.exec_driver_sql(
            f"select run_id, sequence, status, attempts from {table} order by run_id, sequence"
        )
        return [(str(row[0]), *row[1:]) for row in found]


def statuses(app: Runlane) -> list[str]:
    return [row[2] for row in rows(app)]


def wakeup_of(run: Run) -> Wakeup:
    return Wakeup(run.environment, run.id, run.queue, run.updated_at)


def test_a_trigger_publishes_its_wakeup_and_the_delivery_executes_the_run(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, clock=clock)
    run = app.trigger(echo, {"secret": 1}, trace_carrier={"traceparent": "00-1"}).run
    assert office.post.wakeups == [Wakeup("default", run.id, "default", clock(), {"traceparent": "00-1"})]
    assert "secret" not in office.post.wakeups[0].to_json()
    assert rows(app) == [(str(run.id), 2, "published", 1)]
    (done,) = office.deliver_all(app)
    assert (done.outcome, done.reason) == (DeliveryOutcome.EXECUTED, None)
    assert done.run == app.runs.get(run.id)
    assert (done.run.status, done.run.result) == (RunStatus.SUCCEEDED, {"secret": 1})


def test_a_batch_publishes_every_wakeup(office: Office) -> None:
    app = office.app(echo)
    done = app.trigger_many(echo, range(250))
    assert {wakeup.run_id for wakeup in office.post.take()} == {one.run.id for one in done}
    assert office.post.calls == 3


def test_a_run_that_is_found_by_its_key_gets_no_second_wakeup(office: Office) -> None:
    app = office.app(echo)
    for _ in range(2):
        app.trigger(echo, 1, idempotency_key="k")
        app.trigger(echo, 1, singleton_key="s")
    assert len(office.post.take()) == 2
    assert len(rows(app)) == 2


def test_deferred_dispatch_leaves_publishing_to_maintenance(office: Office) -> None:
    app = office.app(echo, dispatch="deferred")
    app.trigger(echo, 1)
    assert (office.post.calls, statuses(app)) == (0, ["pending"])
    assert app.tick().wakeups_published == 1
    assert (len(office.post.wakeups), statuses(app)) == (1, ["published"])
    assert app.tick().wakeups_published == 0


@pytest.mark.parametrize("commits", [True, False])
def test_in_the_callers_transaction_the_wakeup_waits_for_its_commit(shared_url: str, commits: bool) -> None:
    office = Office(shared_url)
    app = office.app(echo)
    with app.lane.database.engine.connect() as connection:
        app.trigger(echo, 1, connection=connection)
        assert office.post.calls == 0
        connection.commit() if commits else connection.rollback()
    assert app.tick().wakeups_published == len(office.post.wakeups) == int(commits)
    app.close()


def test_a_transport_without_wakeups_has_no_outbox(lane_url: str, clock: SettableClock) -> None:
    with Runlane(lane_url, tasks=[echo, patient], clock=clock) as app:
        app.trigger(echo, 1)
        app.run_now(patient, 1)
        clock.advance(2 * HOUR)
        report = app.tick()
        assert (report.deliveries_requested, report.wakeups_published, rows(app)) == (0, 0, [])


@pytest.mark.parametrize("refused", [TransportUnavailable("away"), RuntimeError("boom")], ids=["away", "bug"])
def test_a_trigger_succeeds_when_the_transport_does_not(
    office: Office, clock: SettableClock, refused: BaseException
) -> None:
    app = office.app(echo, clock=clock)
    office.post.refuse = refused
    run = app.trigger(echo, 1).run
    assert (run.status, statuses(app)) == (RunStatus.QUEUED, ["failed"])
    assert app.tick().wakeups_failed == 0  # it is left alone for a moment
    clock.advance(SECOND)
    assert app.tick().wakeups_failed == 1
    office.post.refuse = None
    clock.advance(2 * SECOND)
    assert app.tick().wakeups_published == 1
    assert [one.outcome for one in office.deliver_all(app)] == ["executed"]


def test_a_wakeup_that_fails_again_and_again_backs_off_and_is_given_up(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, clock=clock)
    office.post.answer = lambda _: PublishOutcome(PublishStatus.FAILED, "busy")
    run = app.trigger(echo, 1).run
    waits = []
    while statuses(app) == ["failed"]:
        with database_of(app).read() as tx:
            wait = tx.execute(select(tables.outbox.c.due_at)).scalar_one() - clock()
        clock.advance(wait - SECOND / 1000)
        before = office.post.calls
        app.tick()
        assert office.post.calls == before
        clock.advance(SECOND / 1000)
        app.tick()
        waits.append(wait.total_seconds())
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256] + [300] * 10
    assert (len(waits) + 1, rows(app)[0][2:]) == (MOST_TRIES, ("dead_lettered", MOST_TRIES))
    assert app.execute_next().id == run.id  # workers that look by themselves see it still


def test_a_wakeup_that_is_rejected_is_given_up_at_once_and_the_others_are_not(office: Office) -> None:
    app = office.app(echo)
    no, yes = PublishOutcome(PublishStatus.REJECTED, "too long"), PublishOutcome(PublishStatus.PUBLISHED)
    answers = iter([no, yes, PublishOutcome(PublishStatus.FAILED)])
    office.post.answer = lambda _: next(answers)
    app.trigger_many(echo, [1, 2, 3])
    assert sorted(statuses(app)) == ["dead_lettered", "failed", "published"]


def test_a_transport_that_answers_too_little_breaks_its_contract_and_nothing_is_taken_as_published(
    office: Office,
) -> None:
    app = office.app(echo)
    office.post.publish = lambda wakeups: []  # type: ignore[method-assign, assignment]
    app.trigger_many(echo, [1, 2])
    assert statuses(app) == ["failed", "failed"]


@pytest.mark.parametrize("nonsense", [None, True, "published", DONE.status, (DONE,)])
def test_a_transport_that_answers_nonsense_fails_no_trigger_and_nothing_is_taken_as_published(
    office: Office, clock: SettableClock, nonsense: Any
) -> None:
    app = office.app(echo, clock=clock)
    publish, office.post.answer = office.post.publish, lambda _: nonsense
    assert app.trigger(echo, 1).run.status is RunStatus.QUEUED
    assert statuses(app) == ["failed"]
    clock.advance(SECOND)
    assert app.tick().wakeups_failed == 1
    office.post.answer, office.post.publish = lambda _: DONE, publish  # type: ignore[method-assign]
    clock.advance(HOUR)
    assert app.tick().wakeups_published == 1


def test_an_error_that_cannot_say_what_it_is_fails_no_trigger(office: Office) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("mute")

    app = office.app(echo)
    office.post.refuse = Mute()
    assert app.trigger(echo, 1).run.status is RunStatus.QUEUED
    assert statuses(app) == ["failed"]


def test_a_publisher_that_breaks_fails_no_trigger(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    app = office.app(echo)

    def breaks(*_: Any) -> Any:
        raise TypeError("broken")

    monkeypatch.setattr(outbox, "settle", breaks)
    assert app.trigger(echo, 1).run.status is RunStatus.QUEUED
    assert statuses(app) == ["claimed"]


def test_a_wakeup_that_a_transport_breaks_at_takes_no_others_along(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, clock=clock, dispatch="deferred")
    bad = app.trigger_many(echo, range(5))[2].run.id

    def breaks_at(wakeup: Wakeup) -> PublishOutcome:
        if wakeup.run_id == bad:
            raise ValueError("cannot be written")
        return DONE

    office.post.answer = breaks_at
    report = app.tick()
    assert (report.wakeups_published, report.wakeups_failed) == (4, 1)
    assert bad not in {wakeup.run_id for wakeup in office.post.wakeups}


def test_wakeups_are_not_tried_each_by_itself_where_none_can_be_published(office: Office) -> None:
    app = office.app(echo, dispatch="deferred")
    app.trigger_many(echo, range(5))
    office.post.refuse = TransportUnavailable("away")
    assert (app.tick().wakeups_failed, office.post.calls) == (5, 1)


def test_a_publisher_that_vanishes_is_followed_by_another(office: Office, clock: SettableClock) -> None:
    """After the claim, before or after the provider has it: published at least once."""
    app = office.app(echo, clock=clock)

    class Died(BaseException):
        pass

    office.post.refuse = Died()
    with pytest.raises(Died):
        app.trigger(echo, 1)
    assert statuses(app) == ["claimed"]
    office.post.refuse = None
    assert app.tick().wakeups_published == 0
    clock.advance(CLAIM)
    assert app.tick().wakeups_published == 1


def test_a_publisher_that_comes_back_late_changes_nothing(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, clock=clock)

    def slow(_: Wakeup) -> PublishOutcome:
        clock.advance(CLAIM)
        office.post.answer = lambda _: PublishOutcome(PublishStatus.PUBLISHED)
        assert app.tick().wakeups_published == 1
        return PublishOutcome(PublishStatus.REJECTED)

    office.post.answer = slow
    app.trigger(echo, 1)
    assert statuses(app) == ["published"]


def test_what_waited_for_its_time_is_asked_for_when_it_is_due(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, flaky, patient, clock=clock)
    later = app.trigger(echo, 1, delay="1h").run
    released = app.run_now(patient, 1).run
    retrying = app.run_now(flaky, 1).run
    assert [later.status, released.status, retrying.status] == ["scheduled", "released", "retrying"]
    assert (app.tick().deliveries_requested, office.post.calls) == (0, 0)
    clock.advance(HOUR)
    report = app.tick()
    assert (report.deliveries_requested, report.wakeups_published) == (3, 3)
    for run in (later, released, retrying):
        now = app.runs.get(run.id)
        assert (now.status, now.due_at) == (RunStatus.QUEUED, run.due_at)
    assert app.tick().deliveries_requested == 0
    assert {one.run.id for one in office.deliver_all(app)} == {later.id, released.id, retrying.id}


def test_due_runs_of_every_priority_are_found_behind_those_of_the_future(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, clock=clock)
    due = [app.trigger(echo, 1, delay="1h", priority=priority).run.id for priority in (-5, 0, 7)]
    app.trigger(echo, 1, delay="2h", priority=9)
    clock.advance(HOUR)
    assert app.tick().deliveries_requested == 3
    assert {wakeup.run_id for wakeup in office.post.take()} == set(due)


def test_a_run_that_was_lost_or_given_back_is_asked_for_again(office: Office, clock: SettableClock) -> None:
    app, other = office.app(echo, clock=clock), office.app(echo, clock=clock)
    run = app.trigger(echo, 1).run
    office.post.take()
    take(app, clock)
    clock.advance(EXPIRY)
    report = other.tick()
    assert (report.runs_recovered, report.wakeups_published) == (1, 1)
    assert types_of(app, run.id)[-2:] == ["RunLeaseExpired", "RunDeliveryRequested"]
    assert [one.outcome for one in office.deliver_all(other)] == ["executed"]


def test_a_worker_that_stops_asks_for_what_it_gives_back(office: Office) -> None:
    import threading

    began = threading.Event()

    @task("stops")
    def stops(payload: Any, context: Any) -> None:
        began.set()
        context.signal.wait(20)
        context.signal.raise_if_set()

    app = office.app(stops)
    run = app.trigger(stops).run
    office.post.take()
    worker = app.worker(maintenance=False)
    worker.start()
    assert began.wait(20)
    worker.stop()
    assert types_of(app, run.id)[-2:] == ["RunInterrupted", "RunDeliveryRequested"]
    app.tick()
    assert [wakeup.run_id for wakeup in office.post.take()] == [run.id]


def test_a_wakeup_that_was_lost_is_published_again_while_its_run_waits(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, clock=clock)
    lost, done = app.trigger(echo, 1).run, app.trigger(echo, 2).run
    app.execute_delivery(next(wakeup for wakeup in office.post.take() if wakeup.run_id == done.id))
    clock.advance(REDELIVERY - SECOND)
    assert app.tick().wakeups_published == 0
    clock.advance(SECOND)
    assert app.tick().wakeups_published == 1
    assert [one.run.id for one in office.deliver_all(app)] == [lost.id]
    clock.advance(REDELIVERY)
    assert app.tick().wakeups_published == 0


def test_the_longer_a_run_waits_the_less_often_its_wakeup_is_published_again(
    office: Office, clock: SettableClock
) -> None:
    """Nothing may be lost: the consumers may only be far behind, and further with each message more."""
    app = office.app(echo, clock=clock)
    app.trigger(echo, 1)
    for minutes in (10, 10, 20, 40, 80, 160, 240, 240):
        clock.advance(timedelta(minutes=minutes) - SECOND)
        assert app.tick().wakeups_published == 0
        clock.advance(SECOND)
        assert app.tick().wakeups_published == 1


def test_a_wakeup_whose_run_has_gone_on_is_not_published(office: Office) -> None:
    app = office.app(echo, dispatch="deferred")
    app.trigger(echo, 1)
    app.execute_next()
    report = app.tick()
    assert (report.wakeups_published, office.post.calls, statuses(app)) == (0, 0, ["published"])


def test_a_trigger_tries_each_wakeup_once_and_stops_when_one_fails(office: Office, clock: SettableClock) -> None:
    """However long the provider takes to refuse: what became due again meanwhile is not the trigger's business."""
    app = office.app(echo, clock=clock)

    def slow(_: Wakeup) -> PublishOutcome:
        clock.advance(SECOND)
        return PublishOutcome(PublishStatus.FAILED, "busy")

    office.post.answer = slow
    app.trigger_many(echo, range(250))
    assert office.post.calls == 1
    assert Counter(statuses(app)) == {"failed": 100, "pending": 150}


def test_wakeups_of_queues_that_are_not_known_here_are_left_to_others(office: Office) -> None:
    app = office.app(echo, aside, queues=[MAIN, ASIDE], dispatch="deferred")
    other = office.app(echo, queues=[MAIN])
    app.trigger(aside, 1)
    assert other.tick().wakeups_published == 0
    assert (office.post.calls, statuses(app)) == (0, ["pending"])
    assert app.tick().wakeups_published == 1


@pytest.mark.parametrize("status", ["published", "failed", "rejected"])
def test_the_status_of_an_outcome_may_be_plain_text(status: str) -> None:
    assert PublishOutcome(status).status is PublishStatus(status)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (("sent",), "status of a PublishOutcome must be one of published, failed, rejected; got 'sent'"),
        ((None,), "status of a PublishOutcome must be one of published, failed, rejected; got None"),
        (("failed", ValueError("x")), "detail of a PublishOutcome must be text or None; got ValueError('x')"),
    ],
)
def test_an_outcome_that_cannot_be_is_refused(facts: Any, words: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        PublishOutcome(*facts)
    assert words in str(caught.value)


def test_whatever_a_provider_says_can_be_stored(office: Office) -> None:
    app = office.app(echo)
    answers = iter([PublishOutcome(PublishStatus.FAILED, "\x00\ud800" + 10_000 * "x"), DONE])
    office.post.answer = lambda _: next(answers)
    app.trigger_many(echo, [1, 2])
    assert sorted(statuses(app)) == ["failed", "published"]


def test_a_wakeup_whose_publishers_vanish_again_and_again_is_given_up(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, clock=clock, dispatch="deferred")

    class Died(BaseException):
        pass

    office.post.refuse = Died()
    app.trigger(echo, 1)
    for _ in range(MOST_TRIES):
        with pytest.raises(Died):
            app.tick()
        clock.advance(CLAIM)
    assert app.tick().wakeups_published == 0
    assert statuses(app) == ["dead_lettered"]


def test_a_run_that_a_process_without_wakeups_has_queued_is_delivered_after_a_while(
    shared_url: str, clock: SettableClock
) -> None:
    office = Office(shared_url)
    with Runlane(shared_url, tasks=[echo], clock=clock) as plain:
        run = plain.trigger(echo, 1).run
        delivered = office.app(echo, clock=clock)
        kept = delivered.trigger(echo, 2).run
        assert (delivered.tick().deliveries_requested, len(office.post.take())) == (0, 1)
        clock.advance(REDELIVERY)
        # Looking at every queued run is for the first pass of a process, and for one every ten minutes.
        later = office.app(echo, clock=clock)
        assert later.tick().deliveries_requested == 1
        assert {wakeup.run_id for wakeup in office.post.take()} == {run.id, kept.id}
        assert office.app(echo, clock=clock).tick().deliveries_requested == 0
    for app in office.apps:
        app.close()


def test_a_wakeup_that_was_given_up_is_asked_for_again_unless_it_was_refused_for_good(
    office: Office, clock: SettableClock
) -> None:
    app = office.app(echo, clock=clock)
    office.post.answer = lambda _: PublishOutcome(PublishStatus.REJECTED, "never")
    refused = app.trigger(echo, 1).run
    office.post.answer = lambda _: DONE
    office.post.refuse = TransportUnavailable("away")
    run = app.trigger(echo, 2).run
    for _ in range(80):
        clock.advance(timedelta(minutes=1))
        app.tick()
    assert sorted(statuses(app)) == ["dead_lettered", "dead_lettered"]
    office.post.refuse = None
    app._runtime._next_sweep = 0.0
    assert app.tick().wakeups_published >= 1
    assert run.id in [one.run.id for one in office.deliver_all(app)]
    assert app.runs.get(run.id).is_terminal
    clock.advance(REDELIVERY)
    app._runtime._next_sweep = 0.0
    app.tick()
    assert types_of(app, refused.id) == ["RunCreated", "RunDeliveryRequested"]


@pytest.mark.parametrize("bounds_again", [False, True])
def test_a_run_whose_queue_lost_its_limit_is_asked_for_again(
    office: Office, clock: SettableClock, bounds_again: bool
) -> None:
    """Its reservation has ended, and the wakeup that came with it is of no use any more."""
    bounded = Queue("work", default=True, concurrency_limit=1, dispatch_timeout="10s")
    app = office.app(echo, queues=[bounded], clock=clock)
    run = app.trigger(echo, 1).run
    app.tick()
    office.post.take()
    app.trigger(echo, 2, priority=5)
    clock.advance(timedelta(seconds=11))
    app.tick()
    assert types_of(app, run.id)[-1] == "RunDispatchReservationExpired"
    app = office.app(echo, queues=[bounded if bounds_again else Queue("work", default=True)], clock=clock)
    office.deliver_all(app)
    clock.advance(REDELIVERY)
    app.tick()
    assert run.id in [one.run.id for one in office.deliver_all(app)]


def test_pruning_takes_the_wakeups_along(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, clock=clock)
    app.trigger(echo, 1)
    office.deliver_all(app)
    kept = app.trigger(echo, 2).run
    clock.advance(HOUR)
    assert app.runs.prune("1m").runs == 1
    assert [row[0] for row in rows(app)] == [str(kept.id)]


def test_a_row_without_its_event_is_found_by_the_audit(office: Office) -> None:
    app = office.app(echo)
    run = app.trigger(echo, 1).run
    table = named(database_of(app), "outbox")
    with raw(database_of(app)) as connection:
        connection.exec_driver_sql(f"update {table} set sequence = 1")
    (found,) = app.audit.verify().differences
    assert (found.stream_id, found.sequence, found.field) == (run.id, 1, "outbox")
    with raw(database_of(app)) as connection:
        connection.exec_driver_sql(f"update {table} set sequence = 2")


# What a wakeup is good for.


def ignores(app: Runlane, wakeup: Wakeup, reason: str, **options: Any) -> Delivery:
    """A delivery that executes nothing, and leaves no trace."""
    before = app.audit.count()
    done = app.execute_delivery(wakeup, **options)
    assert (done.outcome, done.reason) == ("ignored", reason)
    assert app.audit.count() == before
    return done


def test_a_wakeup_of_nothing_is_ignored(office: Office) -> None:
    app = office.app(echo)
    ignores(app, Wakeup("default", uuid4(), "default", app.trigger(echo, 1).run.created_at), IgnoreReason.NOT_FOUND)


def test_a_wakeup_of_another_environment_is_ignored(office: Office) -> None:
    app, other = office.app(echo), office.app(echo, environment="other")
    run = other.trigger(echo, 1).run
    ignores(app, wakeup_of(run), IgnoreReason.WRONG_ENVIRONMENT)
    ignores(app, evolve(wakeup_of(run), environment="default"), IgnoreReason.NOT_FOUND)


def test_doubled_and_late_wakeups_are_ignored(office: Office) -> None:
    app = office.app(echo)
    run = app.trigger(echo, 1).run
    app.execute_delivery(wakeup_of(run))
    assert ignores(app, wakeup_of(run), IgnoreReason.TERMINAL).run == app.runs.get(run.id)


def test_an_early_wakeup_is_ignored(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, clock=clock)
    run = app.trigger(echo, 1, delay="1h").run
    ignores(app, wakeup_of(run), IgnoreReason.NOT_DUE)
    clock.advance(HOUR)
    assert app.execute_delivery(wakeup_of(run)).outcome == "executed"


def test_a_wakeup_on_the_wrong_queue_is_ignored(office: Office) -> None:
    app = office.app(echo, aside, queues=[MAIN, ASIDE])
    run = app.trigger(aside, 1).run
    ignores(app, evolve(wakeup_of(run), queue="main"), IgnoreReason.WRONG_QUEUE)
    ignores(app, wakeup_of(run), IgnoreReason.WRONG_QUEUE, queues=[MAIN])
    assert app.execute_delivery(wakeup_of(run), queues=[ASIDE]).outcome == "executed"


def test_a_wakeup_of_a_leased_run_is_ignored(office: Office, clock: SettableClock) -> None:
    app, other = office.app(echo, clock=clock), office.app(echo, clock=clock)
    run = app.trigger(echo, 1).run
    take(app, clock)
    ignores(other, wakeup_of(run), IgnoreReason.ALREADY_LEASED)
    app.runs.cancel(run.id)
    ignores(other, wakeup_of(run), IgnoreReason.CANCELLATION_REQUESTED)


def test_a_wakeup_of_a_task_that_is_not_known_here_is_ignored(office: Office) -> None:
    app, other = office.app(echo), office.app(flaky)
    run = app.trigger(echo, 1).run
    ignores(other, wakeup_of(run), IgnoreReason.UNKNOWN_TASK)


def test_a_wakeup_of_a_paused_queue_is_ignored_and_comes_again(office: Office) -> None:
    app = office.app(echo)
    run = app.trigger(echo, 1).run
    app.queues.pause("default")
    ignores(app, office.post.take()[0], IgnoreReason.NO_CAPACITY)
    app.queues.resume("default")
    assert app.tick().wakeups_published == 1
    assert [one.run.id for one in office.deliver_all(app)] == [run.id]


def test_a_consumer_whose_session_has_ended_takes_another(office: Office, clock: SettableClock) -> None:
    app = office.app(echo, clock=clock)
    run = app.trigger(echo, 1).run
    ended = session_of(app).holder.session_id
    database_of(app).transact(lambda tx: sessions.close_session(tx, ended))
    assert app.execute_delivery(wakeup_of(run)).outcome == "executed"
    assert session_of(app).holder.session_id != ended


def test_an_attempt_that_outlives_its_lease_is_no_fault_of_the_wakeup(office: Office, clock: SettableClock) -> None:
    @task("outlives")
    def outlives(payload: Any) -> None:
        clock.advance(EXPIRY)
        assert other.tick().runs_recovered == 1

    app, other = office.app(outlives, clock=clock), office.app(outlives, clock=clock)
    done = app.execute_delivery(wakeup_of(app.trigger(outlives).run))
    assert (done.outcome, done.reason) == ("ignored", IgnoreReason.LOST_RACE)


def test_the_run_of_a_lost_race_is_as_it_is_then_and_can_be_read(office: Office, clock: SettableClock) -> None:
    @task("outlives.sealed")
    def outlives(payload: Any) -> None:
        clock.advance(EXPIRY)
        assert other.tick().runs_recovered == 1

    app, other = (office.app(outlives, clock=clock, payload_codec=AesGcm(bytes(range(32)))) for _ in range(2))
    run = app.trigger(outlives, {"to": "ann"}).run
    done = app.execute_delivery(wakeup_of(run))
    assert done.reason is IgnoreReason.LOST_RACE
    assert done.run == app.runs.get(run.id)
    assert (done.run.payload, done.run.lease) == ({"to": "ann"}, None)


def test_a_handler_that_fails_is_in_the_run_and_not_in_the_delivery(office: Office) -> None:
    app = office.app(flaky)
    done = app.execute_delivery(wakeup_of(app.trigger(flaky, 1).run))
    assert (done.outcome, done.run.status) == ("executed", RunStatus.RETRYING)


def test_the_async_face_delivers_as_well(office: Office) -> None:
    async def main() -> Delivery:
        async with AsyncRunlane(office.lane, tasks=[echo]) as app:
            await app.trigger(echo, 1)
            return await app.execute_delivery(office.post.take()[0])

    assert asyncio.run(main()).outcome == "executed"


def wakeup_with(carrier: str) -> str:
    facts = '"environment": "e", "queue": "q", "requested_at": "2026-01-01T00:00:00Z"'
    return f'{{{facts}, "run_id": "{uuid4()}", "trace_carrier": {carrier}}}'


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        ('{"environment": "e", "run_id": "r", "queue": "q"}', "must be a JSON object"),
        ('{"environment": "e:", "run_id": "r", "queue": "q", "requested_at": ""}', "environment of the wakeup"),
        ('{"environment": "e", "run_id": "r", "queue": "q", "requested_at": ""}', "run id must be a UUID"),
        (
            '{"environment": "e", "run_id": "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f", "queue": "q", "requested_at": "x"}',
            "requested_at of the wakeup must be an ISO 8601 instant",
        ),
        (wakeup_with('{"a": 1}'), "trace_carrier of the wakeup"),
    ],
)
def test_what_is_no_wakeup_is_refused_by_name(text: str, wrong: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=wrong):
        Wakeup.from_json(text)


def test_a_wakeup_travels_as_json(clock: SettableClock) -> None:
    for carrier in (None, {"a": "b"}):
        wakeup = Wakeup("default", uuid4(), "main", clock(), carrier)
        assert Wakeup.from_json(wakeup.to_json()) == wakeup
