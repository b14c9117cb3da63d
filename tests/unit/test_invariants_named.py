"""Each invariant of SPEC section 17 has a test, or a check that every race is given, named after its number."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.races.checks import INVARIANTS

TESTS = Path(__file__).parents[1]
RACES = TESTS / "races" / "README.md"


def names_in(path: Path) -> set[str]:
    """The names of the tests that a file defines, at its top or in its classes."""
    return set(re.findall(r"^ *def (test_\w+)", path.read_text("utf-8"), re.MULTILINE))


@cache
def all_names() -> list[str]:
    """The names of all tests there are."""
    return [name for path in TESTS.rglob("test_*.py") for name in names_in(path)]


@pytest.mark.parametrize("number", range(1, 16))
def test_each_invariant_has_a_test_named_after_its_number(number: int) -> None:
    named = [check.__name__ for check in INVARIANTS] + all_names()
    assert [name for name in named if re.search(rf"(^|_)invariant_{number}_", name)]


def test_the_matrix_of_races_names_tests_that_exist() -> None:
    told = re.findall(r"`([\w/]+\.py)::(\w+)`", RACES.read_text("utf-8"))
    assert len(told) > 30
    for path, name in told:
        file = TESTS / path if "/" in path else RACES.parent / path
        assert name in names_in(file), f"{path} has no {name}"


def test_every_check_of_the_races_is_asked() -> None:
    source = ast.parse((TESTS / "races" / "checks.py").read_text("utf-8"))
    defined = [
        node.name for node in source.body if isinstance(node, ast.FunctionDef) and node.name.startswith("invariant_")
    ]
    assert defined == [check.__name__ for check in INVARIANTS]
