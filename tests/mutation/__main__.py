"""Change the folds and decisions in every small way, and see the tests notice: ``python -m tests.mutation [part …]``.

Prints how many changes were noticed, by module, and those that were not.  Ends with 1 if the score is below 95 %, if an
entry of the table of equivalents fits no change, or if the time did not suffice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import define

from tests.mutation.asking import Collected, Heard, ask_at_import, ask_collected
from tests.mutation.equivalent import EQUIVALENT, Equivalent
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.processes import OUT_OF_TIME, Limits, Work, in_processes

MODULES = (
    *(f"projections/{name}.py" for name in ("attempts", "differences", "fleet", "occurrences", "queues", "runs")),
    *(f"projections/{name}.py" for name in ("schedules", "timeline")),
    "runlane/decisions.py",
    "runlane/policy.py",
    "runlane/schedule_decisions.py",
)
#: What is asked: the tests that are about them and need no database.
TESTS = (
    *(f"tests/unit/test_{name}.py" for name in ("attempts", "complete", "decisions", "deliveries", "differences")),
    *(f"tests/unit/test_{name}.py" for name in ("fleet", "occurrences", "operating", "policy", "queue_control")),
    *(f"tests/unit/test_{name}.py" for name in ("run_lifecycle", "schedule_operating", "schedules", "timeline")),
    *(f"tests/properties/test_{name}.py" for name in ("attempts", "decisions", "policy", "run_histories", "schedules")),
    "tests/properties/test_time_travel.py",
)
GOAL = 0.95


@define
class Found:
    """A mutant, and what became of it; None as long as it has not been asked about."""

    mutant: Mutant
    reason: str | None
    answer: Any = None
    is_done: bool = False

    @property
    def survived(self) -> bool:
        """Whether no test noticed it."""
        return self.is_done and self.answer == ""


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    options = _options(arguments)
    began = time.monotonic()
    names = [part.partition(":")[0] for part in options.parts]
    files = [file for file in MODULES if not names or any(name in file for name in names)]
    found, unmatched = _mutants(files)
    inside = [one.mutant for one in found if one.mutant.function]
    functions = {file: {mutant.function or "" for mutant in inside if mutant.file == file} for file in files}
    if options.parts:
        found = [one for one in found if any(part in f"{one.mutant.file}:{one.mutant.line}:" for part in options.parts)]
    if options.only:
        found = [one for one in found if (one.mutant.function is None) == (options.only == "import")]
    asked = [(n, one.mutant) for n, one in enumerate(found) if one.reason is None or options.equivalent]
    print(f"{len(found)} changes of {len(files)} modules", flush=True)
    limits = Limits(options.processes, began + 60 * options.minutes)

    def heard(number: int, answer: Any) -> None:
        if options.verbose:
            print(f"{answer or 'SURVIVED'}  {found[number].mutant}", flush=True)

    for number, answer in _answers(options.test or TESTS, functions, asked, limits, heard):
        found[number].answer, found[number].is_done = answer, True
    is_good = _report(files, found, options.equivalent)
    for entry in unmatched:
        print(f"not {entry.times} times there: {entry.file}: {entry.statement}: {entry.change}")
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if is_good and not unmatched else 1


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("parts", nargs="*", help="modules to change by parts of their names, or runs.py:45: for a line")
    parser.add_argument("--minutes", type=float, default=20.0, help="nothing is begun after so many; default: 20")
    parser.add_argument("--processes", type=int, default=2, help="mutants at once; default: 2")
    parser.add_argument(
        "--equivalent", action="store_true", help="ask about those of the table too: none may be noticed"
    )
    parser.add_argument("--only", choices=("functions", "import"), help="changes in functions, or of what import does")
    parser.add_argument("--test", action="append", help="ask only this file of tests; repeatable")
    parser.add_argument("--verbose", action="store_true", help="say of each mutant what noticed it")
    return parser.parse_args(arguments)


def _mutants(files: Sequence[str]) -> tuple[list[Found], list[Equivalent]]:
    """All changes, those of the table with their reasons, and the entries of the table that do not fit."""
    table = [entry for entry in EQUIVALENT if entry.file in files]
    found, times = [], Counter[Equivalent]()
    for mutant in (mutant for file in files for mutant in mutants_of(file)):
        entry = next((entry for entry in table if entry.fits(mutant)), None)
        found.append(Found(mutant, None if entry is None else entry.reason))
        if entry is not None:
            times[entry] += 1
    return found, [entry for entry in table if times[entry] != entry.times]


def _answers(
    tests: Sequence[str],
    functions: dict[str, set[str]],
    asked: Sequence[tuple[int, Mutant]],
    limits: Limits,
    heard: Heard,
) -> Iterator[tuple[int, Any]]:
    """The answers: first about what is in functions, then about what is executed at import."""
    inside = [(number, mutant) for number, mutant in asked if mutant.function is not None]
    outside = [(number, mutant) for number, mutant in asked if mutant.function is None]
    patience = limits.until - time.monotonic() + 600
    # In a process of its own: the second part needs one that has imported nothing.
    first = Work(0, patience, lambda: ask_collected(tests, functions, inside, limits, heard))
    ((_, told),) = in_processes([first], Limits(1, limits.until), quiet=False)
    if told is None or told == OUT_OF_TIME:
        sys.exit("the tests could not be asked")
    known = Collected(**told)
    yield from ((int(number), answer) for number, answer in known.answers.items())
    for number, answer in ask_at_import(known, outside, limits):
        heard(number, answer)
        yield number, answer


def _report(files: Sequence[str], found: Sequence[Found], with_equivalent: bool) -> bool:
    """Print what was found; whether it is good."""
    print(f"{'module':34} changes equivalent noticed survived  score")
    is_good = True
    for file in [*files, "all"]:
        ours = [one for one in found if file in (one.mutant.file, "all")]
        counted = [one for one in ours if one.reason is None]
        survived = sum(one.survived for one in counted)
        noticed = sum(one.is_done and not one.survived for one in counted)
        score = noticed / len(counted) if counted else 1.0
        print(f"{file:34} {len(ours):7} {len(ours) - len(counted):10} {noticed:7} {survived:8} {score:6.1%}")
        is_good = score >= GOAL
    for one in found:
        if one.survived and one.reason is None:
            print(f"survived  {one.mutant}")
        elif not one.is_done and one.reason is None:
            print(f"not asked  {one.mutant}")
        elif one.is_done and one.answer is None:
            print(f"came to nothing  {one.mutant}")
        elif with_equivalent and one.reason is not None and not one.survived:
            print(f"no equivalent  {one.mutant}: {one.answer}")
            is_good = False
    late = sum(one.answer == OUT_OF_TIME for one in found)
    print(f"{late} of those noticed ran out of time" if late else "none ran out of time")
    return is_good and not any(one.is_done and one.answer is None for one in found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
