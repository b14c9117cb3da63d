"""The short form and the rest are all tests, and no function is left out of the short form but those that are named."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from tests.tiers import LONG, SHORT_FORMS, select

ROOT = Path(__file__).parents[2]


@frozen
class Named:
    """What a tier is chosen by."""

    nodeid: str


def named(*names: str) -> Any:
    return [Named(name) for name in names]


def short(*names: str) -> list[str]:
    return [item.nodeid for item in select("short", named(*names))[0]]


def test_both_tiers_are_all_tests(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    (first, rest), (rest_again, first_again) = select("short", items), select("long", items)
    assert first == first_again
    assert rest == rest_again
    assert sorted(item.nodeid for item in first + rest) == sorted(item.nodeid for item in items)
    assert select("all", items) == (items, [])


def test_a_matrix_is_sampled_on_each_database() -> None:
    faults = [f"tests/faults/test_a.py::test_x[{lane}-{n}]" for lane in ("sqlite", "postgres") for n in range(22)]
    assert short(*faults) == [faults[0], faults[20], faults[22], faults[42]]


def test_each_race_for_an_invariant_is_run_once_the_databases_take_turns() -> None:
    lanes, race = [], "tests/races/test_a.py::test_invariant_"
    for number in range(1, 9):
        races = [f"{race}{number}_x[{lane}-{n}]" for lane in ("sqlite", "postgres") for n in "12"]
        (chosen,) = short(*races)
        lanes.append(chosen.partition("[")[2].partition("-")[0])
    assert set(lanes) == {"sqlite", "postgres"}
    alone = [f"{race}9_z[{database}]" for database in ("postgres", "memory")]
    assert short(*alone) == alone
    assert short(f"{race}3_y", "tests/races/test_a.py::test_y") == [f"{race}3_y"]


def test_every_random_history_is_in_the_short_form() -> None:
    seeds = [
        f"tests/stateful/test_commands.py::test_{place}[{n}{kind}]"
        for place in ("in_memory", "on_sqlite", "on_postgres")
        for n in "12"
        for kind in ("", "-delivering")
    ]
    assert short(*seeds) == seeds


def test_memory_is_left_out_where_a_file_stands_for_it() -> None:
    given = [f"tests/storage/test_a.py::test_x[{lane}]" for lane in ("memory", "sqlite", "postgres")]
    (chosen,) = short(*given)
    assert chosen in given[1:]
    alone = "tests/storage/test_a.py::test_only_here[memory]"
    assert short(alone) == [alone]
    elsewhere = [one.replace("storage", "conformance") for one in given]
    assert short(*elsewhere) == elsewhere


@pytest.mark.parametrize("name", LONG)
def test_what_is_left_out_exists(name: str) -> None:
    path, _, function = name.partition("[")[0].partition("::")
    source = (ROOT / path).read_text("utf-8")
    assert f"def {function}(" in source if function else source
    assert short(name) == []


@pytest.mark.parametrize("what", SHORT_FORMS)
def test_everything_that_takes_long_has_a_short_form(what: str) -> None:
    name = SHORT_FORMS[what]
    path, _, function = name.partition("::")
    source = (ROOT / path).read_text("utf-8")
    assert f"def {function}(" in source if function else "def test_" in source
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    assert any(f"{path}/".startswith(f"{place}/") for place in settings["testpaths"])
    assert short(name) == [name]
