"""Fixtures for pytest, there as soon as Runlane is installed.

``runlane_app`` is a runtime in memory with the queues and tasks of the program named by ``runlane_app = module:name``
in pytest's configuration; a fixture of that name in a conftest.py replaces it.  ``drain()`` works everything off, and
``assert_triggered(task, payload=…)`` says what was triggered.  Nothing is imported before a test asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runlane.app import Runlane
    from runlane.projections.runs import Run

# The suites for adapters say what differs, as the assertions of a test module do.
pytest.register_assert_rewrite("runlane.testing.conformance")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the program is."""
    parser.addini("runlane_app", "module:name of the Runlane whose tasks the fixture runlane_app has", default="")


@pytest.fixture
def runlane_app(pytestconfig: pytest.Config) -> Iterator[Runlane]:
    """A started runtime on a memory lane, closed at the end."""
    from runlane.testing import on_memory

    named = str(pytestconfig.getini("runlane_app"))
    if not named:
        raise pytest.UsageError(
            "the fixture runlane_app needs runlane_app = module:name in pytest's configuration, "
            "or a fixture of that name of your own"
        )
    with on_memory(_load(named)) as app:
        yield app


def _load(named: str) -> Runlane:
    from runlane.cli.program import load
    from runlane.errors import RunlaneError

    said = "runlane_app ="
    try:
        return load(named, option=said)
    except RunlaneError as error:
        told = error.message if error.message.startswith(said) else f"{said} {named}: {error.message}"
        cause = error.__cause__  # what the program raised; that a module is not there, the message says
        raise pytest.UsageError(told) from (None if isinstance(cause, ModuleNotFoundError) else cause)


@pytest.fixture
def drain(runlane_app: Runlane) -> Callable[..., list[Run]]:
    """Executes every run that is due, and returns them."""
    from runlane import testing

    return partial(testing.drain, runlane_app)


@pytest.fixture
def assert_triggered(runlane_app: Runlane) -> Callable[..., list[Run]]:
    """Fails unless a run of a task with a payload exists; returns those that do."""
    from runlane import testing

    def check(task: Any, payload: Any = testing.ANY_PAYLOAD, *, count: int = 1) -> list[Run]:
        return testing.assert_triggered(runlane_app, task, payload, count=count)

    return check
