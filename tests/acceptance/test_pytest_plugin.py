"""The pytest plugin in somebody else's project: a process of its own, its fixtures, and clear failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runlane import AesGcm, AsyncRunlane, Runlane, task
from runlane.testing import assert_triggered, drain, on_memory

PROGRAM = """
import attrs, runlane

@attrs.frozen
class Welcome:
    user: str

@runlane.task("welcome")
def welcome(payload: Welcome) -> str:
    return payload.user

app = runlane.Runlane("postgresql://nobody@127.0.0.1:1/none", tasks=[welcome])

def broken() -> runlane.Runlane:
    raise KeyError("URL")

def refused() -> runlane.Runlane:
    raise runlane.ConfigurationInvalid("no URL is set")
"""
TESTS = """
import pytest
from shop import Welcome, welcome

def test_triggered_and_drained(runlane_app, drain, assert_triggered):
    runlane_app.trigger(welcome, Welcome("ann"))
    (run,) = assert_triggered(welcome, payload=Welcome("ann"))
    assert [done.id for done in drain()] == [run.id]
    assert runlane_app.runs.get(run.id).result == "ann"

def test_each_test_has_a_database_of_its_own(runlane_app, assert_triggered):
    assert_triggered(welcome, count=0)

def test_what_is_missing_is_told(runlane_app, assert_triggered):
    runlane_app.trigger(welcome, Welcome("bob"))
    with pytest.raises(AssertionError, match='found 0; triggered were: {"user":"bob"}'):
        assert_triggered(welcome, Welcome("ann"))
"""


def run_pytest(folder: Path, configuration: str) -> subprocess.CompletedProcess[str]:
    (folder / "shop.py").write_text(PROGRAM)
    (folder / "test_shop.py").write_text(TESTS)
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = .\n{configuration}\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_fixtures_work_in_a_project_that_names_its_program(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "runlane_app = shop:app")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_without_a_program_the_fixture_says_what_to_configure(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "")
    assert done.returncode != 0
    assert "needs runlane_app = module:name" in done.stdout


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("nowhere:app", "runlane_app = nowhere:app: there is no module 'nowhere' here"),
        ("shop:nothing", "runlane_app = shop:nothing: shop has no 'nothing'"),
        ("shop", "runlane_app = shop: it must look like module:name, for example shop.jobs:app"),
        ("shop:Welcome", "runlane_app = shop:Welcome is a type, not a Runlane or AsyncRunlane"),
        ("shop:broken", "runlane_app = shop:broken: calling broken failed: KeyError: 'URL'"),
        ("shop:refused", "runlane_app = shop:refused: no URL is set"),
    ],
)
def test_a_program_that_is_not_there_is_told_by_the_name_of_the_option(tmp_path: Path, named: str, says: str) -> None:
    done = run_pytest(tmp_path, f"runlane_app = {named}")
    assert done.returncode != 0
    assert f"UsageError: {says}\n" in done.stdout
    assert "--app" not in done.stdout
    assert "ConfigurationInvalid:" not in done.stdout
    assert ("KeyError: 'URL'\n" in done.stdout.replace(says, "")) is (named == "shop:broken"), "its own traceback"


@task("kit.echo")
def echo(payload: int) -> int:
    return payload


def test_counting_what_was_triggered() -> None:
    with on_memory(Runlane("memory:", tasks=[echo])) as app:
        app.trigger_many(echo, [1, 2, 2])
        assert [run.payload for run in assert_triggered(app, echo, 2, count=2)] == [2, 2]
        assert len(assert_triggered(app, echo, count=3)) == 3
        for wrong in ({"payload": 1, "count": 2}, {"payload": 3}, {}):
            with pytest.raises(AssertionError, match="expected"):
                assert_triggered(app, echo, **wrong)
        assert len(drain(app)) == 3


def test_a_handler_that_never_ends_its_run_is_found() -> None:
    @task("kit.endless")
    def endless(payload: None, context: object) -> object:
        return context.release("1ms")  # type: ignore[attr-defined]

    from datetime import timedelta

    from runlane.testing import SettableClock

    class Running(SettableClock):
        def __call__(self):
            return self.advance(timedelta(milliseconds=5))

    with Runlane("memory:", tasks=[endless], clock=Running()) as app:
        app.trigger(endless)
        with pytest.raises(AssertionError, match="more than 20 attempts"):
            drain(app, limit=20)


@pytest.mark.parametrize("kind", [Runlane, AsyncRunlane])
def test_it_encodes_payloads_as_the_application_does(kind: Any) -> None:
    @task("mails.send", subject=lambda payload: payload["user"])
    def send(payload: dict[str, str]) -> None:
        """Has a subject, and so needs a codec."""

    app = kind("memory:", tasks=[send], payload_codec=AesGcm(b"x" * 32))
    with on_memory(app) as copy:
        copy.trigger(send, {"user": "u"})
        assert [run.payload for run in drain(copy)] == [{"user": "u"}]
