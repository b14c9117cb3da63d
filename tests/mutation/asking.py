"""Mutants run against the tests that are about them.

The tests are collected once, in a process from which each mutant gets a fork of its own.  A first run notes which
statements each test executes: a change in a function is asked only of those that come to it.  A change in what is
executed at import is planted in a fork that has imported nothing of Runlane yet, and asked of all tests of its module.
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import hypothesis
import pytest
from attrs import field, frozen, mutable

from tests.mutation.mutants import Mutant
from tests.mutation.planting import note_lines, plant_before_import, plant_in_function
from tests.mutation.processes import Limits, Work, in_processes

# Nothing of what is imported before a fork is rewritten; pytest's hook would import Runlane's modules past the change.
_OPTIONS = ["-q", "-s", "-x", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:rerunfailures"]
#: A mutant may take so many times as long as its tests take without it, and some seconds more.
_TIMES, _MORE = 5, 20.0
#: Of each property that does not say how many it needs.
_EXAMPLES = 30
#: The first run, and the collection before it; seconds.
_PATIENCE = 300.0

#: Of each mutant by its number: the test that noticed it, or "" if none did; or what else became of it.
Answers = dict[int, Any]
Heard = Callable[[int, Any], None]


@mutable
class Tests:
    """What the run without any change told: how long each test takes, and which lines it executes."""

    seconds: dict[str, float] = field(factory=dict)
    lines: dict[str, frozenset[str]] = field(factory=dict)
    #: The lines of a module at which each test has noticed a change; who has noticed one close by is asked first.
    noticed: dict[tuple[str, str], set[int]] = field(factory=lambda: defaultdict(set))

    def about(self, mutant: Mutant) -> list[str]:
        """The tests that execute the statement of a mutant, in the order in which to ask them."""
        place = f"{mutant.file}:{mutant.executed}"
        chosen = [test for test, lines in self.lines.items() if place in lines]

        def order(test: str) -> tuple[float, float, str]:
            near = min((abs(line - mutant.line) for line in self.noticed[mutant.file, test]), default=math.inf)
            return near, self.seconds[test], test

        return sorted(chosen, key=order)

    def heard(self, mutant: Mutant, answer: Any) -> None:
        """Remember who noticed a change."""
        if answer in self.seconds:
            self.noticed[mutant.file, answer].add(mutant.line)

    def files_about(self, file: str) -> list[str]:
        """The files of tests that execute anything of a module, those first that execute most of it."""
        executed: dict[str, set[str]] = defaultdict(set)
        for test, lines in self.lines.items():
            executed[test.partition("::")[0]] |= {line for line in lines if line.startswith(f"{file}:")}
        return sorted((name for name in executed if executed[name]), key=lambda name: (-len(executed[name]), name))


class Repeatable:
    """Hypothesis draws the same examples every time, and does not shrink what it finds."""

    def pytest_sessionstart(self) -> None:
        """Before the tests are collected, whose own settings are made of these."""
        hypothesis.settings.register_profile(
            "mutation",
            hypothesis.settings.get_profile("runlane"),
            derandomize=True,
            max_examples=_EXAMPLES,
            database=None,
            phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
        )
        hypothesis.settings.load_profile("mutation")


class Failures:
    """Remembers the test that failed."""

    def __init__(self) -> None:
        self.first = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of setup, call and teardown, any."""
        if report.failed and not self.first:
            self.first = report.nodeid


class Asking:
    """The pytest plugin that asks the collected tests about mutants, in place of running them."""

    def __init__(
        self, functions: dict[str, set[str]], mutants: Sequence[tuple[int, Mutant]], limits: Limits, heard: Heard
    ) -> None:
        self.answers: Answers = {}
        self.tests = Tests()
        self._functions = functions
        self._mutants, self._limits, self._heard = mutants, limits, heard
        self._items: dict[str, pytest.Item] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """The whole of it."""
        self._items = {item.nodeid: item for item in session.items}
        one = Limits(1, time.monotonic() + _PATIENCE)
        ((_, first),) = in_processes([Work(0, _PATIENCE, self._first_run)], one, quiet=False)
        if not isinstance(first, dict) or first["failed"] or session.testsfailed:
            raise pytest.UsageError(f"the tests do not pass without a change: {first and first['failed']}")
        self.tests = tests = Tests(first["seconds"], {test: frozenset(lines) for test, lines in first["lines"].items()})
        works = (
            Work(
                number, _MORE + _TIMES * sum(map(tests.seconds.get, tests.about(mutant))), self._question(mutant, tests)
            )
            for number, mutant in self._mutants
        )
        mutants = dict(self._mutants)
        for number, answer in in_processes(works, self._limits):
            tests.heard(mutants[number], answer)
            self.answers[number] = answer
            self._heard(number, answer)
        return True

    def _question(self, mutant: Mutant, tests: Tests) -> Callable[[], str]:
        def ask() -> str:
            chosen = tests.about(mutant)
            plant_in_function(mutant)
            return self._run([self._items[test] for test in chosen])

        return ask

    def _run(self, items: Sequence[pytest.Item]) -> str:
        """Run tests until one fails; its name, or nothing."""
        if not items:
            return ""
        failures = Failures()
        plugins = items[0].config.pluginmanager
        plugins.register(failures)
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            if failures.first:
                break
        plugins.unregister(failures)
        return failures.first

    def _first_run(self) -> dict[str, Any]:
        """Every test once, and what it executes."""
        seconds: dict[str, float] = {}
        lines: dict[str, list[str]] = {}
        executed: set[str] = set()
        for file, functions in self._functions.items():
            note_lines(file, functions, executed)
        for name, item in self._items.items():
            executed.clear()
            began = time.monotonic()
            failed = self._run([item])
            seconds[name], lines[name] = time.monotonic() - began, sorted(executed)
            if failed:
                return {"failed": failed}
        return {"failed": "", "seconds": seconds, "lines": lines}


@frozen
class Collected:
    """What is known once the changes in functions have been asked about.

    Attributes:
        about: the files of tests that are about each module.
        imported: what was imported for all of that and is not Runlane's.
    """

    answers: dict[str, Any]
    about: dict[str, list[str]]
    imported: list[str]


def ask_collected(
    files: Sequence[str],
    functions: dict[str, set[str]],
    mutants: Sequence[tuple[int, Mutant]],
    limits: Limits,
    heard: Heard,
) -> dict[str, Any] | None:
    """Ask about changes in functions: the fields of ``Collected``, or None if the tests fail.

    `functions` are those of each module, asked about or not.

    To be called in a process that has not imported Runlane, and does nothing else afterwards.
    """
    asking = Asking(functions, mutants, limits, heard)
    if pytest.main([*_OPTIONS, *files], plugins=[Repeatable(), asking]) != pytest.ExitCode.OK:
        return None
    about = {file: asking.tests.files_about(file) for file in functions}
    imported = [name for name in sys.modules if name.partition(".")[0] not in ("runlane", "tests", "__main__")]
    return {"answers": asking.answers, "about": about, "imported": imported}


def ask_at_import(known: Collected, mutants: Sequence[tuple[int, Mutant]], limits: Limits) -> Iterator[tuple[int, Any]]:
    """Ask about changes in what is executed at import: the number of each mutant, and its answer."""
    for name in known.imported:
        with suppress(ImportError):  # once here, or in every fork again
            import_module(name)
    assert "runlane" not in sys.modules

    def question(mutant: Mutant) -> Callable[[], str]:
        def ask() -> str:
            plant_before_import(mutant)
            for file in known.about[mutant.file]:
                failures = Failures()
                code = pytest.main([*_OPTIONS, file], plugins=[Repeatable(), failures])
                if code != pytest.ExitCode.OK:
                    # What cannot even be imported ends before any test.
                    return failures.first or "the import"
            return ""

        return ask

    works = (Work(number, _PATIENCE, question(mutant)) for number, mutant in mutants if mutant.file in known.about)
    return in_processes(works, limits)
