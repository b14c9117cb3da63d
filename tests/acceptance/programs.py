"""What the processes of test_processes.py run: ``python -m tests.acceptance.programs PROGRAM URL [ARGUMENT…]``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import attrs

from runlane import Context, Runlane, Trigger, task

#: The batch size of ``batches``: so large that a process spends most of its time inside a transaction.
BATCH = 200


@attrs.frozen
class Work:
    """What a handler is to do besides leaving its mark."""

    hold: bool = False  # stay in the handler until the process's gate opens, if it has one


@task("mark", payload=Work)
def mark(payload: Work, context: Context) -> str:
    """The side effect: one line in a file, written at once, outside every transaction."""
    leave_mark(context)
    while payload.hold and "RUNLANE_TEST_GATE" in os.environ and not path("GATE").exists():
        time.sleep(0.005)
    return context.worker_id


@task("listen")
def listen(payload: None, context: Context) -> None:
    """Runs until it is asked to stop."""
    leave_mark(context)
    context.signal.wait(60)
    context.signal.raise_if_set()


@task("deaf")
def deaf(payload: None, context: Context) -> None:
    """Does not care for being asked to stop."""
    leave_mark(context)
    time.sleep(60)


TASKS = [mark, listen, deaf]


def path(name: str) -> Path:
    """A file that the test chose."""
    return Path(os.environ[f"RUNLANE_TEST_{name}"])


def leave_mark(context: Context) -> None:
    """One write of one line: lines of several processes do not mix."""
    with path("MARKS").open("ab", buffering=0) as file:
        file.write(f"{context.run.id} {context.attempt} {context.worker_id}\n".encode())


def worker(url: str, name: str, concurrency: str, mode: str = "poll") -> None:
    """A worker process with a short lease."""
    app = Runlane(url, tasks=TASKS, worker_id=name, heartbeat="500ms", lease_duration="2s")
    threading.Thread(target=say_when_signals_are_heeded, daemon=True).start()
    with app:
        app.worker(mode, concurrency=int(concurrency), poll_interval=0.1, maintenance_interval=0.2).run()


def say_when_signals_are_heeded() -> None:
    """Handlers may be under way before the worker heeds signals; until then a signal ends the process."""
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.002)
    print("ready", flush=True)


def early_signal(url: str, name: str, moment: str) -> None:
    """A worker that is asked to stop before, or just after, it has begun to work; says which of its threads go on."""
    with Runlane(url, tasks=TASKS, worker_id=name, heartbeat="500ms", lease_duration="2s") as app:
        worker = app.worker(poll_interval=0.1)
        start = worker.start

        def start_and_signal() -> None:
            if moment == "after":
                start()
            os.kill(os.getpid(), signal.SIGTERM)
            if moment == "before":
                worker.wait(0.5)  # however the signal is heeded, it is now
                start()

        worker.start = start_and_signal  # type: ignore[method-assign]
        worker.run()
        print(*(thread.name for thread in threading.enumerate() if thread.name.startswith("runlane-exchange")))


def two_signals(url: str, name: str) -> None:
    """A worker that gets the second signal while it is heeding the first."""
    with Runlane(url, tasks=TASKS, worker_id=name, heartbeat="500ms", lease_duration="2s") as app:
        worker = app.worker(concurrency=2, poll_interval=0.1)
        stop = worker.stop

        def stop_and_signal() -> None:
            worker.stop = stop  # type: ignore[method-assign]
            os.kill(os.getpid(), signal.SIGTERM)
            stop()

        worker.stop = stop_and_signal  # type: ignore[method-assign]
        threading.Thread(target=say_when_signals_are_heeded, daemon=True).start()
        worker.run()


def batches(url: str, name: str) -> None:
    """Batch after batch, each acknowledged on standard output once ``trigger_many`` has returned."""
    with Runlane(url, tasks=TASKS) as app:
        for number in count():
            label = f"{name}-{number}"
            app.trigger_many([Trigger(mark, Work(), correlation_id=label)] * BATCH)
            print(label, flush=True)


def same_keys(url: str, keys: str) -> None:
    """One key after the other, as soon as the test says so."""
    with Runlane(url, tasks=TASKS) as app:
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(int(keys)):
            found = app.trigger(mark, Work(), idempotency_key=f"key-{number}")
            print(found.outcome, found.run.id, flush=True)


def writes(url: str, name: str, runs: str) -> None:
    """Every kind of small write, one transaction each."""
    with Runlane(url, tasks=TASKS, worker_id=name) as app:
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(int(runs)):
            if number % 3:
                print("triggered", app.trigger(mark, Work()).run.id, flush=True)
            else:
                print("triggered", app.run_now(mark, Work()).run.id, flush=True)
            if number % 2:
                app.execute_next()


PROGRAMS: dict[str, Callable[..., None]] = {
    program.__name__: program for program in (worker, early_signal, two_signals, batches, same_keys, writes)
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
