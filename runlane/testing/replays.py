"""Recorded attempts, tried again with today's handler."""

from __future__ import annotations

from collections.abc import Iterable

from runlane.app import Runlane
from runlane.decisions import Failed, Interrupted, Outcome, Released, Succeeded
from runlane.executor import Execution, Executor
from runlane.export import fixtures


def assert_same_outcome(app: Runlane, history: Iterable[str], attempt: int) -> Outcome:
    """Fail unless the handler, called as it was in this attempt, comes to the same kind of outcome; the new outcome.

    The handler is called with the recorded payload and with a context of the run as it was then; nothing is stored.
    Kinds are: it succeeded, it released the run, it failed (with the same code, and again to be retried or not).

    Args:
        history: the run's events as lines of an export, as ``runlane audit fixture`` writes them.
        attempt: its number; one that ended as its handler decided.

    Raises:
        AssertionError: naming both outcomes.
        TaskNotFound: `app` has no such task.
        ValueError: this attempt did not end as its handler decided.
    """
    then = fixtures.decided(fixtures.history(history)).get(attempt)
    if then is None:
        raise ValueError(f"attempt {attempt} is none that ended as its handler decided")
    executor = Executor(1, lambda execution, outcome: None)
    try:
        now = executor.execute(Execution(then.run, app.registry.task(then.run.task_id)))
    finally:
        executor.close()
    if _kind(now) != _kind(then.outcome):
        raise AssertionError(
            f"attempt {attempt} of run {then.run.id}: it {_said(then.outcome)} when it was recorded, "
            f"and now it {_said(now)}"
        )
    return now


def _kind(outcome: Outcome) -> tuple[object, ...]:
    if isinstance(outcome, Failed):
        return Failed, str(outcome.failure.code), outcome.failure.retryable
    return (type(outcome),)


def _said(outcome: Outcome) -> str:
    match outcome:
        case Succeeded(result=result):
            return f"returned {result!r}"
        case Released(reason=reason):
            return "released the run" + (f" ({reason})" if reason else "")
        case Failed(failure=failure):
            again = "" if failure.retryable else ", not to be retried"
            return f"failed with {failure.code}: {failure.message}{again}"
        case Interrupted(reason=reason):
            return f"was interrupted ({reason})"
