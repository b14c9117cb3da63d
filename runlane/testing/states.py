"""Runs in each state, for tests that begin there: made through the engine, with the history that leads there.

The handler is not called: what an attempt comes to is said by the caller.  Leases belong to a worker that sends no
heartbeat; once ``lease_duration`` has passed, ``app.tick()`` finds that it has vanished.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Unpack
from uuid import uuid4

from runlane.app import Runlane
from runlane.capabilities import Capability
from runlane.decisions import Failed, Outcome, Released, Succeeded
from runlane.engine import lease
from runlane.engine.complete import Finished, complete
from runlane.engine.lease import Holder
from runlane.engine.trigger import NewRun, sealed
from runlane.errors import ErrorCode
from runlane.payload_codec import Part
from runlane.policy import ONE_ATTEMPT
from runlane.projections.runs import Run
from runlane.requests import Trigger, TriggerOptions, build
from runlane.storage import sessions
from runlane.storage.transaction import Transaction
from runlane.tasks import Task
from runlane.values import Failure, TriggerOutcome, duration
from runlane.vault import Vault

#: Who holds the leases of these runs.
WORKER = "runlane.testing"


def queued_run(app: Runlane, task: Task[..., Any] | str, payload: Any = None, **options: Unpack[TriggerOptions]) -> Run:
    """A run that waits for a worker; `options` here and below are those of ``trigger``."""
    return app.trigger(task, payload, **options).run


def scheduled_run(
    app: Runlane, task: Task[..., Any] | str, payload: Any = None, **options: Unpack[TriggerOptions]
) -> Run:
    """A run that is not to start before its time, which is in an hour unless `run_at` or `delay` say otherwise."""
    if options.get("run_at") is None:
        options.setdefault("delay", "1h")
    return app.trigger(task, payload, **options).run


def running_run(
    app: Runlane, task: Task[..., Any] | str, payload: Any = None, **options: Unpack[TriggerOptions]
) -> Run:
    """A run that is leased to a worker of which nothing more is heard."""
    return _attempt(app, task, payload, options, None)


def cancellation_requested_run(
    app: Runlane, task: Task[..., Any] | str, payload: Any = None, **options: Unpack[TriggerOptions]
) -> Run:
    """A running run that was asked to stop."""
    return app.runs.cancel(running_run(app, task, payload, **options).id, reason="asked by a test")


def released_run(
    app: Runlane,
    task: Task[..., Any] | str,
    payload: Any = None,
    *,
    released_for: timedelta | str = "1h",
    **options: Unpack[TriggerOptions],
) -> Run:
    """A run whose handler released it."""
    outcome = Released(delay=duration("released_for", released_for), reason="released by a test")
    return _attempt(app, task, payload, options, outcome)


def retrying_run(
    app: Runlane,
    task: Task[..., Any] | str,
    payload: Any = None,
    *,
    message: str = "failed by a test",
    **options: Unpack[TriggerOptions],
) -> Run:
    """A run that has failed once and waits for its next attempt, as its task's policy says.

    Raises:
        ValueError: the task has no retry, so that none of its runs is ever in this state.
    """
    known = app.registry.task(task)
    if known.retry.max_attempts < 2:
        raise ValueError(f"task {known.id} has no retry= with a second attempt: no run of it is ever retrying")
    return _attempt(app, task, payload, options, _failed(message, retryable=True))


def succeeded_run(
    app: Runlane,
    task: Task[..., Any] | str,
    payload: Any = None,
    *,
    result: Any = None,
    **options: Unpack[TriggerOptions],
) -> Run:
    """A run whose handler returned `result`, a JSON value."""
    return _attempt(app, task, payload, options, Succeeded(result))


def failed_run(
    app: Runlane,
    task: Task[..., Any] | str,
    payload: Any = None,
    *,
    message: str = "failed by a test",
    **options: Unpack[TriggerOptions],
) -> Run:
    """A run whose first attempt failed for good, whatever its task's retry budget."""
    return _attempt(app, task, payload, options, _failed(message, retryable=False))


def cancelled_run(
    app: Runlane, task: Task[..., Any] | str, payload: Any = None, **options: Unpack[TriggerOptions]
) -> Run:
    """A run that was cancelled while it waited."""
    return app.runs.cancel(queued_run(app, task, payload, **options).id, reason="asked by a test")


def _failed(message: str, *, retryable: bool) -> Failed:
    return Failed(Failure(ErrorCode.TASK_FAILED, message, retryable))


def _attempt(
    app: Runlane, task: Task[..., Any] | str, payload: Any, options: TriggerOptions, outcome: Outcome | None
) -> Run:
    """A run that has had one attempt, or is in it where there is no outcome yet."""
    app.lane.require(Capability.LEASES_RUNS, "a run that had an attempt")
    runtime = app._runtime
    new = build(app.registry, Trigger(task, payload, **options))
    app.lane.require_keys(new.created)
    runtime.start_to_work()
    (new,) = sealed(runtime.vault, app.environment, [new])

    def work(tx: Transaction) -> Run:
        holder, now = Holder(uuid4(), WORKER), tx.now()
        until = now + runtime.settings.lease_duration
        sessions.open_session(tx, holder.session_id, app.environment, WORKER, now, until)
        run = _leased(app, tx, holder, new)
        if outcome is None:
            return run
        retry = app.registry.task(task).retry if isinstance(outcome, Failed) else ONE_ATTEMPT
        after = complete(
            tx, [Finished(run, _sealed(runtime.vault, run, outcome), retry)], tx.now(), runtime.settings.max_events
        )[0]
        assert after is not None, "the lease was lost in the transaction that took it"
        sessions.close_session(tx, holder.session_id)
        return after

    return runtime.vault.reveal(runtime.database.transact(work, runtime.clock))


def _sealed(vault: Vault, run: Run, outcome: Outcome) -> Outcome:
    """The outcome with its result as it is stored; the key for it was just used for the payload."""
    seal = vault.unlock([run])[0].seal
    return (
        outcome if seal is None or not isinstance(outcome, Succeeded) else Succeeded(seal(Part.RESULT, outcome.result))
    )


def _leased(app: Runlane, tx: Transaction, holder: Holder, new: NewRun) -> Run:
    limit = app.registry.limits().get(new.created.queue)
    made = lease.create_leased(tx, app.environment, holder, new, limit)
    if made.outcome is not TriggerOutcome.CREATED:
        raise ValueError(f"run {made.run.id} owns the key already: {made.outcome}")
    return made.run
