"""Reading runs: filters, pages that stay stable, and environments that never see each other."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest

from runlane import ConfigurationInvalid, Queue, Runlane, RunNotFound, RunStatus, SettableClock, Task, Trigger, task
from runlane.projections.runs import Run
from tests.engine.tasks import echo, flaky, hopeless, patient
from tests.support import SECOND, START, count, database_of

Make = Callable[..., Runlane]
FIRST, SECOND_QUEUE = Queue("first", default=True), Queue("second")


@task("parent")
def parent(payload: Any) -> Any:
    return None


@pytest.fixture
def app(make_app: Make, clock: SettableClock) -> Runlane:
    return make_app(echo, flaky, hopeless, patient, queues=[FIRST, SECOND_QUEUE], clock=clock)


def pages(app: Runlane, **options: Any) -> list[list[Run]]:
    """Every page, to the end."""
    found, cursor = [], None
    while True:
        page = app.runs.list(cursor=cursor, **options)
        found.append(list(page.data))
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


@pytest.fixture
def varied(app: Runlane, clock: SettableClock) -> list[Run]:
    """A run of each status that two attempts can reach, one second apart."""
    wanted = [
        Trigger(hopeless, 0),
        Trigger(flaky, 1, correlation_id="trip", singleton_key="one", concurrency_key="part"),
        Trigger(patient, 2, queue=SECOND_QUEUE, correlation_id="trip", singleton_key="two", concurrency_key="part"),
        Trigger(echo, 3, idempotency_key="three"),
        Trigger(echo, 4, delay="1d", queue=SECOND_QUEUE),
        Trigger(echo, 5),
    ]
    made = []
    for asked in wanted:
        made += app.trigger_many([asked])
        clock.advance(SECOND)
        if len(made) < 5:
            app.execute_next()
    return [app.runs.get(one.run.id) for one in made]


#: Conditions, and which of the varied runs meet them.
FILTERS: list[tuple[dict, list[int]]] = [
    ({}, [0, 1, 2, 3, 4, 5]),
    ({"statuses": ["failed"]}, [0]),
    ({"statuses": [RunStatus.RETRYING, "released"]}, [1, 2]),
    ({"statuses": ["succeeded"]}, [3]),
    ({"statuses": ["scheduled", "queued"]}, [4, 5]),
    ({"statuses": ["running"]}, []),
    ({"statuses": []}, []),
    ({"tasks": [echo]}, [3, 4, 5]),
    ({"tasks": ["flaky", hopeless]}, [0, 1]),
    ({"tasks": ["unknown"]}, []),
    ({"queues": [SECOND_QUEUE]}, [2, 4]),
    ({"queues": ["first"]}, [0, 1, 3, 5]),
    ({"correlation_id": "trip"}, [1, 2]),
    ({"idempotency_key": "three"}, [3]),
    ({"singleton_key": "one"}, [1]),
    ({"singleton_key": "part"}, []),
    ({"concurrency_key": "part"}, [1, 2]),
    ({"concurrency_key": "one"}, []),
    ({"concurrency_key": "part", "singleton_key": "two"}, [2]),
    ({"idempotency_key": "three", "singleton_key": "one"}, []),
    ({"created_after": START}, [1, 2, 3, 4, 5]),
    ({"created_before": START + 2 * SECOND}, [0, 1]),
    ({"created_after": START + SECOND, "created_before": START + 4 * SECOND}, [2, 3]),
    ({"created_after": (START + SECOND).astimezone(timezone(timedelta(hours=9)))}, [2, 3, 4, 5]),
    ({"correlation_id": "trip", "queues": ["second"]}, [2]),
    ({"tasks": [echo], "statuses": ["succeeded"], "idempotency_key": "three"}, [3]),
    ({"source_run_id": uuid4()}, []),
    ({"schedule_id": "none"}, []),
]


def test_every_filter_keeps_what_matches_in_both_orders(app: Runlane, varied: list[Run]) -> None:
    for wanted, expected in FILTERS:
        found = [varied[n] for n in expected]
        assert list(app.runs.list(order="oldest", **wanted).data) == found, wanted
        assert list(app.runs.list(**wanted).data) == found[::-1], wanted


def test_every_filter_counts_what_it_keeps(app: Runlane, varied: list[Run]) -> None:
    for wanted, expected in FILTERS:
        assert app.runs.count(**wanted) == Counter(varied[n].status for n in expected), wanted


def test_counts_by_status(app: Runlane, varied: list[Run]) -> None:
    assert app.runs.count() == dict.fromkeys(
        (RunStatus(name) for name in ("failed", "retrying", "released", "succeeded", "scheduled", "queued")), 1
    )


def test_a_listed_run_is_the_run_that_get_returns(app: Runlane, varied: list[Run]) -> None:
    for run in app.runs.list().data:
        assert run == app.runs.get(run.id) == app.runs.get(str(run.id))


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_pages_hold_every_run_once_in_order(app: Runlane, order: str) -> None:
    made = [one.run.id for one in app.trigger_many(echo, range(20))]
    for limit in (1, 3, 7, 19, 20, 21):
        found = pages(app, limit=limit, order=order)
        assert [run.id for page in found for run in page] == (made if order == "oldest" else made[::-1])
        assert all(len(page) == limit for page in found[:-1])
        assert found[-1]


def test_newest_first_pages_are_stable_while_runs_are_added(app: Runlane) -> None:
    made = [one.run.id for one in app.trigger_many(echo, range(9))]
    seen, cursor = [], None
    while True:
        page = app.runs.list(limit=2, cursor=cursor)
        seen += [run.id for run in page.data]
        app.trigger_many(echo, range(3))
        if (cursor := page.next_cursor) is None:
            break
    assert seen == made[::-1]


def test_oldest_first_pages_see_each_run_once_while_runs_are_added(app: Runlane) -> None:
    made = [one.run.id for one in app.trigger_many(echo, range(5))]
    first = app.runs.list(limit=2, order="oldest")
    made += [one.run.id for one in app.trigger_many(echo, range(3))]
    seen, cursor = [run.id for run in first.data], first.next_cursor
    while cursor is not None:
        page = app.runs.list(limit=2, order="oldest", cursor=cursor)
        seen += [run.id for run in page.data]
        cursor = page.next_cursor
    assert seen == made


def test_pages_stay_whole_while_runs_change_their_status(app: Runlane) -> None:
    made = [one.run.id for one in app.trigger_many(echo, range(6))]
    page = app.runs.list(limit=3, order="oldest")
    for _ in range(6):
        app.execute_next()
    rest = app.runs.list(limit=3, order="oldest", cursor=page.next_cursor)
    assert [run.id for run in (*page.data, *rest.data)] == made
    assert rest.next_cursor is None


def test_a_cursor_belongs_to_its_filter(app: Runlane) -> None:
    app.trigger_many(echo, range(3))
    cursor = app.runs.list(limit=1).next_cursor
    others: tuple[dict, ...] = (
        {"statuses": ["failed"]},
        {"tasks": ["echo"]},
        {"correlation_id": "x"},
        {"order": "oldest"},
    )
    others += ({"singleton_key": "x"}, {"concurrency_key": "x"})
    for other in others:
        with pytest.raises(ConfigurationInvalid, match="cursor belongs to another filter or order"):
            app.runs.list(limit=1, cursor=cursor, **other)
    assert len(app.runs.list(limit=2, cursor=cursor).data) == 2


def test_a_cursor_belongs_to_its_environment(make_app: Make, lane_url: str) -> None:
    here = make_app(echo)
    here.trigger_many(echo, range(2))
    cursor = here.runs.list(limit=1).next_cursor
    with pytest.raises(ConfigurationInvalid, match="cursor belongs to another"):
        make_app(echo, environment="other").runs.list(limit=1, cursor=cursor)


BAD_CURSORS: list[Any] = ["", "x", "é", "\ud800", "ab$=", "bm90IGpzb24", "bnVsbA", "WyJhIl0", "WyJhIiwiYiJd", "WzEsMl0"]
BAD_CURSORS += [7, b"x", "e30", base64.urlsafe_b64encode(b"[" * 200).decode()]


def test_what_is_no_cursor_is_refused(app: Runlane) -> None:
    for cursor in BAD_CURSORS:
        with pytest.raises(ConfigurationInvalid, match=r"the cursor is not one that runs\.list returned"):
            app.runs.list(cursor=cursor)


BAD_ARGUMENTS: list[tuple[dict, str]] = [
    ({"limit": 0}, "limit must be an integer from 1 to 500; got 0"),
    ({"limit": 501}, "limit must be an integer from 1 to 500; got 501"),
    ({"limit": -1}, "limit must be"),
    ({"limit": True}, "limit must be"),
    ({"limit": "5"}, "limit must be"),
    ({"limit": None}, "limit must be"),
    ({"order": "random"}, "order must be 'newest' or 'oldest'; got 'random'"),
    ({"statuses": ["done"]}, "unknown status 'done'"),
    ({"created_after": datetime(2026, 1, 1)}, "created_after must be timezone-aware"),
    ({"created_before": "yesterday"}, "created_before must be a datetime"),
    ({"source_run_id": "seven"}, "a run id must be a UUID"),
    ({"parent_run_id": 7}, "a run id must be a UUID"),
]


def test_a_bad_argument_is_named(app: Runlane) -> None:
    for bad, message in BAD_ARGUMENTS:
        with pytest.raises(ConfigurationInvalid) as caught:
            app.runs.list(**bad)
        assert message in str(caught.value)


@pytest.mark.parametrize("bad", [{"tasks": "echo"}, {"queues": "first"}, {"statuses": "failed"}], ids=str)
def test_a_text_where_a_list_is_meant_is_refused(app: Runlane, bad: dict) -> None:
    with pytest.raises(ConfigurationInvalid, match=next(iter(bad))):
        app.runs.list(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"correlation_id": "\x00"},
        {"idempotency_key": "\ud800"},
        {"singleton_key": 7},
        {"concurrency_key": "\x00"},
        {"queues": [7]},
        {"tasks": [None]},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_a_filter_value_that_no_run_can_have_is_refused(app: Runlane, bad: dict) -> None:
    with pytest.raises(ConfigurationInvalid, match=next(iter(bad))):
        app.runs.list(**bad)


def test_the_largest_page(make_app: Make) -> None:
    app = make_app(echo)
    app.trigger_many(echo, range(501))
    page = app.runs.list(limit=500)
    assert len(page.data) == 500
    assert len(app.runs.list(limit=500, cursor=page.next_cursor).data) == 1


@pytest.mark.parametrize("id", [uuid4(), str(uuid4())], ids=["uuid", "text"])
def test_a_missing_run_is_told_by_every_read(app: Runlane, id: Any) -> None:
    for read in (app.runs.get, app.runs.events, app.runs.attempts, app.runs.wait, app.audit.verify):
        with pytest.raises(RunNotFound, match=str(id)):
            read(id)


def environments(url: str, tasks: list[Task]) -> tuple[Runlane, Runlane]:
    one = Runlane(url, tasks=tasks, environment="one").start()
    return one, Runlane(one.lane, tasks=tasks, environment="two").start()


def test_environments_see_nothing_of_each_other(lane_url: str) -> None:
    one, two = environments(lane_url, [echo])
    run = one.trigger(echo, 1, idempotency_key="k", correlation_id="c").run
    assert two.runs.list().data == ()
    assert two.runs.count() == {}
    assert two.execute_next() is None
    assert two.worker("drain").run() is None
    for read in (two.runs.get, two.runs.events, two.runs.attempts):
        with pytest.raises(RunNotFound, match="in environment 'two'"):
            read(run.id)
    other = two.trigger(echo, 2, idempotency_key="k")
    assert (other.outcome, other.run.environment) == ("created", "two")
    assert two.runs.list().data == (other.run,)
    assert one.runs.list().data == (run,)
    assert one.execute_next().id == run.id
    assert one.execute_next() is None
    assert (one.audit.verify().runs, two.audit.verify().runs) == (1, 1)
    assert count(database_of(one), "runs") == 2
    one.close()
    two.close()


def test_verify_of_one_run_keeps_to_its_environment(lane_url: str) -> None:
    one, two = environments(lane_url, [echo])
    run = one.trigger(echo, 1).run
    try:
        with pytest.raises(RunNotFound, match="in environment 'two'"):
            two.audit.verify(run.id)
    finally:
        one.close()
        two.close()


def test_instants_come_back_in_utc_to_the_microsecond(make_app: Make, clock: SettableClock) -> None:
    clock.set(datetime(2026, 3, 29, 2, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=2))))
    app = make_app(echo, clock=clock)
    run = app.runs.get(app.trigger(echo, 1, delay=timedelta(milliseconds=1)).run.id)
    assert run.created_at == clock()
    assert run.due_at - run.created_at == timedelta(milliseconds=1)
    assert {run.created_at.tzinfo, run.due_at.tzinfo} == {UTC}
