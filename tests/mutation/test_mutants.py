"""The changes themselves: what they are made of, that they are planted, and that each entry of the table fits some."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runlane.policy import Fixed
from tests.mutation.__main__ import MODULES
from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.mutants import ROOT, Mutant, mutants_of
from tests.mutation.planting import plant_in_function
from tests.mutation.processes import OUT_OF_TIME, Limits, Work, in_processes


def changes(tmp_path: Path, source: str) -> list[str]:
    file = tmp_path / "module.py"
    file.write_text(source, "utf-8")
    return [mutant.change for mutant in mutants_of(str(file))]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return a < b", ["return a < b -> return None", "a < b -> a <= b", "a < b -> a >= b"]),
        ("return a is b", ["return a is b -> return None", "a is b -> a is not b"]),
        (
            "return a and not b",
            ["return a and (not b) -> return None", "a and (not b) -> a or not b", "a and (not b) -> not b",
             "a and (not b) -> a", "not b -> b"],
        ),
        ("return 1 + a", ["return 1 + a -> return None", "1 + a -> 1 - a", "1 -> 2"]),
        ("return 'x' if a else b",
         ["return 'x' if a else b -> return None", "'x' if a else b -> 'x' if not a else b", "'x' -> 'XX'"]),
        ("a = b", ["a = b left out"]),
        ("c = a(b)", ["c = a(b) -> None", "b -> None"]),
        ("a(b, c=1)", ["a(b, c=1) left out", "b -> None", "a(…, c=…) without it", "1 -> 2"]),
        ("raise ValueError('x' + a)", ["raise ValueError('x' + a) left out"]),
        ("return {a, b}", ["return {a, b} -> return None", "{a, b} without a", "{a, b} without b"]),
        ("return min(a, b)", ["return min(a, b) -> return None", "min(a, b) -> max(a, b)"]),
    ],
)  # fmt: skip
def test_what_is_made_of_a_statement(tmp_path: Path, body: str, expected: list[str]) -> None:
    assert changes(tmp_path, f"def f(a: int, b: str) -> None:\n    {body}\n") == expected


def test_what_says_nothing_is_left_alone(tmp_path: Path) -> None:
    source = '"""Words."""\nfrom x import y\nThing = int | str\nT = TypeVar("T")\n'
    source += '@y(1)\ndef f(a: "A") -> "B":\n    """More."""\n'
    assert changes(tmp_path, source) == []


def test_arms_and_alternatives_are_left_out(tmp_path: Path) -> None:
    source = "def f(a):\n match a:\n  case A() | B() if c:\n   pass\n  case _:\n   pass\n"
    assert changes(tmp_path, source) == [
        "case A() | B() if c left out",
        "case A() | B() if c -> without its guard",
        "case A() | B() if c -> not so",
        "pattern A() left out",
        "pattern B() left out",
        "case _ left out",
    ]


def test_what_is_executed_at_import_is_known_from_what_is_not(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("A = 1\nclass C:\n    b: int = 2\n    def d(self, e=3):\n        return 4\n", "utf-8")
    known = {mutant.change: mutant.function for mutant in mutants_of(str(file))}
    assert known == {"1 -> 2": None, "2 -> 3": None, "3 -> 4": None, "4 -> 5": "C.d", "return 4 -> return None": "C.d"}


@pytest.mark.parametrize("file", MODULES)
def test_every_change_is_another_module_that_compiles(file: str) -> None:
    sound = (ROOT / file).read_text("utf-8")
    for number in range(0, len(mutants_of(file)), 31):
        mutant = mutants_of(file)[number]  # of a tree of its own
        planted = mutant.plant()
        compile(planted, file, "exec")
        assert mutant.change
        assert mutant.statement in sound


def one(file: str, change: str) -> Mutant:
    (found,) = (mutant for mutant in mutants_of(file) if mutant.change == change)
    return found


LIMITS = Limits(2, time.monotonic() + 1_000_000)


def test_a_change_is_planted_in_a_process_of_its_own() -> None:
    mutant = one("runlane/policy.py", "min(self.delay, LONGEST_DELAY) -> max(self.delay, LONGEST_DELAY)")

    def wait() -> int:
        plant_in_function(mutant)
        return Fixed("1s").before_retry(1).days

    assert list(in_processes([Work(7, 60, wait)], LIMITS)) == [(7, 365)]
    assert Fixed("1s").before_retry(1).days == 0


def test_a_work_without_end_is_ended_and_one_that_breaks_comes_to_nothing() -> None:
    def endless() -> None:
        while True:
            pass

    def broken() -> None:
        raise ValueError("no")

    answers = dict(in_processes([Work(1, 0.2, endless), Work(2, 60, broken), Work(3, 60, lambda: "")], LIMITS))
    assert answers == {1: OUT_OF_TIME, 2: None, 3: ""}


def test_nothing_begins_when_the_time_is_over() -> None:
    assert list(in_processes([Work(1, 60, lambda: "")], Limits(2, time.monotonic()))) == []


def test_every_entry_of_the_table_fits_as_many_changes_as_it_says() -> None:
    made = [mutant for file in MODULES for mutant in mutants_of(file)]
    for entry in EQUIVALENT:
        assert sum(entry.fits(mutant) for mutant in made) == entry.times, entry
        assert len(entry.reason) > 20


def asked(*options: str) -> subprocess.CompletedProcess[str]:
    """What the command line comes to about a few changes, in seconds."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.mutation", "--only", "functions", "--verbose", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_changes_of_the_waits_are_noticed_by_the_tests_about_them() -> None:
    """The short form of ``make mutants``."""
    done = asked("policy.py:66:", "policy.py:85:", "--test", "tests/unit/test_policy.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SURVIVED" not in done.stdout
    assert done.stdout.count("tests/unit/test_policy.py::") >= 8, done.stdout


def test_changes_that_no_test_comes_to_are_told_to_survive() -> None:
    done = asked("policy.py:66:", "--test", "tests/unit/test_jsontext.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "survived  runlane/policy.py:66" in done.stdout
