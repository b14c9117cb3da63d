"""Each planted defect is killed by the test named for it: every other one here, all of them in `make defects`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.defects.defect import Defect
from tests.defects.defects import DEFECTS
from tests.defects.planting import Asking, asking, plant


@pytest.fixture(scope="module")
def asked() -> Iterator[Asking]:
    """Something to ask all of them with."""
    with asking() as ready:
        yield ready


@pytest.mark.parametrize("defect", DEFECTS[::2], ids=lambda defect: defect.name)
def test_the_defect_is_killed(asked: Asking, defect: Defect, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres").admin_url if defect.postgres else None
    plant(defect, tmp_path)
    verdict = asked.ask(defect, tmp_path, url)
    assert verdict.killed, f"{defect.test} did not notice: {defect.promise}\n{verdict.said}"


@pytest.mark.parametrize("broken", ["  # says nothing", "; import nothing_of_this_name"])
def test_what_breaks_no_promise_is_not_called_killed(asked: Asking, tmp_path: Path, broken: str) -> None:
    """Neither a change without effect, nor one with which the test cannot even begin."""
    sound = "LONGEST_DELAY = timedelta(days=365)"
    defect = Defect("none", "runlane/policy.py", sound, sound + broken, "tests/unit/test_policy.py", "")
    plant(defect, tmp_path)
    assert not asked.ask(defect, tmp_path).killed
