"""Real processes on one database: killed, stopped, asked to leave, and all at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from runlane import Run, Runlane, RunStatus
from runlane.events import RunInterrupted, RunLeased, RunLeaseExpired
from tests.acceptance.programs import BATCH, TASKS, Work, deaf, listen, mark
from tests.stateful.invariants import HISTORIES, Stored

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 40.0  # seconds; hit only by a failure


class Fleet:
    """Processes of one test, all of them gone at its end."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.marks = folder / "marks"
        self._folder = folder
        self._started: list[tuple[subprocess.Popen[str], Path]] = []
        self._expected_ends: set[int] = set()

    def start(self, program: str, *arguments: str, gate: str | None = None) -> subprocess.Popen[str]:
        """Start a program of programs.py; with a gate, handlers that are to hold stay until ``open(gate)``."""
        errors = self._folder / f"{program}-{len(self._started)}.err"
        gates = {} if gate is None else {"RUNLANE_TEST_GATE": str(self._folder / gate)}
        with errors.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.acceptance.programs", program, self.url, *arguments],
                cwd=ROOT,
                env=os.environ | {"RUNLANE_TEST_MARKS": str(self.marks)} | gates,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self._started.append((process, errors))
        return process

    def open(self, gate: str) -> None:
        """Let the handlers behind a gate end."""
        (self._folder / gate).touch()

    def kill(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL, and wait until it is dead."""
        self._expected_ends.add(process.pid)
        process.kill()
        process.wait(PATIENCE)

    def ready(self, process: subprocess.Popen[str]) -> None:
        """Wait until a program says that it may be signalled, or is about to begin."""
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", self.errors()

    def terminate(self, process: subprocess.Popen[str], within: float = PATIENCE) -> int:
        """SIGTERM, and the exit code."""
        self._expected_ends.add(process.pid)
        process.terminate()
        return process.wait(within)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Poll until `holds`; fails in time, and at once when a process has died that should not."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            for process, errors in self._started:
                if process.poll() is not None and process.pid not in self._expected_ends:
                    raise AssertionError(f"a process ended with {process.returncode}: {errors.read_text()}")
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s\n{self.errors()}"
            time.sleep(0.02)

    def marked(self) -> list[tuple[UUID, int, str]]:
        """What the handlers wrote: run, attempt, worker."""
        if not self.marks.exists():
            return []
        rows = [line.split() for line in self.marks.read_text().splitlines()]
        return [(UUID(run), int(attempt), worker) for run, attempt, worker in rows]

    def errors(self) -> str:
        """Everything the processes logged."""
        return "\n".join(errors.read_text() for _, errors in self._started)

    def end(self) -> None:
        """Kill what is left, by its handle."""
        for process, _ in self._started:
            if process.poll() is None:
                process.kill()  # also ends one that is stopped
            process.wait(PATIENCE)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


@pytest.fixture
def fleet(tmp_path: Path, shared_url: str) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, shared_url)
    try:
        yield fleet
    finally:
        fleet.end()


@pytest.fixture
def app(fleet: Fleet) -> Iterator[Runlane]:
    """The test's own eyes; at the end every history has to be sound."""
    with Runlane(fleet.url, tasks=TASKS) as app:
        yield app
        fleet.end()
        stored = Stored.of(app)
        for holds in HISTORIES:
            holds(stored)


def leased_to(app: Runlane, worker: str) -> dict[UUID, UUID]:
    """The runs that a worker holds, with the session."""
    running = app.runs.list(statuses=[RunStatus.RUNNING], limit=500).data
    return {run.id: run.lease.session_id for run in running if run.lease is not None and run.lease.worker_id == worker}


def all_ended(app: Runlane) -> bool:
    return all(status in ("succeeded", "failed", "cancelled") for status in app.runs.count())


def grown(app: Runlane, to: int) -> bool:
    return sum(app.runs.count().values()) >= to


def every_run(app: Runlane) -> list[Run]:
    found: list[Run] = []
    cursor = None
    while True:
        page = app.runs.list(limit=500, cursor=cursor)
        found.extend(page.data)
        if (cursor := page.next_cursor) is None:
            return found


def test_workers_finish_what_one_of_them_was_killed_over(fleet: Fleet, app: Runlane) -> None:
    """Invariants 1 to 6 after a SIGKILL in the middle of handlers: effects at least once, outcomes exactly once."""
    created = [triggered.run.id for triggered in app.trigger_many(mark, [Work(hold=n > 40) for n in range(300)])]
    victim = fleet.start("worker", "victim", "4", gate="never")
    # Alone at first: the others might finish everything before it has begun.  Before it is in the middle of those that
    # wait, a lease may stand beside four others whose outcomes are still on their way.
    held = set(created[41:])

    def is_in_the_middle() -> bool:
        leased = leased_to(app, "victim").keys()
        return len(leased) == 4 and leased <= held

    fleet.until(is_in_the_middle, "the victim is in the middle of four runs")
    others = [fleet.start("worker", name, "4") for name in ("second", "third")]
    fleet.kill(victim)
    abandoned = leased_to(app, "victim")
    assert len(abandoned) == 4
    fleet.until(lambda: all_ended(app), "the others finish everything")
    assert app.runs.count() == {RunStatus.SUCCEEDED: 300}
    for run_id, session in abandoned.items():
        history = [record.event for record in app.runs.events(run_id)]
        losses = [event for event in history if isinstance(event, RunLeaseExpired)]
        assert [loss.session_id for loss in losses] == [session]
        first, second = app.runs.attempts(run_id)
        assert first.worker_id == "victim"
        assert second.worker_id in ("second", "third")
        run = app.runs.get(run_id)
        assert (run.attempt_count, run.lost_count, run.failure_count) == (2, 1, 0)
        assert run.result == second.worker_id
    marks = Counter(run_id for run_id, _, _ in fleet.marked())
    assert set(marks) == set(created)
    assert {run_id for run_id, times in marks.items() if times > 1} <= set(abandoned)
    assert [fleet.terminate(other) for other in others] == [0, 0]


def test_a_worker_that_slept_through_its_lease_writes_nothing_and_goes_on(fleet: Fleet, app: Runlane) -> None:
    """Invariants 3 and 4: it wakes up with its results while another is in the middle of the same runs."""
    app.trigger_many(mark, [Work(hold=True)] * 12)
    sleeper = fleet.start("worker", "sleeper", "4", gate="sleeper")
    fleet.until(lambda: len(fleet.marked()) == 4, "four handlers of the sleeper are under way")
    stop_outside_of_transactions(fleet, sleeper)
    taken = leased_to(app, "sleeper")
    assert len(taken) == 4
    other = fleet.start("worker", "other", "24", gate="other")
    fleet.until(lambda: len(leased_to(app, "other")) == 12, "the other one takes everything over")
    histories = {run_id: app.runs.events(run_id) for run_id in taken}
    fleet.open("sleeper")
    os.kill(sleeper.pid, signal.SIGCONT)
    fleet.until(lambda: "outcomes of a lost worker session" in fleet.errors(), "the sleeper drops what it has")
    assert {run_id: app.runs.events(run_id) for run_id in taken} == histories
    fleet.open("other")
    fleet.until(lambda: all_ended(app), "the other one ends its runs")
    assert fleet.terminate(other) == 0
    later = {triggered.run.id for triggered in app.trigger_many(mark, [Work()] * 20)}
    fleet.until(lambda: all_ended(app), "the sleeper goes on with new runs")
    for run_id in taken:
        assert app.runs.get(run_id).result == "other"
        assert [attempt.worker_id for attempt in app.runs.attempts(run_id)] == ["sleeper", "other"]
    assert {app.runs.get(run_id).result for run_id in later} == {"sleeper"}
    assert not sessions_of(app, later) & set(taken.values()), "a lost session is never revived"
    assert fleet.terminate(sleeper) == 0


def test_a_stopping_worker_gives_a_long_run_back_and_leaves(fleet: Fleet, app: Runlane) -> None:
    run_id = app.trigger(listen).run.id
    worker = fleet.start("worker", "leaving", "2")
    fleet.ready(worker)
    fleet.until(lambda: bool(fleet.marked()), "the handler is under way")
    assert fleet.terminate(worker) == 0
    assert_interrupted(app, run_id)
    assert app.tick().runs_recovered == 0


def test_a_second_signal_gives_even_a_deaf_run_back_at_once(fleet: Fleet, app: Runlane) -> None:
    run_id = app.trigger(deaf).run.id
    worker = fleet.start("worker", "leaving", "2")
    fleet.ready(worker)
    fleet.until(lambda: bool(fleet.marked()), "the handler is under way")
    worker.terminate()
    fleet.until(lambda: "stopping gracefully" in fleet.errors(), "the first signal is heeded")
    with suppress(subprocess.TimeoutExpired):
        assert fleet.terminate(worker, within=5) == 0
    if worker.returncode is None:  # the second one came too soon after the first (see the next test), or it is slow:
        assert fleet.terminate(worker, within=10) in (0, -signal.SIGTERM)  # run() may have ended, and heeds no more
    assert_interrupted(app, run_id)


def test_a_second_signal_may_come_at_any_moment(fleet: Fleet, app: Runlane) -> None:
    run_id = app.trigger(deaf).run.id
    worker = fleet.start("two_signals", "leaving")
    fleet.ready(worker)
    fleet.until(lambda: bool(fleet.marked()), "the handler is under way")
    assert fleet.terminate(worker, within=6) == 0
    assert_interrupted(app, run_id)


@pytest.mark.parametrize(
    "moment",
    ["before", "after"],
)
def test_a_worker_heeds_signals_from_its_first_moment(fleet: Fleet, app: Runlane, moment: str) -> None:
    app.trigger(listen)
    worker = fleet.start("early_signal", "early", moment)
    said, _ = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0, fleet.errors()
    assert said.strip() == "", "run() has returned, but the worker goes on"
    assert leased_to(app, "early") == {}


def test_a_killed_process_leaves_whole_batches_or_none(fleet: Fleet, app: Runlane) -> None:
    """Invariant 1: all or none of each ``trigger_many``, and all of what was acknowledged."""
    acknowledged: set[str] = set()
    for name in ("a", "b", "c"):
        before = len(every_run(app))
        process = fleet.start("batches", name)
        fleet.until(partial(grown, app, before + 2 * BATCH), "two more batches are there")
        fleet.kill(process)
        assert process.stdout is not None
        acknowledged.update(process.stdout.read().split())
    stored = Counter(run.correlation_id for run in every_run(app))
    assert set(stored.values()) == {BATCH}
    assert acknowledged <= set(stored)


def test_one_key_triggered_by_four_processes_at_once_makes_one_run(fleet: Fleet, app: Runlane) -> None:
    """Invariant 7, on fifty keys in a row."""
    answers = run_at_once(fleet, [("same_keys", "50")] * 4)
    ids = [[line.split()[1] for line in answer] for answer in answers]
    assert ids == [ids[0]] * 4
    assert len(set(ids[0])) == 50
    created = Counter(line for answer in answers for line in answer if line.startswith("created"))
    assert sorted(created.values()) == [1] * 50
    assert {str(run.id) for run in every_run(app)} == set(ids[0])


def test_processes_that_write_at_once_lose_nothing_and_are_never_locked_out(fleet: Fleet, app: Runlane) -> None:
    """Invariant 1: triggers, ``run_now`` and ``execute_next`` of three processes, a transaction each."""
    answers = run_at_once(fleet, [("writes", name, "60") for name in "abc"])
    triggered = [UUID(line.split()[1]) for answer in answers for line in answer]
    assert len(set(triggered)) == 180
    assert {run.id for run in every_run(app)} == set(triggered)
    assert "locked" not in fleet.errors()
    marks = Counter(run_id for run_id, _, _ in fleet.marked())
    ended = {run.id for run in every_run(app) if run.status == RunStatus.SUCCEEDED}
    assert marks == Counter(ended), "nobody was killed: each effect happened exactly once"


def run_at_once(fleet: Fleet, programs: list[tuple[str, ...]]) -> list[list[str]]:
    """Start programs, let them go together, and return the lines each of them said."""
    processes = [fleet.start(*program) for program in programs]
    for process in processes:
        fleet.ready(process)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=PATIENCE)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), fleet.errors()
    return answers


def stop_outside_of_transactions(fleet: Fleet, process: subprocess.Popen[str]) -> None:
    """SIGSTOP; a process that stands still with SQLite's one write lock would stop everybody, which is not the test."""

    def stopped() -> bool:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        if not fleet.url.startswith("sqlite"):
            return True
        engine = create_engine(fleet.url, connect_args={"timeout": 0.2})
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("begin immediate")
                connection.rollback()
            return True
        except OperationalError:
            os.kill(process.pid, signal.SIGCONT)
            return False
        finally:
            engine.dispose()

    fleet.until(stopped, "the process stands still")


def sessions_of(app: Runlane, run_ids: set[UUID]) -> set[UUID]:
    """The sessions under which runs were leased."""
    records = [record for run_id in run_ids for record in app.runs.events(run_id)]
    return {record.event.session_id for record in records if isinstance(record.event, RunLeased)}


def assert_interrupted(app: Runlane, run_id: UUID) -> None:
    """The run waits again, and nothing but its attempts were counted.

    A process that stood still for two of its short heartbeats may have given a lease back that it had just taken.
    """
    ends = [one.event.reason for one in app.runs.events(run_id) if isinstance(one.event, RunInterrupted)]
    assert ends == ["stray"] * (len(ends) - 1) + ["worker_stopping"]
    run = app.runs.get(run_id)
    counts = (run.status, run.attempt_count, run.lost_count, run.failure_count)
    assert counts == ("queued", len(ends), 0, 0), app.runs.events(run_id)
