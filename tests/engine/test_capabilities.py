"""What a lane does not promise is refused before anything is written, on both faces and on the command line."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runlane import AsyncRunlane, ConfigurationInvalid, Lane, Queue, Runlane, RunlaneError, Schedule, Trigger, task
from runlane.capabilities import OF_THE_LANE, OF_THE_STORAGE, Capability
from runlane.errors import CapabilityUnsupported, ErrorCode, TransportUnavailable
from runlane.lanes import lane_of
from runlane.storage.database import Database
from runlane.transport.local import LocalTransport
from runlane.values import new_run_id
from runlane.wakeup import Wakeup
from tests.support import START, at_once, database_of, eventually, written

ID = new_run_id()


def without(capability: Capability, transport: Any = None) -> Lane:
    """A memory lane whose storage promises less than it could do."""

    class Modest(Database):
        @property
        def capabilities(self) -> frozenset[Capability]:
            return super().capabilities - {capability}

    return Lane(Modest("memory:"), transport or LocalTransport(), "modest")


@task("cap.plain")
def plain(payload: Any = None) -> Any:
    return payload


@task("cap.idempotent", idempotency_key="k")
def idempotent() -> None: ...


@task("cap.single", singleton_key="k")
def single() -> None: ...


@task("cap.scheduled", schedules=[Schedule("nightly", cron="0 3 * * *")])
def scheduled() -> None: ...


class Publishing(LocalTransport):
    name = "publishing"

    def publish(self, wakeups: Any) -> Any:
        raise AssertionError("nothing is to be published")


DEFINITIONS: dict[str, tuple[Capability, dict[str, Any], str]] = {
    "limit": (
        Capability.ENFORCES_QUEUE_CONCURRENCY,
        {"queues": [Queue("few", default=True, concurrency_limit=1)]},
        "concurrency_limit of queue 'few'",
    ),
    "schedule": (Capability.CLAIMS_SCHEDULE_OCCURRENCES, {"tasks": [scheduled]}, "schedule 'nightly' of task"),
    "idempotency": (Capability.ENFORCES_IDEMPOTENCY, {"tasks": [idempotent]}, "idempotency_key of task"),
    "singleton": (Capability.ENFORCES_SINGLETON, {"tasks": [single]}, "singleton_key of task"),
}

CALLS: dict[str, tuple[Capability, Callable[[Any], Any]]] = {
    "trigger with a key": (Capability.ENFORCES_IDEMPOTENCY, lambda app: app.trigger(plain, idempotency_key="k")),
    "trigger with a singleton key": (Capability.ENFORCES_SINGLETON, lambda app: app.trigger(plain, singleton_key="k")),
    "trigger_many with a key": (
        Capability.ENFORCES_IDEMPOTENCY,
        lambda app: app.trigger_many([Trigger(plain), Trigger(plain, idempotency_key="k")]),
    ),
    "run_now with a singleton key": (Capability.ENFORCES_SINGLETON, lambda app: app.run_now(plain, singleton_key="k")),
    "run_now": (Capability.LEASES_RUNS, lambda app: app.run_now(plain)),
    "execute_next": (Capability.LEASES_RUNS, lambda app: app.execute_next()),
    "worker": (Capability.LEASES_RUNS, lambda app: app.worker("drain").run()),
    "execute_delivery": (
        Capability.LEASES_RUNS,
        lambda app: app.execute_delivery(Wakeup("default", ID, "default", datetime.now(UTC))),
    ),
    "tick": (Capability.LEASES_RUNS, lambda app: app.tick()),
    "runs.list": (Capability.OPERATOR_READS, lambda app: app.runs.list()),
    "runs.count": (Capability.OPERATOR_READS, lambda app: app.runs.count()),
    "runs.why": (Capability.OPERATOR_READS, lambda app: app.runs.why(ID)),
    "runs.cancel_many": (Capability.OPERATOR_READS, lambda app: app.runs.cancel_many()),
    "runs.rerun_many": (Capability.OPERATOR_READS, lambda app: app.runs.rerun_many()),
    "runs.retry_many": (Capability.OPERATOR_READS, lambda app: app.runs.retry_many()),
    "queues.list": (Capability.OPERATOR_READS, lambda app: app.queues.list()),
    "runs.events": (Capability.READS_RUN_HISTORY, lambda app: app.runs.events(ID)),
    "runs.attempts": (Capability.READS_RUN_HISTORY, lambda app: app.runs.attempts(ID)),
    "audit.verify": (Capability.READS_RUN_HISTORY, lambda app: app.audit.verify()),
    "audit.count": (Capability.READS_RUN_HISTORY, lambda app: app.audit.count()),
    "audit.as_of": (Capability.READS_RUN_HISTORY, lambda app: app.audit.as_of(START)),
    "audit.diff": (Capability.READS_RUN_HISTORY, lambda app: app.audit.diff(ID)),
    "audit.timeline": (Capability.READS_RUN_HISTORY, lambda app: app.audit.timeline(ID)),
    "audit.who": (Capability.READS_RUN_HISTORY, lambda app: app.audit.who(key="k")),
    "runs.get of an event": (Capability.READS_RUN_HISTORY, lambda app: app.runs.get(ID, at_sequence=1)),
    "runs.prune": (Capability.PRUNES_RUNS, lambda app: app.runs.prune("30d")),
    "runs.prune dry": (Capability.PRUNES_RUNS, lambda app: app.runs.prune("30d", dry_run=True)),
    "runs.find_current": (Capability.ENFORCES_IDEMPOTENCY, lambda app: app.runs.find_current(plain, "k")),
    "runs.find_active": (Capability.ENFORCES_SINGLETON, lambda app: app.runs.find_active(plain, singleton_key="k")),
    "keys.reset": (Capability.ENFORCES_IDEMPOTENCY, lambda app: app.idempotency_keys.reset(plain, "k")),
    "schedules.list": (Capability.CLAIMS_SCHEDULE_OCCURRENCES, lambda app: app.schedules.list()),
    "schedules.get": (Capability.CLAIMS_SCHEDULE_OCCURRENCES, lambda app: app.schedules.get("s")),
    "schedules.pause": (Capability.CLAIMS_SCHEDULE_OCCURRENCES, lambda app: app.schedules.pause("s")),
    "schedules.resume": (Capability.CLAIMS_SCHEDULE_OCCURRENCES, lambda app: app.schedules.resume("s")),
    "schedules.trigger": (Capability.CLAIMS_SCHEDULE_OCCURRENCES, lambda app: app.schedules.trigger("s")),
    "schedules.preview": (Capability.CLAIMS_SCHEDULE_OCCURRENCES, lambda app: app.schedules.preview("s")),
    "schedules.occurrences": (Capability.CLAIMS_SCHEDULE_OCCURRENCES, lambda app: app.schedules.occurrences("s")),
}


class NoReads(Lane):
    """A lane that does not promise its own flag."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        return super().capabilities - OF_THE_LANE


def lane_without(capability: Capability) -> Lane:
    if capability in OF_THE_LANE:
        return NoReads(Database("memory:"), LocalTransport(), "modest")
    return without(capability)


def test_the_flags_are_those_of_the_vocabulary() -> None:
    assert {flag.value for flag in OF_THE_STORAGE} == {
        "durable_state", "process_local_state", "reads_run_history", "prunes_runs", "leases_runs",
        "claims_schedule_occurrences", "persists_outbox", "enforces_idempotency", "enforces_singleton",
        "enforces_queue_concurrency",
    }  # fmt: skip
    assert {flag.value for flag in OF_THE_LANE} == {"operator_reads", "production_durable"}


@pytest.mark.parametrize("face", [Runlane, AsyncRunlane])
@pytest.mark.parametrize("which", DEFINITIONS)
def test_definitions_are_refused_when_the_runtime_is_made(face: Any, which: str) -> None:
    capability, definitions, what = DEFINITIONS[which]
    face(lane_of("memory:"), **definitions)
    with pytest.raises(CapabilityUnsupported, match=what) as caught:
        face(without(capability), **definitions)
    assert caught.value.code is ErrorCode.CAPABILITY_UNSUPPORTED
    assert caught.value.meta == {"capability": capability.value, "lane": "modest"}
    assert capability.value in str(caught.value)
    assert not caught.value.retryable


def test_a_transport_that_publishes_needs_an_outbox() -> None:
    with pytest.raises(CapabilityUnsupported, match="transport publishing, which publishes, needs persists_outbox"):
        Runlane(without(Capability.PERSISTS_OUTBOX, transport=Publishing()), tasks=[plain])


@pytest.mark.parametrize("call", CALLS)
def test_calls_are_refused_and_write_nothing(call: str) -> None:
    capability, make = CALLS[call]
    with Runlane(lane_without(capability), tasks=[plain]) as app:
        app.trigger(plain)
        before = written(app)
        with pytest.raises(CapabilityUnsupported, match=capability.value):
            make(app)
        assert written(app) == before


@pytest.mark.parametrize("call", CALLS)
def test_a_lane_that_promises_it_does_not_refuse(call: str) -> None:
    with Runlane("memory:", tasks=[plain]) as app:
        try:
            CALLS[call][1](app)
        except CapabilityUnsupported as error:
            pytest.fail(str(error))
        except RunlaneError:
            pass  # there is no such run or schedule


def test_the_async_face_refuses_the_same() -> None:
    async def refused(call: str) -> None:
        capability, make = CALLS[call]
        async with AsyncRunlane(lane_without(capability), tasks=[plain]) as app:
            with pytest.raises(CapabilityUnsupported, match=capability.value):
                await make(app)

    for call in CALLS:
        asyncio.run(refused(call))


def test_a_trigger_without_keys_needs_nothing_special() -> None:
    for capability in OF_THE_STORAGE - {Capability.DURABLE_STATE, Capability.PROCESS_LOCAL_STATE}:
        with Runlane(without(capability), tasks=[plain]) as app:
            run = app.trigger(plain, 1).run
            assert app.runs.get(run.id).payload == 1


def test_what_needs_no_missing_promise_works_beside_it() -> None:
    """Workers do their maintenance on a lane without schedules."""
    with Runlane(without(Capability.CLAIMS_SCHEDULE_OCCURRENCES), tasks=[plain]) as app:
        run = app.trigger(plain, 1).run
        app.worker("drain").run()
        assert app.runs.get(run.id).status == "succeeded"
        assert app.audit.verify().differences == ()


def promising(*promises: str) -> Database:
    """A storage that promises exactly this."""

    class Storage(Database):
        capabilities = frozenset(promises)  # type: ignore[assignment]

    return Storage("memory:")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Lane("memory:"), "storage of a lane must be a Database, such as .* got str"),  # type: ignore[arg-type]
        (lambda: Lane(Database), "got Database"),  # type: ignore[arg-type]
        (lambda: Lane(promising("durable_state", "flies")), "what no storage can: flies"),
        (lambda: Lane(promising("durable_state", "operator_reads")), "what no storage can: operator_reads"),
        (lambda: Lane(promising("leases_runs")), "one of durable_state or process_local_state, and not both"),
        (lambda: Lane(promising("durable_state", "process_local_state")), "and not both"),
        (lambda: Lane(Database("memory:"), None), "lacks name, start, close, ring, listen, unlisten; got NoneType"),  # type: ignore[arg-type]
        (lambda: Lane(Database("memory:"), LocalTransport), "not its class LocalTransport"),  # type: ignore[arg-type]
        (lambda: Lane(Database("memory:"), LocalTransport(), "a:b"), "lane name must not contain ':'"),
        (lambda: Lane(Database("memory:"), LocalTransport(), ""), "lane name must have 1 to 255"),
    ],
)
def test_a_malformed_lane_says_what_is_missing(make: Callable[[], Lane], said: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=said):
        make()


class Diary:
    """A storage and a transport that write down what happens to them."""

    def __init__(self, url: str) -> None:
        self.told: list[str] = []
        diary = self

        class Storage(Database):
            def migrate(self) -> int:
                diary.told.append("storage starts")
                return super().migrate()

            def dispose(self) -> None:
                diary.told.append("storage closes")
                super().dispose()

        class Bell(LocalTransport):
            fails = False

            def start(self) -> None:
                diary.told.append("transport starts")
                if self.fails:
                    raise TransportUnavailable("the provider is away")

            def close(self) -> None:
                diary.told.append("transport closes")

        self.transport = Bell()
        self.lane = Lane(Storage(url), self.transport)


def test_storage_starts_first_and_closes_last(sqlite_url: str) -> None:
    diary = Diary(sqlite_url)
    for _ in range(2):  # a lane may be started again
        diary.told.clear()
        with Runlane(diary.lane, tasks=[plain]) as app:
            app.trigger(plain)
        assert diary.told == ["storage starts", "transport starts", "transport closes", "storage closes"]


def test_storage_is_closed_when_the_transport_fails_to_start(sqlite_url: str) -> None:
    diary = Diary(sqlite_url)
    diary.transport.fails = True
    app = Runlane(diary.lane, tasks=[plain])
    with pytest.raises(TransportUnavailable, match="provider is away"):
        app.start()
    assert diary.told == ["storage starts", "transport starts", "storage closes"]
    assert database_of(app).engine.pool.checkedin() == 0  # type: ignore[attr-defined]
    diary.transport.fails = False
    with app:
        assert app.runs.get(app.trigger(plain).run.id).status == "queued"


class Watched:
    """A lock that tells how many have come for it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.came = 0

    def __enter__(self) -> None:
        self.came += 1  # of one thread after the other, as each holds the interpreter's lock here
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_who_waits_for_a_start_that_fails_does_not_try_it_again(sqlite_url: str) -> None:
    diary, callers = Diary(sqlite_url), 6
    diary.transport.fails = True
    app = Runlane(diary.lane, tasks=[plain])
    runtime: Any = app._runtime
    runtime._starting = watched = Watched(runtime._starting)
    starts = diary.transport.start

    def start() -> None:
        eventually(lambda: watched.came >= callers)
        starts()

    diary.transport.start = start  # type: ignore[method-assign]

    def trigger() -> str:
        try:
            app.trigger(plain)
        except TransportUnavailable as error:
            return error.message
        return "triggered"

    assert at_once([trigger] * callers) == ["the provider is away"] * callers
    assert diary.told.count("transport starts") == 1
    diary.transport.fails = False
    assert trigger() == "triggered", "the next one tries again"
    app.close()


PROGRAM = """
import runlane
from runlane.capabilities import Capability
from runlane.storage.database import Database

class Modest(Database):
    @property
    def capabilities(self):
        return super().capabilities - {Capability.PRUNES_RUNS, Capability.ENFORCES_QUEUE_CONCURRENCY}

lane = runlane.Lane(Modest("sqlite:///modest.db"), name="modest")
app = runlane.Runlane(lane)
def bounded():
    return runlane.Runlane(lane, queues=[runlane.Queue("few", default=True, concurrency_limit=1)])
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--app", "modest:app", "runs", "prune", "--older-than", "30d"], "runs.prune needs prunes_runs"),
        (["--app", "modest:bounded", "runs", "list"], "needs enforces_queue_concurrency"),
    ],
)
def test_the_command_line_says_it_in_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "modest.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "runlane", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
