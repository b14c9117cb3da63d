"""The two faces cannot drift apart: the same names, the same parameters."""

from __future__ import annotations

import inspect

import pytest

from runlane import (
    aio,
    aio_auditing,
    aio_following,
    aio_operators,
    app,
    auditing,
    operators,
    projecting,
    steering,
    worker,
)

PAIRS = [
    (app.Runlane, aio.AsyncRunlane),
    (operators.Runs, aio_operators.AsyncRuns),
    (steering.Schedules, aio_operators.AsyncSchedules),
    (operators.IdempotencyKeys, aio_operators.AsyncIdempotencyKeys),
    (steering.Queues, aio_operators.AsyncQueues),
    (auditing.Audit, aio_auditing.AsyncAudit),
    (projecting.Projections, aio_following.AsyncProjections),
    (worker.Worker, aio.AsyncWorker),
]
# A worker's constructor is the engine's business; `worker` makes an AsyncWorker, `follow` an AsyncFollower.
DIFFERENT = {"__init__", "worker", "follow"}


def public(cls: type) -> dict[str, object]:
    found = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    return {name: value for name, value in found.items() if not name.startswith("_")}


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_both_faces_have_the_same_names(sync: type, asynchronous: type) -> None:
    assert set(public(sync)) == set(public(asynchronous))


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_both_faces_take_the_same_parameters(sync: type, asynchronous: type) -> None:
    for name, value in public(sync).items():
        if inspect.isfunction(value) and name not in DIFFERENT:
            other = getattr(asynchronous, name)
            assert inspect.signature(value) == inspect.signature(other), name
            assert inspect.iscoroutinefunction(other), f"{name} is to be awaited"
    if sync is app.Runlane:
        assert inspect.signature(sync) == inspect.signature(asynchronous)
        for name in ("worker", "follow"):
            ours, theirs = (inspect.signature(getattr(cls, name)).parameters for cls in (sync, asynchronous))
            assert list(ours.values()) == list(theirs.values())
