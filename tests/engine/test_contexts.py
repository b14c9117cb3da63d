"""Context variables that a handler sets are not seen by the next one, whichever thread or task it comes to."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import pytest

from runlane import Runlane, Task, task
from runlane.ahead import Ahead

tenant: ContextVar[int | None] = ContextVar("tenant", default=None)
found: list[int | None] = []


@task("plain")
def plain(payload: int) -> None:
    found.append(tenant.get())
    tenant.set(payload)


@task("coroutine")
async def coroutine(payload: int) -> None:
    found.append(tenant.get())
    tenant.set(payload)


@pytest.mark.parametrize(
    "tasks", [[plain], [coroutine], [plain, coroutine]], ids=lambda tasks: "-".join(one.id for one in tasks)
)
def test_a_handler_begins_with_none_of_the_last_ones_context(
    make_app: Callable[..., Runlane], tasks: list[Task[int, None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ahead, "_estimate", lambda *_: 2)  # most of them begin where another one has just ended
    app = make_app(plain, coroutine)
    for number in range(12):
        app.trigger(tasks[number % len(tasks)], number)
    found.clear()
    app.worker("drain", concurrency=1).run()
    assert found == [None] * 12
