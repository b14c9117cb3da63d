"""The tasks that the lane's suite runs; what their handlers are to do is told by the payload."""

from __future__ import annotations

from typing import Any

from runlane.context import Context
from runlane.policy import Fixed, Retry
from runlane.tasks import Queue, Schedule, task

QUEUE = Queue("work", default=True)
FEW = Queue("few", concurrency_limit=1)


@task("conformance.echo")
def echo(payload: Any = None) -> Any:
    """Returns its payload."""
    return payload


@task("conformance.asynchronous")
async def asynchronous(payload: Any = None) -> Any:
    """The same, as a coroutine."""
    return payload


@task("conformance.second_time", retry=Retry(3, Fixed("1h"), jitter=0))
def second_time(payload: Any, context: Context) -> str:
    """Fails once, and succeeds then."""
    if context.run.counters.failures < 1:
        raise ConnectionError("the first time always fails")
    return "second"


@task("conformance.polling")
def polling(payload: Any, context: Context) -> Any:
    """Releases its run once."""
    if context.attempt < 2:
        return context.release("1h", reason="not there yet")
    return "there"


@task("conformance.stopping")
def stopping(payload: Any, context: Context) -> str:
    """Waits until it is asked to stop."""
    if not context.signal.wait(payload):
        raise TimeoutError("nobody asked it to stop")
    context.signal.raise_if_set()
    return "never"


@task("conformance.idempotent", idempotency_key=str)
def idempotent(payload: str) -> str:
    """Has its payload as its key."""
    return payload


@task("conformance.single", singleton_key="one")
def single(payload: Any = None) -> None:
    """One at a time."""


@task("conformance.few", queue=FEW)
def few(payload: Any = None) -> None:
    """Of a queue with a limit."""


@task("conformance.minutely", schedules=[Schedule("minutely", every="1m")])
def minutely() -> str:
    """Of a schedule."""
    return "tick"
