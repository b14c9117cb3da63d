"""Every argument of a trigger, and every value of the corpus in its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runlane import Actor, PayloadInvalid, Queue, Runlane, RunlaneError, Trigger, task
from runlane.projections.runs import Run
from runlane.testing import drain
from runlane.values import ActorType
from tests.engine.tasks import echo
from tests.hostile.corpus import OBJECTS, TEXTS, lanes_for, poison
from tests.hostile.fuzzing import EXAMPLES, anything, junk
from tests.hostile.oracle import Failures, ask, clear, counted, same

Way = Callable[[Runlane, Any], Run]


def tried(apps: list[Runlane], way: Way, check: Callable[[str, Any, Run, Run], None], *, but: str = "^$") -> int:
    """Trigger with each value, and look at each run that is made as it is stored; how many values were taken."""
    failures, taken = Failures(), []
    with counted(apps, taken):
        for name, value in poison():
            if re.search(but, name):
                continue
            some = lanes_for(name, apps)
            try:
                answers = ask(some, lambda app, value=value: way(app, value))
                taken.append(answers)
                for app, run in zip(some, answers, strict=bool(answers)):
                    check(name, value, run, app.runs.get(run.id))
            except Exception as error:
                failures.note(name, error)
    failures.show()
    return sum(map(bool, taken))


WAYS: dict[str, Way] = {
    "trigger": lambda app, value: app.trigger(echo, value).run,
    "trigger_many": lambda app, value: app.trigger_many(echo, [value])[0].run,
    "run_now": lambda app, value: app.run_now(echo, value).run,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_payload_comes_back_equal_or_is_refused(apps: list[Runlane], way: str) -> None:
    def check(name: str, value: Any, run: Run, stored: Run) -> None:
        assert same(value, stored.payload) or type(value) not in (str, int, float, bool, list, dict, tuple)
        assert same(run.payload, stored.payload)

    some = apps if way == "trigger" else apps[:1]
    assert tried(some, WAYS[way], check) > 80
    for app in some:  # and every one of them is executed, and its result can be read
        drain(app)
        page = app.runs.list(limit=500, tasks=[echo])
        assert {run.status for run in page.data} == {"succeeded"}
        assert all(same(run.payload, run.result) for run in page.data)


ARGUMENTS = (
    *("queue", "idempotency_key", "idempotency_ttl", "singleton_key", "concurrency_key", "priority", "run_at", "delay"),
    *("run_id", "correlation_id", "actor", "trace_carrier", "meta", "subject"),
)
#: What a run tells of an argument is mostly under its name.
NAMES = {"run_id": "id", "delay": "run_at", "actor": "id", "subject": "id"}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_an_argument_is_kept_or_refused(apps: list[Runlane], argument: str) -> None:
    def check(name: str, value: Any, run: Run, stored: Run) -> None:
        known = NAMES.get(argument, argument)
        assert getattr(stored, known) == getattr(run, known)
        if type(value) is str and argument in ("correlation_id", "singleton_key", "idempotency_key"):
            assert getattr(stored, known) == value

    more = {"idempotency_key": "of a ttl"} if argument == "idempotency_ttl" else {}
    # A function in the place of a key is called.
    but = "a class|a function" if argument.endswith("_key") else "^$"
    tried(apps, lambda app, value: app.trigger(echo, 1, **{argument: value}, **more).run, check, but=but)


WITHIN: dict[str, Callable[[Any], dict[str, Any]]] = {
    "actor id": lambda value: {"actor": Actor(ActorType.OPERATOR, value)},
    "actor kind": lambda value: {"actor": Actor(value, "ann")},
    "meta": lambda value: {"meta": {"a": value}},
    "a key of meta": lambda value: {"meta": {value: 1}},
    "trace_carrier": lambda value: {"trace_carrier": {"a": value}},
}


@pytest.mark.parametrize("place", WITHIN)
def test_what_stands_within_an_argument_is_looked_at_too(apps: list[Runlane], place: str) -> None:
    def check(name: str, value: Any, run: Run, stored: Run) -> None:
        assert (stored.meta, stored.trace_carrier) == (run.meta, run.trace_carrier)

    def way(app: Runlane, value: Any) -> Run:
        try:
            options = WITHIN[place](value)
        except Exception as error:  # no dict can have it as a key
            raise RunlaneError("no such dict") from error
        return app.trigger(echo, 1, **options).run

    tried(apps, way, check)


def test_an_entry_that_is_none_refuses_all_of_them(apps: list[Runlane]) -> None:
    def way(app: Runlane, value: Any) -> Run:
        return app.trigger_many([Trigger(echo, 1), value])[0].run

    assert tried(apps, way, lambda *_: None) == 0


def test_a_task_that_is_none(apps: list[Runlane]) -> None:
    failures = Failures()
    with counted(apps):
        for name, value in poison():
            try:
                assert ask(apps, lambda app, value=value: app.trigger(value, 1)) == []
                if not isinstance(value, Iterable) or isinstance(
                    value, str
                ):  # what others raise while they iterate is theirs
                    assert ask(apps, lambda app, value=value: app.trigger_many(value, [1])) == []
            except Exception as error:
                failures.note(name, error)
    failures.show()


@attrs.frozen
class Order:
    """A payload with a type."""

    number: int
    customer: str
    lines: list[Any] = attrs.field(factory=list)


@task("order", idempotency_key=lambda order: order.customer)
def order(payload: Order) -> Any:
    return payload.number


@pytest.mark.parametrize("field", ["number", "customer", "lines", "unheard_of"])
def test_a_payload_with_a_type_and_a_key_made_of_it(field: str) -> None:
    failures = Failures()
    with Runlane("memory:", tasks=[order]) as app:
        for name, value in poison():
            payload = {"number": 1, "customer": name.replace(":", ""), "lines": [], field: value}
            try:
                ask([app], lambda app, payload=payload: app.trigger(order, payload))
            except Exception as error:
                failures.note(name, error)
        drain(app)
        assert {run.status for run in app.runs.list(limit=500).data} <= {"succeeded"}
        assert app.audit.verify().identical
    failures.show()


@attrs.define
class Node:
    """May point to itself."""

    next: Any = None


def test_a_record_that_contains_itself_is_too_deep() -> None:
    node = Node()
    node.next = node
    with Runlane("memory:", tasks=[echo]) as app, pytest.raises(PayloadInvalid, match="nested deeper than 64"):
        app.trigger(echo, node)


DRAWN = settings(max_examples=EXAMPLES, suppress_health_check=[*HealthCheck])


@given(anything)
@DRAWN
def test_whatever_is_drawn_comes_back_or_is_refused(apps: list[Runlane], value: Any) -> None:
    answers = ask(apps, lambda app: app.trigger(echo, value).run)
    for app, run in zip(apps, answers, strict=bool(answers)):
        assert same(run.payload, app.runs.get(run.id).payload)


@given(st.dictionaries(st.sampled_from(ARGUMENTS), junk, min_size=1, max_size=4))
@DRAWN
def test_arguments_together(apps: list[Runlane], options: dict[str, Any]) -> None:
    answers = ask(apps, lambda app: app.trigger(echo, 1, **options).run)
    for app, run in zip(apps, answers, strict=bool(answers)):
        stored = app.runs.get(run.id)
        assert (stored.idempotency_key, stored.meta, stored.priority) == (run.idempotency_key, run.meta, run.priority)


def test_a_message_shows_the_beginning_of_a_long_value() -> None:
    with Runlane("memory:", tasks=[echo]) as app:
        for value in (TEXTS["a million"], 10**5000, OBJECTS["laughs"](), OBJECTS["unshowable"]()):
            with pytest.raises(RunlaneError, match="priority must be an integer") as caught:
                app.trigger(echo, 1, priority=value)
            clear(caught.value)
            assert len(str(caught.value)) < 400


def test_a_queue_that_is_asked_nothing_about_itself() -> None:
    with Runlane("memory:", queues=[Queue("main", default=True)], tasks=[echo]) as app:
        with pytest.raises(RunlaneError, match="queue must be a Queue definition"):
            app.trigger(echo, 1, queue=OBJECTS["uncomparable"]())
