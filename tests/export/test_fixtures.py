"""A run's history as a test of its handler."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from runlane import ConfigurationInvalid, Context, Fixed, NonRetryable, Retry, Runlane, SettableClock, task, testing
from runlane.export import fixtures

CHANGED: dict[str, Any] = {}


@task("moody", retry=Retry(3, Fixed("10s"), jitter=0.0))
def moody(payload: list[str], context: Context) -> Any:
    """In each attempt it does what the payload says, or what a test has changed."""
    mood = CHANGED.get("mood") or payload[context.attempt - 1]
    assert context.run.attempt_count == context.attempt
    if mood == "release":
        return context.release("10s", reason="not yet")
    if mood == "fail":
        raise ValueError("it broke")
    if mood == "give up":
        raise NonRetryable("no hope")
    return mood


@pytest.fixture
def history() -> list[str]:
    """The lines of a run that was released, failed and succeeded."""
    clock = SettableClock()
    with Runlane("memory:", tasks=[moody], clock=clock) as app:
        run = app.trigger(moody, ["release", "fail", "done it"]).run
        for _ in range(3):
            app.execute_next()
            clock.advance(timedelta(seconds=10))
        records = app.runs.events(run.id)
        assert app.runs.get(run.id).status == "succeeded"
    names: dict[str, Any] = {}
    exec(compile(fixtures.module_of(records), "fixture", "exec"), names)
    lines: list[str] = names["HISTORY"]
    assert fixtures.history(lines) == [evolve(record, position=None) for record in records]
    return lines


@pytest.fixture
def app() -> Any:
    CHANGED.clear()
    with Runlane("memory:", tasks=[moody]) as made:
        yield made
    CHANGED.clear()


def test_the_same_handler_comes_to_the_same_outcomes(app: Runlane, history: list[str]) -> None:
    found = [type(testing.assert_same_outcome(app, history, attempt)).__name__ for attempt in (1, 2, 3)]
    assert found == ["Released", "Failed", "Succeeded"]
    assert app.audit.count() == {}  # nothing is stored


@pytest.mark.parametrize(
    ("mood", "attempt", "told"),
    [
        ("fine", 1, r"it released the run \(not yet\) when it was recorded, and now it returned 'fine'"),
        ("fail", 3, "it returned 'done it' when it was recorded, and now it failed with task_failed: it broke"),
        ("give up", 2, "failed with task_failed: it broke when .* task_failed: no hope, not to be retried"),
        ("release", 2, r"and now it released the run \(not yet\)"),
    ],
)
def test_another_outcome_is_told(app: Runlane, history: list[str], mood: str, attempt: int, told: str) -> None:
    CHANGED["mood"] = mood
    with pytest.raises(AssertionError, match=told):
        testing.assert_same_outcome(app, history, attempt)


def test_only_what_handlers_decided_is_expected_again(clock: SettableClock) -> None:
    with Runlane("memory:", tasks=[moody], clock=clock) as app:
        for make in (
            testing.queued_run,
            testing.running_run,
            testing.cancellation_requested_run,
            testing.cancelled_run,
        ):
            records = app.runs.events(make(app, moody, ["x"]).id)
            assert fixtures.decided(records) == {}
            with pytest.raises(ConfigurationInvalid, match=r"no attempt of run .* ended as its handler decided"):
                fixtures.module_of(records)
        for make in (testing.succeeded_run, testing.failed_run, testing.released_run, testing.retrying_run):
            assert list(fixtures.decided(app.runs.events(make(app, moody, ["x"]).id))) == [1]


PROGRAM = """
from runlane import Runlane, task

@task("quoted")
def quoted(payload):
    if payload.get("bad"):
        raise ValueError("bad")
    return "it's \\"fine\\""

app = Runlane("sqlite:///app.db", tasks=[quoted])
"""


def test_the_written_module_is_a_test_that_runs(tmp_path: Path) -> None:
    """As a user has it: the program, the command, and pytest, in processes of their own."""
    (tmp_path / "program.py").write_text(PROGRAM)
    with Runlane(f"sqlite:///{tmp_path / 'app.db'}", tasks=[task("quoted")(lambda payload: "it's")]) as app:
        run = app.run_now("quoted", {"text": "'''\\n\"\u2028 Ünïcode"}).run
    command = [sys.executable, "-m", "runlane", "--app", "program:app", "audit", "fixture", str(run.id)]
    subprocess.run([*command, "--output", "test_run.py"], cwd=tmp_path, check=True, timeout=60)
    assert subprocess.run([*command, "--output", "test_run.py"], cwd=tmp_path, capture_output=True).returncode == 2
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "runlane_app=program:app"]
    done = subprocess.run([*pytest_command, "test_run.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "1 passed" in done.stdout, done.stdout
