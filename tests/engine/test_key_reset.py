"""Resetting an idempotency key: an ended owner's only, told in the key's own stream."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runlane import Actor, ConfigurationInvalid, Runlane, SettableClock
from runlane.errors import RunStateInvalid
from tests.engine.tasks import echo, hopeless
from tests.support import database_of, execute

Make = Callable[..., Runlane]
ANN = Actor.operator("ann")


def test_a_reset_key_makes_a_new_run(make_app: Make, clock: SettableClock) -> None:
    app = make_app(echo, clock=clock)
    first = app.trigger(echo, 1, idempotency_key="k").run
    app.execute_next()
    assert app.runs.find_current(echo, "k").id == first.id
    assert app.idempotency_keys.reset(echo, "k", actor=ANN, reason="wrong price") is True
    assert app.runs.find_current(echo, "k") is None
    assert app.idempotency_keys.reset(echo, "k") is False, "nothing is left to free"
    second = app.trigger(echo, 2, idempotency_key="k")
    assert second.outcome == "created"
    assert app.trigger(echo, 3, idempotency_key="k").run.id == second.run.id
    app.execute_next()
    assert app.idempotency_keys.reset(echo, "k") is True
    stored = execute(database_of(app), "select sequence, actor from {events} where type = 'idempotency.reset'")
    assert sorted(stored) == [(1, "operator:ann"), (2, "application:app")]
    assert app.audit.verify().identical


def test_an_active_owner_keeps_its_key(make_app: Make) -> None:
    app = make_app(echo)
    run = app.trigger(echo, 1, idempotency_key="k").run
    with pytest.raises(RunStateInvalid, match=f"run {run.id} owns the key and is still queued"):
        app.idempotency_keys.reset(echo, "k")
    assert app.runs.find_active(echo, idempotency_key="k") == run


def test_where_nothing_is_kept_nothing_is_freed(make_app: Make) -> None:
    app = make_app(echo, hopeless)
    assert app.idempotency_keys.reset(echo, "never used") is False
    app.trigger(hopeless, 1, idempotency_key="k")
    app.execute_next()
    assert app.idempotency_keys.reset(hopeless, "k") is False, "a failed owner has freed it"
    with pytest.raises(ConfigurationInvalid, match="idempotency_key"):
        app.idempotency_keys.reset(echo, "a:b")


def test_verify_names_a_reset_that_the_table_forgot(make_app: Make) -> None:
    app = make_app(echo)
    app.trigger(echo, 1, idempotency_key="k")
    app.execute_next()
    app.idempotency_keys.reset(echo, "k")
    execute(database_of(app), "update {idempotency_keys} set reset_at = null")
    assert [one.field for one in app.audit.verify().differences] == ["idempotency_keys.reset_at"]
    execute(database_of(app), "delete from {idempotency_keys}")
    assert "idempotency_keys" in [one.field for one in app.audit.verify().differences]
    app.trigger(echo, 2, idempotency_key="k")  # the row is back


def test_find_active_wants_one_key(make_app: Make) -> None:
    app = make_app(echo)
    for options in ({}, {"idempotency_key": "a", "singleton_key": "b"}):
        with pytest.raises(ConfigurationInvalid, match="exactly one"):
            app.runs.find_active(echo, **options)
