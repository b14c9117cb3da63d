"""The short form of the tests, which ``make test`` runs in minutes, and the rest, which ``make test-long`` runs.

Both together are every test there is; CI runs both.  Without ``--tier`` pytest runs whatever it is asked for.

The short form holds every test function, except those that are named here: what is left out are further cases of a
function that differ in a seed, a row of a matrix or an operation.  It has each of them on each database.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import pytest

TIERS = ("short", "long", "all")

#: Of each function in these folders the short form has one case in so many, at least one for each database.
SAMPLED = {"tests/defects/": 4, "tests/faults/": 10, "tests/races/": 10, "tests/stateful/": 20}
#: The memory lane is SQLite without a file: in these folders the file is enough, where a function is given both.
ON_FILES = ("tests/engine/", "tests/export/", "tests/storage/")
#: Whole functions, or files, of the long form: each takes many seconds, and something shorter stands for it.
LONG = (
    # Every scenario, every peer, crowds of processes; the scenarios' own parts are tested one by one.
    "tests/acceptance/test_benchmarks.py::test_all_scenarios_run_and_tell_their_circumstances",
    "tests/acceptance/test_crowd.py",
    "tests/acceptance/test_peers.py",
    # A million rows; SQLite's statements are explained in the short form too.
    "tests/plans/test_postgres.py",
    # Each change of every zone's clocks; a rule for every date of every zone is in the short form.
    "tests/zones/test_cron.py::test_occurrences_are_what_a_look_at_the_clock_every_minute_finds",
    "tests/zones/test_cron.py::test_missed_weeks_around_every_change_are_counted_exactly",
)


def select(tier: str, items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The tests of a tier, and the others, both in the order given.

    Args:
        tier: one of `TIERS`.
        items: all tests that were collected; what the short form holds depends on these.
    """
    collected = list(items)
    if tier == "all":
        return collected, []
    short = set(_short(collected))
    chosen = [item for item in collected if (item in short) == (tier == "short")]
    left = [item for item in collected if (item in short) != (tier == "short")]
    return chosen, left


def _short(items: list[pytest.Item]) -> Iterable[pytest.Item]:
    on_files = {_function(item) for item in items if "sqlite" in _case(item)}
    seen = Counter[tuple[str, ...]]()
    for item in items:
        if item.nodeid.startswith(LONG):
            continue
        if item.nodeid.startswith(ON_FILES) and "memory" in _case(item) and _function(item) in on_files:
            continue
        if one_in := next((n for folder, n in SAMPLED.items() if item.nodeid.startswith(folder)), None):
            kind = (_function(item), *sorted(_case(item) & {"memory", "sqlite", "postgres", "delivering"}))
            seen[kind] += 1
            if seen[kind] % one_in != 1:
                continue
        yield item


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _case(item: pytest.Item) -> set[str]:
    """The words of a case's id: its lane is one of them."""
    return set(re.findall(r"\w+", item.nodeid.partition("[")[2]))
