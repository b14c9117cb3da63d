"""Creating runs: every option is kept, and runs made inside a handler know their parent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest

from runlane import (
    Actor,
    AsyncRunlane,
    ConfigurationInvalid,
    PayloadInvalid,
    Queue,
    Runlane,
    RunStatus,
    SettableClock,
    StorageConflict,
    TaskNotFound,
    Trigger,
    task,
)
from runlane.values import APPLICATION, SourceType
from tests.engine.tasks import HOUR, echo, flaky
from tests.support import SECOND, written

Make = Callable[..., Runlane]
MAIN, SIDE = Queue("main", default=True), Queue("side")
MICROSECOND = timedelta(microseconds=1)


@task("urgent", priority=9, queue=SIDE)
def urgent(payload: Any) -> Any:
    return payload


@task("number")
def number(payload: int) -> None:
    """Takes a number."""


@task("keyed", idempotency_key=lambda payload: str(payload))
def keyed(payload: int) -> None:
    """One run for each number."""


@pytest.fixture
def app(make_app: Make, clock: SettableClock) -> Runlane:
    return make_app(echo, flaky, urgent, queues=[MAIN, SIDE], clock=clock)


def test_a_plain_trigger_makes_a_run_that_is_due_now(app: Runlane, clock: SettableClock) -> None:
    run = app.trigger(echo, {"n": 1}).run
    assert run == app.runs.get(run.id)
    assert (run.status, run.task_id, run.queue, run.payload) == (RunStatus.QUEUED, "echo", "main", {"n": 1})
    assert (run.created_at, run.updated_at, run.due_at, run.run_at) == (clock(), clock(), clock(), None)
    assert (run.attempt_count, run.sequence, run.priority, run.lease) == (0, 2, 0, None)
    assert (run.id.version, run.source.type, run.source.parent_run_id) == (7, SourceType.TRIGGER, None)
    assert app.runs.events(run.id)[0].actor == APPLICATION


def test_every_option_is_kept_in_the_run_and_its_first_event(app: Runlane) -> None:
    options = {
        "priority": -7,
        "correlation_id": "trip 4/7: “é”",
        "trace_carrier": {"traceparent": "00-abc-01", "baggage": ""},
        "meta": {"who": ["ann", None, 1.5], "nested": {"a": {}}},
        "idempotency_key": "k",
        "idempotency_ttl": "3h",
        "run_id": uuid4(),
    }
    run = app.trigger(echo, 1, queue=SIDE, actor=Actor.operator("ann"), **options).run
    stored = app.runs.get(run.id)
    assert stored == run
    assert {name: getattr(stored, name) for name in options if name != "run_id"} == {
        name: value for name, value in options.items() if name != "run_id"
    }
    assert (stored.id, stored.queue) == (options["run_id"], "side")
    assert {str(record.actor) for record in app.runs.events(run.id)} == {"operator:ann"}


def test_a_tasks_own_options_hold_until_a_trigger_replaces_them(app: Runlane) -> None:
    own, other = app.trigger(urgent, 1).run, app.trigger(urgent, 2, priority=1, queue=MAIN).run
    assert (own.priority, own.queue) == (9, "side")
    assert (other.priority, other.queue) == (1, "main")
    assert app.trigger(urgent, 3, priority=0).run.priority == 0


@pytest.mark.parametrize("delay", ["90s", timedelta(seconds=90)], ids=str)
def test_a_delayed_run_waits_until_exactly_then(app: Runlane, clock: SettableClock, delay: Any) -> None:
    run = app.trigger(echo, 1, delay=delay).run
    assert (run.status, run.due_at, run.run_at) == (RunStatus.SCHEDULED, clock() + 90 * SECOND, run.due_at)
    clock.set(run.due_at - MICROSECOND)
    assert app.execute_next() is None
    clock.advance(MICROSECOND)
    assert app.execute_next().id == run.id


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-9, minutes=-30))], ids=str)
def test_a_run_at_an_instant_of_any_zone(app: Runlane, clock: SettableClock, zone: Any) -> None:
    run = app.trigger(echo, 1, run_at=(clock() + HOUR).astimezone(zone)).run
    assert (run.status, run.run_at, run.run_at.tzinfo) == (RunStatus.SCHEDULED, clock() + HOUR, UTC)
    assert app.execute_next() is None
    clock.advance(HOUR)
    assert app.execute_next().status is RunStatus.SUCCEEDED


@pytest.mark.parametrize("ago", [timedelta(0), SECOND, timedelta(days=9999)], ids=str)
def test_a_run_at_an_instant_that_has_passed_is_due_now(app: Runlane, clock: SettableClock, ago: timedelta) -> None:
    run = app.trigger(echo, 1, run_at=clock() - ago).run
    assert run.status is RunStatus.QUEUED
    assert app.execute_next().id == run.id


def test_runs_are_executed_by_priority_then_age(app: Runlane, clock: SettableClock) -> None:
    asked = [(0, 0), (5, 1), (-5, 2), (5, 3), (0, 4), (32767, 5), (-32768, 6)]
    for priority, n in asked:
        app.trigger(echo, n, priority=priority)
        clock.advance(SECOND)
    done = [app.execute_next().payload for _ in asked]
    assert done == [n for _, n in sorted(asked, key=lambda one: (-one[0], one[1]))]


def test_a_run_id_of_the_callers_is_never_reused(app: Runlane) -> None:
    id = "019C8F3E-7A52-7B8E-9D54-0C1B2A3D4E5F"
    first = app.trigger(echo, 1, run_id=id).run
    assert first.id == UUID(id)
    before = written(app)
    with pytest.raises(StorageConflict, match="exists already") as caught:
        app.trigger(echo, 2, run_id=first.id)
    assert (caught.value.kind, caught.value.retryable) == ("run_exists", False)
    assert written(app) == before


def test_a_task_can_be_named_by_its_id(app: Runlane) -> None:
    assert app.trigger("echo", 1).run.task_id == "echo"


def other_function(payload: Any) -> None:
    """A task that calls itself echo as well."""


@pytest.mark.parametrize(
    "unknown", ["unknown", "", task("unknown")(other_function), task("echo")(other_function), 7, None]
)
def test_an_unknown_task_is_refused(app: Runlane, unknown: Any) -> None:
    with pytest.raises(TaskNotFound, match="is not registered; pass it to Runlane"):
        app.trigger(unknown, 1)
    assert written(app) == (0, 0, 0)


def test_many_are_created_in_order(app: Runlane) -> None:
    done = app.trigger_many(echo, (n for n in range(50)))
    assert [one.run.payload for one in done] == list(range(50))
    assert [one.run for one in done] == list(app.runs.list(order="oldest").data)
    mixed = app.trigger_many([Trigger(urgent, 1), Trigger("echo", 2, delay="1h", meta={"a": 1}), Trigger(echo)])
    assert [one.run.status for one in mixed] == ["queued", "scheduled", "queued"]
    assert app.trigger_many([]) == app.trigger_many(echo, []) == []


BAD_ENTRIES: list[tuple[Any, type[Exception]]] = [
    (Trigger("unknown"), TaskNotFound),
    (Trigger(echo, object()), PayloadInvalid),
    (Trigger(echo, float("nan")), PayloadInvalid),
    (Trigger(echo, 1, priority=1.5), ConfigurationInvalid),
    (Trigger(echo, 1, delay="never"), ConfigurationInvalid),
    (Trigger(echo, 1, queue=Queue("unknown")), ConfigurationInvalid),
]


@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_bad_entry_refuses_all_and_is_named(app: Runlane, place: int) -> None:
    for entry, kind in BAD_ENTRIES:
        entries = [Trigger(echo, n, idempotency_key=f"k{n}") for n in range(4)]
        entries.insert(place, entry)
        with pytest.raises(kind) as caught:
            app.trigger_many(entries)
        told = f"{caught.value} {' '.join(getattr(caught.value, '__notes__', []))}"
        assert f"entry {place}" in told
    assert written(app) == (0, 0, 0)


def test_one_taken_id_refuses_all(app: Runlane) -> None:
    taken = app.trigger(echo, 1).run
    before = written(app)
    with pytest.raises(StorageConflict) as caught:
        app.trigger_many([Trigger(echo, 1, idempotency_key="k"), Trigger(echo, 2, run_id=taken.id)])
    assert caught.value.kind == "run_exists"
    assert written(app) == before


@pytest.mark.parametrize("settled", [True, False], ids=["given clock", "own clock"])
def test_many_payloads_become_runs_in_their_order(make_app: Make, clock: SettableClock, settled: bool) -> None:
    app = make_app(number, **({"clock": clock} if settled else {}))
    done = [one.run for one in app.trigger_many(number, iter(range(500)))]
    assert [run.payload for run in done] == list(range(500))
    assert [run.id for run in done] == sorted(run.id for run in done)
    assert {run.id: run for run in done} == {run.id: run for run in app.runs.list(limit=500).data}
    moments = {run.created_at for run in done}
    assert len(moments) == 1
    assert not settled or moments == {clock()}
    births = [app.runs.events(run.id)[0] for run in (done[0], done[250], done[499])]
    assert [one.position for one in births] == sorted(one.position or 0 for one in births)
    assert app.audit.verify().identical


def test_one_of_many_payloads_that_does_not_fit_is_named_and_nothing_is_written(make_app: Make) -> None:
    app = make_app(number)
    with pytest.raises(PayloadInvalid) as refused:
        app.trigger_many(number, [*range(400), "four hundred", *range(199)])
    assert refused.value.__notes__ == ["in entry 400 of trigger_many"]
    assert written(app) == (0, 0, 0)
    assert len(app.trigger_many(number, range(300))) == 300


def test_many_payloads_with_keys_or_inside_a_handler_are_not_taken_for_alike(make_app: Make) -> None:
    @task("parent")
    def parent() -> None:
        app.trigger_many(number, range(300))

    app = make_app(keyed, number, parent)
    done = app.trigger_many(keyed, [n // 2 for n in range(500)])
    assert [one.outcome for one in done] == ["created", "reused_idempotent"] * 250
    run = app.run_now(parent).run
    children = app.runs.list(tasks=[number], limit=500).data
    assert len(children) == 300
    assert {child.source.parent_run_id for child in children} == {run.id}


def test_an_error_of_the_callers_own_iterable_passes_unchanged(app: Runlane) -> None:
    error = KeyError("the caller's")

    def payloads() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(KeyError) as caught:
        app.trigger_many(echo, payloads())
    assert caught.value is error
    assert written(app) == (0, 0, 0)


@pytest.mark.parametrize("wrong", [[echo], [{"task": "echo"}], [None], 7], ids=repr)
def test_what_is_no_trigger_is_refused(app: Runlane, wrong: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="trigger_many takes"):
        app.trigger_many(wrong)


@pytest.mark.parametrize("payloads", [7, "text", {"a": 1}, None], ids=repr)
def test_payloads_that_are_no_list_are_refused(app: Runlane, payloads: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"trigger_many\(task, payloads\)"):
        app.trigger_many(echo, payloads)


PARENT_OPTIONS = {"correlation_id": "trip", "trace_carrier": {"traceparent": "00-1"}}


def assert_family(parent_id: UUID, inherited: Any, told: Any, many: list[Any]) -> None:
    for child in (inherited, told, *many):
        assert child.source.parent_run_id == parent_id
        assert child.source.type is SourceType.TRIGGER
    assert (inherited.correlation_id, inherited.trace_carrier) == ("trip", {"traceparent": "00-1"})
    assert (told.correlation_id, told.trace_carrier) == ("own", {})


def test_a_run_triggered_inside_a_handler_knows_its_parent(make_app: Make) -> None:
    @task("parent")
    def parent(payload: Any) -> None:
        app.trigger(echo, "inherits")
        app.trigger(echo, "told", correlation_id="own", trace_carrier={})
        app.trigger_many(echo, ["many"])

    app = make_app(parent, echo)
    run = app.trigger(parent, 1, **PARENT_OPTIONS).run
    app.execute_next()
    children = app.runs.list(parent_run_id=run.id, order="oldest").data
    assert [child.payload for child in children] == ["inherits", "told", "many"]
    assert_family(run.id, *children[:2], list(children[2:]))
    assert app.trigger(echo, "outside").run.source.parent_run_id is None


def test_the_same_in_a_worker_with_both_kinds_of_handlers(make_app: Make) -> None:
    @task("parent.def")
    def parent(payload: Any) -> None:
        app.trigger(echo, payload)

    @task("parent.async")
    async def parent_async(payload: Any) -> None:
        await asyncio.sleep(0)
        app.trigger(echo, payload)

    app = make_app(parent, parent_async, echo)
    parents = [app.trigger(used, n, correlation_id=f"c{n}").run for n in range(10) for used in (parent, parent_async)]
    app.worker("drain", maintenance=False).run()
    for run in parents:
        (child,) = app.runs.list(parent_run_id=run.id).data
        assert (child.payload, child.correlation_id, child.status) == (run.payload, run.correlation_id, "succeeded")


def test_the_same_in_an_async_program(lane_url: str) -> None:
    @task("parent.async")
    async def parent(payload: Any) -> None:
        await app.trigger(echo, "inherits")
        await app.trigger(echo, "told", correlation_id="own", trace_carrier={})
        await app.trigger_many(echo, ["many"])

    async def main() -> None:
        async with app:
            run = (await app.trigger(parent, 1, **PARENT_OPTIONS)).run
            await app.execute_next()
            children = (await app.runs.list(parent_run_id=run.id, order="oldest")).data
            assert_family(run.id, *children[:2], list(children[2:]))
            assert (await app.trigger(echo, "outside")).run.source.parent_run_id is None

    app = AsyncRunlane(lane_url, tasks=[parent, echo])
    asyncio.run(main())


def test_the_calendar_ends_without_harm(app: Runlane, clock: SettableClock) -> None:
    far = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    run = app.trigger(echo, 1, run_at=far).run
    assert app.runs.get(run.id).due_at == far
    with pytest.raises(ConfigurationInvalid, match="delay reaches beyond the year 9999"):
        app.trigger(echo, 1, delay=timedelta(days=3_000_000))
