"""The suites fail for adapters that are broken: each defect is found by the cases that are there for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.broken_adapters import FOUND_BY

HERE = Path(__file__).parent
BROKEN = HERE / "broken_adapters.py"


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """What became of each case that has a defect to find, and why."""
    cases = [f"{BROKEN}::{suite}::{case}" for suite, found in FOUND_BY.items() for case in found]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-rA", "-p", "no:cacheprovider", "--tb=line", *cases],
        cwd=HERE.parents[1],
        env={**os.environ, "COLUMNS": "400"},  # reasons are cut to the width of the terminal
        capture_output=True,
        text=True,
        timeout=110,
    )
    said = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) \S*?broken_adapters\.py::(\S+)(.*)$", done.stdout, re.MULTILINE)
    assert said, done.stdout + done.stderr
    found: dict[str, str] = {}
    for outcome, case, why in said:
        found[case] = f"{found.get(case, '')}{outcome}{why}\n"
    return found


@pytest.mark.parametrize("case", [f"{suite}::{case}" for suite, found in FOUND_BY.items() for case in found])
def test_a_defect_is_found(outcomes: dict[str, str], case: str) -> None:
    assert "FAILED" in outcomes.get(case, "it was not run"), f"{case} does not notice: {outcomes.get(case)}"


def test_the_suites_say_what_is_wrong(outcomes: dict[str, str]) -> None:
    stale = outcomes["TestTellsNobodyThatItLost::test_a_stale_sequence_writes_nothing"]
    assert "AssertionError: a step decided on a sequence that has passed must lose" in stale
    slow = outcomes["TestLetsCallersWait::test_ringing_returns_at_once"]
    assert re.search(r"100 rings took \d\.\d s, and those who ring wait for them", slow)
    deaf = outcomes["TestDeafLane::test_a_trigger_wakes_an_idle_worker"]
    assert "is queued, not succeeded" in deaf


def test_a_suite_without_its_fixture_says_what_to_provide(tmp_path: Path) -> None:
    (tmp_path / "test_empty.py").write_text(
        "from runlane.testing.conformance import *\n"
        + "".join(
            f"class Test{suite}({suite}): pass\n"
            for suite in ("StorageConformance", "TransportConformance", "PublisherConformance", "LaneConformance")
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-x", "--tb=short", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "needs a fixture `storage` that returns a Database" in done.stdout


OWN_TIME = """
import pytest
from runlane.storage.database import Database
from runlane.testing.conformance import StorageConformance

class OwnTime(Database):
    def join(self, connection, clock=None):
        return super().join(connection)

class TestOwnTime(StorageConformance):
    @pytest.fixture
    def storage(self):
        return OwnTime("memory:")
"""


def test_assertions_of_the_suites_say_what_differed(tmp_path: Path) -> None:
    """As those of a test module do: the plugin asks pytest for it, however it is loaded."""
    (tmp_path / "test_own_time.py").write_text(OWN_TIME)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "runlane.pytest_plugin", "-k", "injected_clock", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "assert datetime.datetime(" in done.stdout
    assert "== datetime.datetime(2026, 1, 1" in done.stdout
