"""Who did what, across runs: by actor, worker and key, page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runlane import Actor, ConfigurationInvalid, Runlane, SettableClock
from runlane.events import Recorded
from tests.engine.tasks import echo

Make = Callable[..., Runlane]
ANN, BOB = Actor.operator("ann"), Actor.operator("bob")


def test_what_an_operator_did(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    run = app.trigger(echo, 1, actor=Actor.application("ann")).run
    app.runs.cancel(run.id, actor=ANN)
    app.queues.pause("default", actor=ANN)
    app.queues.resume("default", actor=BOB)
    mine = app.audit.who(actor=ANN)
    assert [(r.stream_id == run.id, type(r.event).__name__) for r in mine.data] == [
        (False, "QueuePaused"),
        (True, "RunCancelled"),
    ]
    assert app.audit.who(actor="operator:ann") == mine
    assert len(app.audit.who(actor="ann").data) == 4, "the application of that name too"
    assert mine.next_cursor is None
    assert app.audit.who(actor="nobody").data == ()


def test_what_a_worker_did(make_app: Make) -> None:
    app = make_app(echo, worker_id="w1")
    run = app.run_now(echo, 1).run
    assert [(r.stream_id, r.sequence) for r in app.audit.who(worker="w1").data] == [(run.id, 3), (run.id, 2)]
    assert app.audit.who(worker="w2").data == ()


def test_what_was_done_with_a_key(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    first = app.run_now(echo, 1, idempotency_key="k").run
    app.idempotency_keys.reset(echo, "k", actor=ANN)
    second = app.run_now(echo, 1, idempotency_key="k").run
    third, fourth = app.trigger(echo, 1, singleton_key="k").run, app.trigger(echo, 1, concurrency_key="k").run
    app.trigger(echo, 1, idempotency_key="other")
    found = app.audit.who(key="k").data
    births = [r.stream_id for r in found if type(r.event).__name__ == "RunCreated"]
    assert births == [fourth.id, third.id, second.id, first.id]
    assert [type(r.event).__name__ for r in found][3] == "IdempotencyReset"
    assert len(found) == 5


def test_pages_of_who_join_without_a_gap(make_app: Make) -> None:
    app = make_app(echo)
    for n in range(5):
        app.runs.cancel(app.trigger(echo, n, idempotency_key=f"k{n}").run.id, actor=ANN)
    whole = app.audit.who(actor=ANN).data
    seen: list[Recorded] = []
    page = app.audit.who(actor=ANN, limit=2)
    while True:
        seen += page.data
        if page.next_cursor is None:
            break
        app.runs.cancel(app.trigger(echo, 9).run.id, actor=ANN)  # newer than where the page before ended
        page = app.audit.who(actor=ANN, limit=2, cursor=page.next_cursor)
    assert tuple(seen) == whole
    cursor = app.audit.who(actor=ANN, limit=1).next_cursor
    for other in (
        {"actor": BOB, "cursor": cursor},
        {"actor": ANN, "cursor": "nonsense"},
        {"key": "k", "cursor": cursor},
    ):
        with pytest.raises(ConfigurationInvalid, match="cursor"):
            app.audit.who(**other)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "exactly one of actor, worker and key"),
        ({"actor": ANN, "key": "k"}, "exactly one of actor, worker and key"),
        ({"actor": "cook:ann"}, "there is no kind 'cook'; known are system, worker"),
        ({"actor": ":ann"}, "there is no kind ''"),
        ({"actor": 7}, "actor must be a string"),
        ({"worker": "a:b"}, "worker must not contain ':'"),
        ({"key": ""}, "key must have 1 to 255 characters"),
        ({"key": "k", "limit": 501}, "limit must be an integer from 1 to 500"),
    ],
)
def test_a_question_that_cannot_be_is_refused(make_app: Make, asked: Any, says: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=says):
        make_app(echo).audit.who(**asked)
