"""Definitions of bounded queues and concurrency keys: what they take, and that each mistake is one clear refusal."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs
import pytest

from runlane import Queue, Runlane, task
from runlane.errors import ConfigurationInvalid
from runlane.registry import Registry
from runlane.requests import Trigger, build

DEFAULT = Queue("default", default=True, concurrency_limit=2)


@attrs.frozen
class Order:
    customer: str


@task("plain")
def plain(payload: Any) -> None:
    """Has no key."""


@task("keyed", concurrency_key="printer")
def keyed(payload: Any) -> None:
    """Has a fixed key."""


@task("order", concurrency_key=lambda order: f"customer-{order.customer}")
def order(payload: Order) -> None:
    """Has a key by payload."""


REGISTRY = Registry.of([DEFAULT, Queue("free"), Queue("single", concurrency_limit=1)], [plain, keyed, order])


def key_of(used: Any, payload: Any, **options: Any) -> str | None:
    return build(REGISTRY, Trigger(used, payload, **options)).created.concurrency_key


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "3", 2**31])
def test_a_limit_is_a_positive_integer(limit: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="concurrency_limit must be an integer of at least 1"):
        Queue("q", concurrency_limit=limit)


@pytest.mark.parametrize("timeout", ["30s", timedelta(seconds=30)])
def test_a_dispatch_timeout_is_a_duration_and_needs_a_limit(timeout: Any) -> None:
    assert Queue("q", concurrency_limit=1, dispatch_timeout=timeout).dispatch_timeout == timeout
    with pytest.raises(ConfigurationInvalid, match="dispatch_timeout but no concurrency_limit"):
        Queue("q", dispatch_timeout=timeout)


@pytest.mark.parametrize("timeout", ["soon", "0s", 30, timedelta(0)])
def test_a_dispatch_timeout_that_is_no_duration_is_refused(timeout: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="dispatch_timeout of queue q"):
        Queue("q", concurrency_limit=1, dispatch_timeout=timeout)


def test_the_registry_knows_which_queues_are_bounded() -> None:
    assert REGISTRY.limits() == {"default": 2, "single": 1}
    assert Registry.of([], []).limits() == {}


def test_a_queue_with_another_limit_is_another_definition() -> None:
    with pytest.raises(ConfigurationInvalid, match="not registered"):
        REGISTRY.registered(Queue("single", concurrency_limit=2))


def test_the_key_is_the_tasks_or_what_its_function_says() -> None:
    assert key_of(plain, 1) is None
    assert key_of(keyed, 1) == "printer"
    assert key_of(order, Order("ann")) == "customer-ann"


def test_the_key_of_a_trigger_replaces_the_tasks() -> None:
    assert key_of(plain, 1, concurrency_key="k") == "k"
    assert key_of(order, Order("ann"), concurrency_key="k") == "k"


@pytest.mark.parametrize("key", ["", "a:b", "x" * 256, "a\nb", 7])
def test_a_key_that_is_no_identifier_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="concurrency_key"):
        key_of(plain, 1, concurrency_key=key)
    made = task("t", concurrency_key=lambda payload: key)(lambda payload: None)
    registry = Registry.of([DEFAULT], [made])
    with pytest.raises(ConfigurationInvalid, match="concurrency_key"):
        build(registry, Trigger(made, 1))
    with pytest.raises(ConfigurationInvalid, match="concurrency_key of task t"):
        task("t", concurrency_key=key)


def test_the_key_is_stored_with_the_run() -> None:
    with Runlane("memory:", queues=[DEFAULT], tasks=[plain, order]) as app:
        run = app.trigger(order, Order("ann")).run
        assert app.runs.get(run.id).concurrency_key == "customer-ann"
        assert app.run_now(plain, 1, concurrency_key="k").run.concurrency_key == "k"
        assert app.audit.verify().identical
