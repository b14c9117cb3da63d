"""What the processes of a chaos do: work, trigger, migrate, or finish what is left."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from time import time as real_time
from typing import Any
from uuid import UUID

from runlane import Runlane, RunlaneError, StorageUnavailable, Task, Trigger
from runlane.session import Session
from runlane.values import new_run_id
from tests.chaos import jobs
from tests.chaos.jobs import Setting, app_of

#: With so many runs waiting, clients make a pause of a second.
_ROOM = 100
#: A client with a steady rate is never further behind it; seconds.
_ARREARS = 3.0


def worker(setting: Setting, name: str, trusting: bool = False, skew: float = 0.0) -> None:
    """A worker process; waits for its database at the start, as whoever restarts it would.

    Args:
        trusting: do without the clock of its own by which a worker that has slept stops to trust its leases, so that
            only the database stands between its late outcomes and the runs.
        skew: seconds by which the clock of this process is wrong.
    """
    if trusting:
        Session.trusted = property(lambda session: not session._is_lost)  # type: ignore[method-assign, assignment]
    if skew:
        _set_clock_wrong(skew)
    while True:
        app = app_of(setting, name)
        try:
            app.start()
            working = app.worker(
                concurrency=setting.concurrency,
                poll_interval=setting.poll,
                maintenance_interval=setting.maintenance,
            )
            working.start()
            break
        except StorageUnavailable:
            app.close()
            time.sleep(0.1)
    _say_ready(setting)
    working.run()
    app.close()


def _say_ready(setting: Setting) -> None:
    """To kill who has not begun to work yet would break little."""
    with open(f"{setting.folder}/ready", "ab", buffering=0) as file:
        file.write(f"{os.getpid()}\n".encode())


def _set_clock_wrong(by: float) -> None:
    """Move every clock that Python code of this process asks for the time of day."""

    class Anything(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, datetime)

    class Wrong(datetime, metaclass=Anything):
        def __new__(cls, *args: Any, **options: Any) -> Any:
            return datetime(*args, **options)  # what it reads or works out is as right as another's

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=by)

        @classmethod
        def utcnow(cls) -> Any:
            return datetime.utcnow() + timedelta(seconds=by)

    time.time = lambda: real_time() + by
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("runlane") and getattr(module, "datetime", None) is datetime:
            module.datetime = Wrong  # type: ignore[attr-defined]


def migrator(setting: Setting, name: str) -> None:
    """Create the tables, beside others who do the same."""
    app = app_of(setting, name)
    app.migrate()
    app.close()


def finisher(setting: Setting, name: str, seconds: float = 60.0) -> None:
    """Keep house and work, with nobody else about, until no run is active."""
    deadline = time.monotonic() + seconds
    with app_of(setting, name) as app:
        while True:
            app.tick()
            app.worker("drain", concurrency=setting.concurrency, maintenance=False).run()
            if not any(number and status.is_active for status, number in app.runs.count().items()):
                return
            assert time.monotonic() < deadline, f"still active: {app.runs.count()}"
            time.sleep(0.05)


def client(setting: Setting, name: str, rate: float) -> None:
    """Trigger and cancel, about `rate` calls a second, until a file says that it is over."""
    over = Path(setting.folder) / "over"
    app = _started(setting, name)
    calling = Client(app, name, f"{setting.folder}/calls-{name}")
    while not over.exists():
        calling.wait_for_room()
        calling.call()
        time.sleep(random.expovariate(rate))
    app.close()


def steady(setting: Setting, name: str, rate: float) -> None:
    """The same at a rate that heeds nothing but the clock; after an outage it makes up for a few seconds of it."""
    over = Path(setting.folder) / "over"
    app = _started(setting, name)
    calling = Client(app, name, f"{setting.folder}/calls-{name}")
    following = time.monotonic()
    while not over.exists():
        calling.call()
        following = max(following + random.expovariate(rate), time.monotonic() - _ARREARS)
        time.sleep(max(0.0, following - time.monotonic()))
    app.close()


def _started(setting: Setting, name: str) -> Runlane:
    """The application, once its database is there."""
    while True:
        app = app_of(setting, name)
        try:
            return app.start()
        except StorageUnavailable:
            app.close()
            time.sleep(0.1)


class Client:
    """Somebody who asks, and notes before and after what was asked and what the answer was."""

    def __init__(self, app: Runlane, name: str, path: str) -> None:
        self.app = app
        self.name = name
        self._notes = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        self._number = 0
        self._made: list[str] = []
        self._asks: list[tuple[Callable[[str], None], float]] = [
            (self.plain, 30),
            (self.with_own_id, 15),
            (self.delayed, 6),
            (self.alike, 6),
            (self.many, 6),
            (self.poured, 0.3),
            (self.own_key, 12),
            (self.shared_key, 10),
            (self.single, 5),
            (self.bounded, 8),
            (self.here, 3),
            (self.cancel, 6),
        ]

    def call(self) -> None:
        """One call, chosen at random."""
        (ask,) = random.choices([ask for ask, _ in self._asks], [weight for _, weight in self._asks])
        ask(self._next())

    def wait_for_room(self) -> None:
        """Now and then look how much is left to do, and let workers catch up: the rest is not worth more waiting."""
        if self._number % 10:
            return
        try:
            active = sum(number for status, number in self.app.runs.count().items() if status.is_active)
        except RunlaneError:
            return
        time.sleep(min(2.0, active / _ROOM))

    def plain(self, call: str) -> None:
        tasks = [jobs.work, jobs.slow, jobs.slow, jobs.polite, jobs.later, jobs.flaky, jobs.fragile, jobs.polls]
        self._trigger(call, random.choice(tasks))

    def with_own_id(self, call: str) -> None:
        self._trigger(call, jobs.work, run_id=new_run_id())

    def delayed(self, call: str) -> None:
        self._trigger(call, jobs.work, delay=f"{random.randint(1, 500)}ms")

    def own_key(self, call: str) -> None:
        """Asked for again, under the same key, until there is an answer; the key is never used for anything else."""
        for _ in range(5):
            if self._trigger(call, jobs.keyed, idempotency_key=f"own-{call.partition('+')[0]}") != "unknown":
                return
            call = f"{call}+"

    def shared_key(self, call: str) -> None:
        key = f"shared-{random.randrange(20)}"
        self._trigger(call, jobs.keyed, idempotency_key=key, idempotency_ttl="active")

    def single(self, call: str) -> None:
        self._trigger(call, jobs.single)

    def bounded(self, call: str) -> None:
        self._trigger(call, jobs.bounded)

    def alike(self, call: str) -> None:
        self._many(call, random.choice([jobs.work, jobs.slow]), random.randint(2, 20))

    def poured(self, call: str) -> None:
        """So many that PostgreSQL gets them another way."""
        self._many(call, jobs.work, 260)

    def _many(self, call: str, task: Task[..., Any], count: int) -> None:
        payloads = [self._payload(call) for _ in range(count)]
        self._note(call=call, kind="bulk", task=task.id, count=count)
        self._answer(call, lambda: self.app.trigger_many(task, payloads))

    def many(self, call: str) -> None:
        """Under ids of its own: all of them or none."""
        ids = [new_run_id() for _ in range(random.randint(2, 10))]
        wanted = [
            Trigger(random.choice([jobs.work, jobs.bounded]), self._payload(call), run_id=run_id, correlation_id=call)
            for run_id in ids
        ]
        self._note(call=call, kind="bulk", count=len(ids), ids=[str(run_id) for run_id in ids])
        self._answer(call, lambda: self.app.trigger_many(wanted))

    def here(self, call: str) -> None:
        """Executed in this process."""

        def run_now() -> list[Any]:
            return [self.app.run_now(jobs.work, self._payload(call), correlation_id=call)]

        self._note(call=call, kind="run_now", task="chaos.work")
        self._answer(call, run_now)

    def cancel(self, call: str) -> None:
        if not self._made:
            return
        run_id = random.choice(self._made[-30:])
        self._note(call=call, kind="cancel", ids=[run_id])

        def cancel() -> list[Any]:
            self.app.runs.cancel(run_id, reason="chaos")
            return []

        self._answer(call, cancel, runs=[run_id])

    def _trigger(self, call: str, task: Task[..., Any], run_id: UUID | None = None, **options: Any) -> str:
        ids = [] if run_id is None else [str(run_id)]
        self._note(call=call, kind="trigger", task=task.id, ids=ids, key=options.get("idempotency_key"))

        def trigger() -> list[Any]:
            return [self.app.trigger(task, self._payload(call), run_id=run_id, correlation_id=call, **options)]

        return self._answer(call, trigger)

    def _answer(self, call: str, ask: Callable[[], list[Any]], runs: list[str] | None = None) -> str:
        try:
            done = ask()
        except RunlaneError as error:
            answer = "unknown" if error.meta.get("outcome") == "unknown" else "failed"
            self._note(call=call, answer=answer, why=f"{error.code}: {error.message}"[:300])
            return answer
        told = [str(one.run.id) for one in done]
        outcomes = [str(getattr(one, "outcome", "created")) for one in done]
        self._note(call=call, answer="ok", runs=told or runs or [], outcomes=outcomes)
        self._made = (self._made + told)[-100:]
        return "ok"

    def _payload(self, call: str) -> dict[str, Any]:
        return {"n": random.randrange(1000), "call": call}

    def _next(self) -> str:
        self._number += 1
        return f"{self.name}-{self._number}"

    def _note(self, **record: Any) -> None:
        os.write(self._notes, (json.dumps(record) + "\n").encode())


ROLES: dict[str, Callable[..., None]] = {role.__name__: role for role in (worker, migrator, finisher, client, steady)}
