"""Handlers that raise or return anything: the attempt ends, the run can be read, and the worker goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runlane import AesGcm, Context, NonRetryable, Release, Retry, Runlane, RunlaneError, task
from runlane.errors import TaskFailed
from tests.engine.tasks import echo
from tests.hostile.corpus import OBJECTS, TEXTS, Hostile, OwnText, Uncomparable, Unshowable, poison, refuse
from tests.hostile.oracle import same

RAISES: dict[str, Callable[[], BaseException]] = {}
RETURNS: dict[str, Callable[[], Any]] = {}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Mute(Exception):
    """Cannot say anything."""

    __str__ = __repr__ = refuse


class Exiting(Exception):
    """Ends the thread that asks what it says."""

    def __str__(self) -> str:
        raise SystemExit(3)


class Interrupting(Exception):
    """Ends what asks, as Ctrl-C would."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


class OwnWords(Exception):
    """Says text of its own kind."""

    def __str__(self) -> str:
        return OwnText("own words")


class Notes(Exception):
    """Has notes that cannot be had."""

    @property
    def __notes__(self) -> Any:
        raise Hostile("no notes")


class Masked(Exception):
    """Has a class that cannot be had."""

    @property
    def __class__(self) -> Any:
        raise Hostile("no class")


class OwnCode(RunlaneError):
    """An application's own error, with a code of its own kind."""

    code = "mine\x00\ud800" * 200  # type: ignore[assignment]


class NoCode(RunlaneError):
    """One without a code."""

    code = Unshowable()  # type: ignore[assignment]


class Undecided(TaskFailed):
    """One that does not say whether it may be retried."""

    retryable = Uncomparable()  # type: ignore[assignment]


def with_name(name: str) -> BaseException:
    """An exception whose class is called so."""
    kind = type("Named", (Exception,), {})
    kind.__qualname__ = name
    return kind("x")


def with_meta(meta: Any) -> BaseException:
    """An error of ours with facts of any kind."""
    error = TaskFailed("x")
    error.meta = meta
    return error


def chained(links: int) -> BaseException:
    """An exception with so many causes."""
    error: BaseException = ValueError("the first")
    for number in range(links):
        following = ValueError(f"because of {number}")
        following.__cause__ = error
        error = following
    return error


def circular() -> BaseException:
    """Two exceptions, each the cause of the other."""
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__context__ = other, one
    return one


def noted(note: Any) -> BaseException:
    """An exception with a note of any kind."""
    error = ValueError("x")
    error.__notes__ = [note]
    return error


RAISES |= {f"a message: {name}": (lambda text=text: ValueError(text)) for name, text in TEXTS.items()}
RAISES |= {f"named: {name}": (lambda text=text: with_name(text)) for name, text in TEXTS.items()}
RAISES |= {f"meta: {name}": (lambda make=make: with_meta(make())) for name, make in OBJECTS.items()}
# Python itself would write out all of what is held many times over.
RAISES |= {
    f"an argument: {name}": (lambda make=make: ValueError(make()))
    for name, make in OBJECTS.items()
    if name not in ("laughs", "a choir", "a knot")
}
RAISES |= {
    "mute": Mute,
    "exiting": Exiting,
    "interrupting": Interrupting,
    "own words": OwnWords,
    "notes": Notes,
    "masked": Masked,
    "own code": lambda: OwnCode("x"),
    "no code": lambda: NoCode("x"),
    "undecided": lambda: Undecided("x"),
    "a note": lambda: noted(Unshowable()),
    "notes that are none": lambda: noted(object()),
    "a syntax error of odd parts": lambda: SyntaxError("x", ("f", "line", object(), 7)),
    "a syntax error of a huge line": lambda: SyntaxError("x", ("f", 10**20, -5, "y" * 100)),
    "a unicode error": lambda: UnicodeDecodeError("utf-8", b"\xff" * 10, 0, 1, "x"),
    "an os error": lambda: OSError(2, "\x00\ud800", "\udcff"),
    "a key error": lambda: KeyError(Unshowable()),
    "an import error": lambda: ImportError(name="\ud800", path="\x00"),
    "a name error": lambda: NameError("x", name=None),
    "a chain": lambda: chained(3000),
    "a circle": circular,
    "a group": lambda: ExceptionGroup("g", [ValueError("\x00"), ExceptionGroup("h", [Mute()])]),
    "exit": lambda: SystemExit("\ud800"),
    "interrupt": KeyboardInterrupt,
    "generator exit": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "stop iteration": lambda: StopIteration(7),
    "base": lambda: BaseException("\x1b[31m"),
    "memory": MemoryError,
    "not retryable": lambda: NonRetryable("x\x00", meta={"a": "\ud800"}),
}
RETURNS |= {name: (lambda value=value: value) for name, value in poison()}
RETURNS |= {
    "a release by hand": lambda: Release("1h", None, None, None),  # type: ignore[arg-type]
    "a release of nothing": lambda: Release(None, None, None, None),
    "a release of both": lambda: Release(timedelta(1), NOW, None, None),
    "a release for ever": lambda: Release(timedelta.max, None, None, None),
    "a release to the end": lambda: Release(None, datetime.max.replace(tzinfo=UTC), None, None),
    "a release of objects": lambda: Release(object(), object(), object(), object()),  # type: ignore[arg-type]
    "a release with a nul": lambda: Release(timedelta(1), None, "\x00", None),
    "a release with a bush": lambda: Release(timedelta(1), None, None, {"a": OBJECTS["a bush"]()}),
    "a release with laughs": lambda: Release(timedelta(1), None, None, {"a": OBJECTS["laughs"]()}),
    "a release with an object": lambda: Release(timedelta(1), None, "x", {"a": object()}),
    "a release naive": lambda: Release(None, datetime(2026, 1, 1), None, None),
}


@task("raises", retry=Retry(1))
def raises(payload: str) -> None:
    raise RAISES[payload]()


@task("raises.async", retry=Retry(1))
async def raises_async(payload: str) -> None:
    raise RAISES[payload]()


@task("returns", retry=Retry(1))
def returns(payload: str) -> Any:
    return RETURNS[payload]()


@task("returns.async", retry=Retry(1))
async def returns_async(payload: str) -> Any:
    return RETURNS[payload]()


@task("changes", retry=Retry(1))
def changes(payload: Any, context: Context) -> Any:
    """Puts something into what it has returned already."""
    facts: dict[str, Any] = {"a": []}
    release = context.release("1h", meta=facts)
    facts["a"].append(object())
    return release


@task("cancels_itself", retry=Retry(1))
def cancels_itself(payload: Any) -> Any:
    error = TaskFailed("x", meta=(facts := {"a": []}))
    facts["a"].append(object())
    raise error


TASKS = [echo, raises, raises_async, returns, returns_async, changes, cancels_itself]


@pytest.fixture(params=["plain", "encrypted"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"tasks": TASKS, **({"payload_codec": AesGcm(bytes(32))} if request.param == "encrypted" else {})}


def everything(app: Runlane) -> None:
    """All runs can be read, in every way."""
    for run in app.runs.list(limit=500, statuses=["failed", "succeeded", "released"]).data:
        assert app.runs.get(run.id) == run
    for run in app.runs.list(limit=20).data:
        assert app.runs.attempts(run.id)
        assert app.audit.timeline(run.id)
    assert app.audit.verify().identical


def test_a_worker_ends_every_attempt_and_goes_on(lane_url: str, options: dict[str, Any]) -> None:
    with Runlane(lane_url, **options) as app:
        asked = [(one, name) for one in (raises, raises_async) for name in RAISES]
        asked += [(one, name) for one in (returns, returns_async) for name in RETURNS]
        asked = [(one, name) for one, name in asked if not one.is_async or ":" not in name]  # the rest is the same
        runs = {}
        for one in (raises, raises_async, returns, returns_async):
            names = [name for chosen, name in asked if chosen is one]
            made = app.trigger_many(one, names)
            runs |= {(one.id, name): found.run.id for name, found in zip(names, made, strict=True)}
        last = [app.trigger(one, 1, priority=-5).run.id for one in (changes, cancels_itself, echo)]
        worker = app.worker("drain", maintenance=False, concurrency=8)
        worker.run()
        assert worker.completed == len(runs) + 3
        assert set(app.runs.count()) <= {"failed", "succeeded", "released"}
        assert [app.runs.get(id).status for id in last] == ["released", "failed", "succeeded"]
        for (task_id, name), id in runs.items():
            run = app.runs.get(id)
            if task_id.startswith("raises"):
                assert (run.status, run.failure.retryable in (True, False)) == ("failed", True), (name, run)
            elif name.startswith("a release"):
                known = name in ("a release by hand", "a release to the end")
                assert run.status == ("released" if known else "failed"), (name, run.failure)
            elif run.status == "succeeded":
                value = RETURNS[name]()
                assert same(value, run.result) or type(value) not in (str, int, float, bool, list, dict), (name, run)
            else:
                assert run.failure.code == "task_failed", (name, run.failure)
                assert len(run.failure.message) < 1000
        everything(app)


@pytest.mark.parametrize("kind", ["raises", "returns"])
def test_the_callers_thread_ends_every_attempt(shared_url: str, kind: str) -> None:
    chosen, cases = (raises, RAISES) if kind == "raises" else (returns, RETURNS)
    some = [name for name in cases if not name.startswith(("named", "an argument", "text"))]
    with Runlane(shared_url, tasks=TASKS) as app:
        for name in some:
            if name == "interrupt":
                continue
            run = app.run_now(chosen, name).run
            assert run.status in ("failed", "succeeded", "released"), name
            assert app.runs.get(run.id) == run
        app.trigger(changes, 1)
        assert app.execute_next().status == "released"
        everything(app)


def test_a_message_is_stored_as_it_is_but_for_what_cannot_be(lane_url: str) -> None:
    with Runlane(lane_url, tasks=TASKS) as app:
        for name, text in TEXTS.items():
            told = app.run_now(raises, f"a message: {name}").run.failure.message
            kept = text.replace("\x00", "\ufffd")
            kept = "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in kept) or "ValueError"
            assert told == (kept if len(kept) <= 4096 else kept[:4095] + "…"), name


def test_nothing_of_an_exception_is_kept_where_failures_are_redacted(sqlite_url: str) -> None:
    with Runlane(sqlite_url, tasks=TASKS, redact_failures=True) as app:
        for name in RAISES:
            if name.startswith(("own code", "no code", "interrupt")):
                continue
            failure = app.run_now(raises, name).run.failure
            assert (failure.message, failure.traceback, failure.exception_type) == ("Task failed.", None, None), name
