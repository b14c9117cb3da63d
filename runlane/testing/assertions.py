"""Everything worked off, and what was triggered."""

from __future__ import annotations

from typing import Any

from runlane.app import Runlane
from runlane.jsontext import dumps
from runlane.payload_codec import PayloadCodec
from runlane.projections.runs import Run
from runlane.tasks import Task


class _AnyPayload:
    def __repr__(self) -> str:
        return "ANY_PAYLOAD"


#: Matches every payload.
ANY_PAYLOAD: Any = _AnyPayload()


def drain(app: Runlane, limit: int = 10_000) -> list[Run]:
    """Execute every run that is due, one after the other in this thread; the runs as they are after their attempts.

    Raises:
        AssertionError: more than `limit` attempts were needed, as by a handler that releases its run for no time.
    """
    done: list[Run] = []
    while (run := app.execute_next()) is not None:
        done.append(run)
        if len(done) > limit:
            raise AssertionError(f"more than {limit} attempts; does a handler release its run without a delay?")
    return done


def assert_triggered(
    app: Runlane, task: Task[..., Any] | str, payload: Any = ANY_PAYLOAD, *, count: int = 1
) -> list[Run]:
    """Fail unless exactly `count` runs of `task` with this payload exist, in whatever status; those runs, oldest first.

    Args:
        payload: an instance of the task's payload type, or its JSON form; left out, every payload counts.

    Raises:
        AssertionError: telling which runs of the task there are.
    """
    known = app.registry.task(task)
    there = _runs_of(app, known)
    wanted = None if payload is ANY_PAYLOAD else dumps(known.payload.to_json(payload))
    found = [run for run in there if wanted is None or dumps(run.payload) == wanted]
    if len(found) != count:
        payloads = ", ".join(dumps(run.payload) for run in there[:10]) or "none at all"
        what = f"task {known.id}" + ("" if wanted is None else f" with payload {wanted}")
        raise AssertionError(f"expected {count} run(s) of {what}, found {len(found)}; triggered were: {payloads}")
    return found


def on_memory(app: Runlane, **options: Any) -> Runlane:
    """The queues and tasks of `app` on a memory lane of their own; not yet started.

    Args:
        options: of ``Runlane``, such as ``clock=SettableClock()``.
    """
    registry = app.registry
    options.setdefault("environment", app.environment)
    options.setdefault("payload_codec", _codec_of(app))  # tasks with a subject need one
    return Runlane("memory:", queues=registry.queues.values(), tasks=registry.tasks.values(), **options)


def _codec_of(app: Any) -> PayloadCodec | None:
    sync: Runlane = getattr(app, "_app", app)  # an AsyncRunlane has one
    return sync._runtime.vault.codec


def _runs_of(app: Runlane, task: Task[..., Any]) -> list[Run]:
    found: list[Run] = []
    cursor = None
    while True:
        page = app.runs.list(tasks=[task], order="oldest", limit=500, cursor=cursor)
        found += page.data
        if (cursor := page.next_cursor) is None:
            return found
