"""``runlane dev`` as a developer meets it: real processes, real files, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runlane import Context, Queue, Runlane, task
from runlane.values import RunStatus
from tests.support import PATIENCE

PROGRAM = """
import runlane, time
from runlane import Context, Queue, Schedule, task

main, narrow = Queue("main", default=True), Queue("narrow", concurrency_limit=2)

@task("greet")
def greet(name: str) -> str:
    return f"WORD {name}"

@task("stubborn")
def stubborn(payload: None, context: Context) -> str:
    if context.attempt == 1:
        print("stubborn begins", flush=True)
        time.sleep(300)
    return "done"

@task("polite")
def polite(payload: None, context: Context) -> str:
    print("polite begins", flush=True)
    context.signal.wait(300)
    time.sleep(0.5)  # what it takes to put things away
    return "put away"

@task("wrong")
def wrong() -> None:
    raise ValueError("this is wrong")

@task("clean", schedules=[Schedule("clean-daily", cron="0 3 * * *")])
def clean() -> None: ...

app = runlane.Runlane(URL, queues=[main, narrow], tasks=[greet, stubborn, polite, wrong, clean])
"""


@task("greet")
def greet(name: str) -> str:
    raise AssertionError("only the worker executes")


@task("stubborn")
def stubborn(payload: None, context: Context) -> None:
    raise AssertionError("only the worker executes")


@task("polite")
def polite(payload: None, context: Context) -> None:
    raise AssertionError("only the worker executes")


@task("wrong")
def wrong() -> None:
    raise AssertionError("only the worker executes")


class Dev:
    """A running ``runlane dev``, and what it has printed."""

    def __init__(self, folder: Path, *options: str, code: str | None = None) -> None:
        how = ["-m", "runlane"] if code is None else ["-c", code]
        self.process = subprocess.Popen(
            [sys.executable, *how, "dev", *options],
            cwd=folder,
            env={**os.environ, "RUNLANE_APP": "shop:app"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        self._lines: list[str] = []
        self._over = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            for line in printed:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:  # every process that could print has ended
            self._over = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """Everything printed so far."""
        return "\n".join(self._lines)

    def says(self, pattern: str, times: int = 1) -> None:
        """Wait until it has printed `pattern` that often."""
        with self._changed:
            told = self._changed.wait_for(
                lambda: len(re.findall(pattern, self.text, re.MULTILINE)) >= times or self._over, 2 * PATIENCE
            )
            assert told, f"{pattern!r} was not printed:\n{self.text}"
            assert len(re.findall(pattern, self.text, re.MULTILINE)) >= times, f"it ended:\n{self.text}"

    def is_over(self) -> None:
        """Wait until nobody is left that could print."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._over, 2 * PATIENCE), self.text

    def ctrl_c(self) -> int:
        """Its exit code after an interrupt, which a terminal sends to every process that was started in it."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.is_over()
        return self.process.wait(PATIENCE)


def save(file: Path, text: str) -> None:
    """As editors do it: at once, so that nobody sees half of it."""
    half = file.with_name("half")
    half.write_text(text)
    half.replace(file)


def source(word: str, url: str) -> str:
    return PROGRAM.replace("WORD", word).replace("URL", repr(url))


@contextmanager
def developing(folder: Path, *options: str, code: str | None = None) -> Iterator[Dev]:
    dev = Dev(folder, *options, code=code)
    try:
        yield dev
    finally:
        dev.process.kill()  # its worker ends by itself then: another test shows it
        dev.process.wait()
        dev.is_over()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    return made


@pytest.fixture
def client(sqlite_url: str) -> Iterator[Runlane]:
    """Another process's view of the same runs."""
    with Runlane(sqlite_url, queues=[Queue("main", default=True)], tasks=[greet, stubborn, polite, wrong]) as app:
        yield app


def test_a_change_of_source_is_executed_and_broken_source_survived(
    folder: Path, client: Runlane, sqlite_url: str
) -> None:
    shop = folder / "shop.py"
    save(shop, source("hello", sqlite_url))
    (folder / "notes.txt").write_text("nobody cares")
    with developing(folder) as dev:
        dev.says("^working;")
        first = client.trigger(greet, "ann").run
        assert client.runs.wait(first.id, timeout=PATIENCE).result == "hello ann"
        dev.says(rf"^\d\d:\d\d:\d\d  greet  …{first.id.hex[-8:]}  succeeded  \d+")

        (folder / "notes.txt").write_text("still nobody")
        save(shop, source("welcome", sqlite_url))
        dev.says("^working;", times=2)
        assert "notes.txt" not in dev.text
        assert dev.text.count("changed: shop.py") == 1
        second = client.trigger(greet, "ben").run
        assert client.runs.wait(second.id, timeout=PATIENCE).result == "welcome ben"

        save(shop, source("broken", sqlite_url) + "\ndef oops(:\n")
        dev.says("^not running .* waiting for a change")
        assert re.search(r"^shop:app does not start: importing shop failed: SyntaxError", dev.text, re.MULTILINE)
        assert re.search(r"^ +def oops\(:\n +\^", dev.text, re.MULTILINE), "the place is shown"
        assert "importlib" not in dev.text
        third = client.trigger(greet, "cat").run
        assert dev.process.poll() is None

        save(shop, source("good day", sqlite_url))
        dev.says("^working;", times=3)
        assert client.runs.wait(third.id, timeout=PATIENCE).result == "good day cat"
        assert dev.ctrl_c() == 0
        assert dev.text.endswith("\nstopped")
        assert "Traceback" not in dev.text


def test_it_says_what_it_works_on(folder: Path, sqlite_url: str) -> None:
    save(folder / "shop.py", source("hello", sqlite_url))
    with developing(folder) as dev:
        dev.says("^working; changes of source in this folder reload; Ctrl-C stops")
        lines = dev.text.splitlines()
        assert re.fullmatch(r"shop:app on .*runlane\.db.*tables are up to date.*, environment default", lines[0])
        assert lines[1:4] == [
            "  queues     main, narrow (limit 2)",
            "  tasks      greet, stubborn, polite, wrong, clean",
            "  schedules  clean-daily cron 0 3 * * * (UTC)",
        ]
        assert dev.ctrl_c() == 0


def test_a_memory_lane_is_told_in_the_first_line(folder: Path) -> None:
    save(folder / "shop.py", source("hello", "memory:"))
    with developing(folder) as dev:
        dev.says("^working;")
        assert "nothing is kept, every start begins empty" in dev.text.splitlines()[0]
        assert dev.ctrl_c() == 0


def test_tables_are_made_at_the_start(folder: Path, postgres: Any) -> None:
    url = postgres.empty()
    save(folder / "shop.py", source("hello", url))
    try:
        with developing(folder) as dev:
            dev.says("^working;")
            with Runlane(url, queues=[Queue("main", default=True)], tasks=[greet]) as app:
                run = app.trigger(greet, "ann").run
                assert app.runs.wait(run.id, timeout=PATIENCE).result == "hello ann"
            assert dev.ctrl_c() == 0
    finally:
        postgres.drop(url)


def test_an_attempt_that_does_not_end_is_queued_again_at_a_reload(
    folder: Path, client: Runlane, sqlite_url: str
) -> None:
    shop = folder / "shop.py"
    save(shop, source("hello", sqlite_url))
    with developing(folder, "--stop-timeout", "100ms") as dev:
        dev.says("^working;")
        run = client.trigger(stubborn).run
        dev.says("^stubborn begins")
        save(shop, source("welcome", sqlite_url))
        dev.says(r"stubborn  \S+  queued again, interrupted")
        assert client.runs.wait(run.id, timeout=2 * PATIENCE).result == "done"
        types = [type(record.event).__name__ for record in client.runs.events(run.id)]
        assert types[-4:] == ["RunLeased", "RunInterrupted", "RunLeased", "RunSucceeded"]
        assert dev.ctrl_c() == 0


def test_an_interrupt_lets_attempts_end(folder: Path, client: Runlane, sqlite_url: str) -> None:
    save(folder / "shop.py", source("hello", sqlite_url))
    with developing(folder, "--stop-timeout", "1h") as dev:
        dev.says("^working;")
        run = client.trigger(polite).run
        dev.says("^polite begins")
        assert dev.ctrl_c() == 0
        assert client.runs.get(run.id).result == "put away"
        dev.says("  polite  .*  succeeded  ")


def test_a_second_interrupt_waits_for_no_attempt(folder: Path, client: Runlane, sqlite_url: str) -> None:
    save(folder / "shop.py", source("hello", sqlite_url))
    with developing(folder, "--stop-timeout", "1h") as dev:
        dev.says("^working;")
        run = client.trigger(stubborn).run
        dev.says("^stubborn begins")
        os.killpg(dev.process.pid, signal.SIGINT)
        dev.says("^stopping; Ctrl-C again waits for no attempt")
        assert dev.ctrl_c() == 0
        assert client.runs.get(run.id).status is RunStatus.QUEUED


def test_without_reloading_it_works_and_stops(folder: Path, client: Runlane, sqlite_url: str) -> None:
    shop = folder / "shop.py"
    save(shop, source("hello", sqlite_url))
    with developing(folder, "--no-reload", "--json") as dev:
        dev.says('"event":"started"')
        run = client.trigger(wrong).run
        dev.says('"event":"attempt"')
        assert dev.ctrl_c() == 0
        started, attempt, stopping = (json.loads(line) for line in dev.text.splitlines())
        assert stopping == {"event": "stopping"}
        assert (started["app"], started["keeps"], started["queues"]) == ("shop:app", True, ["main", "narrow"])
        told = {name: attempt[name] for name in ("run_id", "task_id", "attempt", "status", "failure")}
        assert told == {
            "run_id": str(run.id),
            "task_id": "wrong",
            "attempt": 1,
            "status": "failed",
            "failure": "this is wrong",
        }


def test_a_failed_attempt_shows_where(folder: Path, client: Runlane, sqlite_url: str) -> None:
    save(folder / "shop.py", source("hello", sqlite_url))
    with developing(folder, "--no-reload") as dev:
        dev.says("^working, without reloading")
        client.trigger(wrong)
        dev.says("^    ValueError: this is wrong")
        assert re.search(r"  wrong  …[0-9a-f]{8}  failed  ", dev.text)
        assert 'shop.py", line' in dev.text
        assert dev.ctrl_c() == 0


def test_nothing_is_left_when_the_watcher_is_killed(folder: Path, client: Runlane, sqlite_url: str) -> None:
    save(folder / "shop.py", source("hello", sqlite_url))
    with developing(folder) as dev:
        dev.says("^working;")
        dev.process.kill()
        dev.is_over()  # the worker held the other end of the pipe
        run = client.trigger(greet, "ann").run
        assert "no worker is alive in this environment" in client.runs.why(run.id)


def test_other_places_are_watched_where_they_are_named(folder: Path, tmp_path: Path, sqlite_url: str) -> None:
    save(folder / "shop.py", source("hello", sqlite_url))
    library, table = tmp_path / "library", folder / "prices.csv"
    library.mkdir()
    save(table, "1")
    with developing(folder, "--watch", str(library), "--watch", str(table)) as dev:
        dev.says("^working; changes of source in .*library, .*prices.csv reload")
        save(folder / "shop.py", source("welcome", sqlite_url))
        save(library / "new.py", "x = 1")
        dev.says("^working;", times=2)
        save(table, "2")
        dev.says("^working;", times=3)
        assert re.findall(r"^changed: (.*)$", dev.text, re.MULTILINE) == [str(library / "new.py"), "prices.csv"]
        assert dev.ctrl_c() == 0


def test_what_folders_further_up_are_called_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / ".venv" / "node_modules" / "project"
    (folder / ".venv").mkdir(parents=True)
    save(folder / "shop.py", source("hello", "memory:"))
    with developing(folder) as dev:
        dev.says("^working;")
        save(folder / ".venv" / "library.py", "x = 1")
        save(folder / "shop.py", source("welcome", "memory:"))
        dev.says("^working;", times=2)
        assert re.findall(r"^changed: (.*)$", dev.text, re.MULTILINE) == ["shop.py"]
        assert dev.ctrl_c() == 0


def run_dev(folder: Path, *options: str, code: str | None = None, app: str = "shop:app") -> Any:
    how = ["-m", "runlane"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *how, "dev", *options],
        cwd=folder,
        env={**os.environ, "RUNLANE_APP": app},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )


def test_without_watchfiles_it_says_how_to_get_it(folder: Path, sqlite_url: str) -> None:
    save(folder / "shop.py", source("hello", sqlite_url))
    code = "import sys; sys.modules['watchfiles'] = None; from runlane.cli import main; main()"
    done = run_dev(folder, code=code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: reloading needs watchfiles: pip install 'runlane[reload]', or work without it by --no-reload\n"
    )


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--no-reload", "--queue", "nope"], 2, "there is no queue 'nope'; known are main, narrow"),
        (["--watch", "nowhere"], 2, "'nowhere' does not exist"),
        (["--stop-timeout", "soon"], 2, "--stop-timeout"),
        (["--database", "sqlite:///x.db"], 2, "give --app module:name"),
    ],
)
def test_mistakes_get_one_clear_line(folder: Path, sqlite_url: str, options: list[str], code: int, says: str) -> None:
    save(folder / "shop.py", source("hello", sqlite_url))
    done = run_dev(folder, *options)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert says in done.stderr


def test_a_program_that_fails_as_it_is_imported_ends_a_start_without_reloading(folder: Path) -> None:
    save(folder / "shop.py", "def make():\n    return 1 / 0\n\nmake()\n")
    done = run_dev(folder, "--no-reload")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "shop:app does not start: importing shop failed: ZeroDivisionError: division by zero",
        *done.stdout.splitlines()[1:],
    ]
    assert re.search(r'^ +File ".*shop.py", line 2, in make$', done.stdout, re.MULTILINE)
