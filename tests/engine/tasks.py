"""Small tasks that many tests use; what they do is in their payload, so nothing is shared between tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from runlane import Context, Fixed, NonRetryable, Release, Retry, task

HOUR = timedelta(hours=1)


@task("echo")
def echo(payload: Any) -> Any:
    return payload


@task("echo.async")
async def echo_async(payload: Any) -> Any:
    return payload


@task("nothing")
def nothing() -> None:
    """Takes nothing, returns nothing."""


class Flaky(Exception):
    """A failure that may pass."""


@task("flaky", retry=Retry(3, Fixed("10s"), jitter=0.0))
def flaky(payload: Any) -> None:
    raise Flaky(f"not yet: {payload}")


@task("hopeless", retry=Retry(5))
def hopeless(payload: Any) -> None:
    raise NonRetryable("no hope", meta={"payload": payload})


@task("patient", retry=Retry(2))
def patient(payload: Any, context: Context) -> Release | str:
    """Releases its run as often as the payload says."""
    if context.attempt <= payload:
        return context.release(HOUR, reason=f"wait {context.attempt}", meta={"attempt": context.attempt})
    return "done"
