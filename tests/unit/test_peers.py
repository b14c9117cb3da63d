"""The comparison with peers: orders, repeated rounds, ratios and the table, on rounds made by hand."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import click
import pytest
from rich.console import Console

from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.command import chosen_of
from benchmarks.peers.conditions import Conditions
from benchmarks.peers.driven import Driven
from benchmarks.peers.environments import Unavailable, interpreter
from benchmarks.peers.measures import MEASURES
from benchmarks.peers.ratios import FIGURES, Figure, median, ratio
from benchmarks.peers.rounds import Measurement, Round, chosen, order, remarks
from benchmarks.peers.table import Outcome, show

DRAIN = next(figure for figure in FIGURES if figure.measure == "drain1")
DELAY = next(figure for figure in FIGURES if figure.unit == "ms")
QUIET = Conditions(speed=50e6, others=0.0, seconds=1.0)
BUSY = Conditions(speed=50e6, others=0.9, seconds=1.0)
SLOW = Conditions(speed=20e6, others=0.0, seconds=1.0)


def measured(peer: str, value: float | None, figure: Figure = DRAIN, conditions: Conditions = QUIET) -> Measurement:
    if value is None:
        return Measurement(peer, problem=f"{peer}: a worker ended with 1")
    return Measurement(peer, {figure.name: value}, conditions)


def a_round(number: int, *measurements: Measurement, figure: Figure = DRAIN, taken: bool = True) -> Round:
    return Round(figure.measure, number, 1, measurements, taken)


def test_the_order_changes_from_round_to_round_so_that_nobody_always_comes_after_the_same() -> None:
    orders = ["".join(order("abc", number)) for number in range(1, 7)]
    assert orders == ["abc", "cba", "bca", "acb", "cab", "bac"]


@pytest.mark.parametrize(("other", "why"), [(BUSY, "0.9 cores"), (SLOW, "speed fell to 40%"), (QUIET, None)])
def test_a_round_is_disturbed_by_others_and_by_a_machine_that_slows_down(other: Conditions, why: str | None) -> None:
    found = a_round(1, measured("runlane", 1.0), measured("oban", 1.0, conditions=other)).disturbance
    assert found is None if why is None else why in (found or "")


def test_of_several_attempts_the_undisturbed_one_is_taken_or_else_the_least_disturbed() -> None:
    busy, quiet = [a_round(1, measured("runlane", 1.0, conditions=one), taken=False) for one in (BUSY, QUIET)]
    assert [one.taken for one in chosen([busy, quiet])] == [False, True]
    slow, whispered = [
        a_round(1, measured("runlane", 1.0), measured("oban", 1.0, conditions=one), taken=False)
        for one in (SLOW, Conditions(50e6, 0.2, 1.0))
    ]
    assert [one.taken for one in chosen([slow, whispered])] == [False, True]
    worse = a_round(1, measured("runlane", 1.0, conditions=Conditions(50e6, 1.5, 1.0)), taken=False)
    attempts = chosen([worse, busy])
    assert [one.taken for one in attempts] == [False, True]
    (told,) = remarks(attempts)
    assert "measured 2 times" in told
    assert "taken although other processes used 0.9 cores" in told


def test_a_ratio_is_taken_within_a_round_and_its_median_over_the_rounds() -> None:
    # The machine doubles its speed: the ratio of the medians would say 20 / 15.
    rounds = [
        a_round(1, measured("runlane", 10.0), measured("pgqueuer", 5.0)),
        a_round(2, measured("pgqueuer", 15.0), measured("runlane", 30.0)),
        a_round(3, measured("runlane", 20.0), measured("pgqueuer", 20.0)),
    ]
    assert median(rounds, DRAIN, "runlane") == 20
    assert ratio(rounds, DRAIN, "runlane", "pgqueuer") == 2
    assert ratio(rounds, DRAIN, "pgqueuer", "runlane") == 0.5


def test_above_one_is_better_where_less_is_better_too() -> None:
    rounds = [a_round(1, measured("runlane", 2.0, DELAY), measured("oban", 4.0, DELAY), figure=DELAY)]
    assert ratio(rounds, DELAY, "runlane", "oban") == 2


def test_only_rounds_that_have_both_and_were_taken_count() -> None:
    rounds = [
        a_round(1, measured("runlane", 10.0), measured("oban", None)),
        a_round(2, measured("runlane", 10.0), measured("oban", 5.0)),
        a_round(2, measured("runlane", 1.0), measured("oban", 5.0), taken=False),
    ]
    assert ratio(rounds, DRAIN, "runlane", "oban") == 2
    assert ratio(rounds, DRAIN, "runlane", "dbos") is None
    assert median(rounds, DRAIN, "dbos") is None


def shown(outcome: Outcome, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    show(outcome, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def outcome_of(*names: str) -> Outcome:
    meta = {"versions": {"python": "3.11.7"}, "settings": "as it comes"}
    rounds = [
        Round(
            figure.measure, number, 1, tuple(Measurement(name, {figure.name: 12_345.6}, QUIET) for name in names), True
        )
        for figure in FIGURES
        for number in (1, 2)
    ]
    missing = {name: "needs Python 3.12 or newer" for name in PEERS if name not in names}
    return Outcome({name: Driven(name, Path(), meta=meta) for name in names}, missing, tuple(rounds))


@pytest.mark.parametrize("width", [100, 160])
def test_the_table_fits_and_says_who_is_missing_and_why(width: int) -> None:
    text = shown(outcome_of(*[name for name in PEERS if name != "oban"]), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text, "a column was cut off"
    drain = next(line for line in lines if line.startswith("drain, 1 worker process"))
    assert drain.count("12,346") == 5
    assert drain.count("±0%  12,346") == (0 if width == 100 else 5)  # the spread, where there is room for it
    assert drain.count("–") == 1
    assert "Oban: not measured: needs Python 3.12 or newer" in text
    for name, peer in PEERS.items():
        if name != "oban":
            assert peer.keeps[:40] in text
            assert peer.lacks[:40] in text


def test_names_are_chosen_in_the_order_of_the_list_and_unknown_ones_are_refused() -> None:
    choose = chosen_of(["a", "b", "c"])
    context, parameter = click.Context(click.Command("peers")), click.Option(["--peers"])
    assert choose(context, parameter, "c, a") == ["a", "c"]
    assert choose(context, parameter, None) == ["a", "b", "c"]
    with pytest.raises(click.BadParameter, match="'d' is not one of a, b, c"):
        choose(context, parameter, "a,d")


def test_a_python_that_nobody_has_makes_a_peer_unavailable() -> None:
    assert interpreter((3, 11)) == Path(sys.executable)
    with pytest.raises(Unavailable, match=r"needs Python 3\.99 or newer"):
        interpreter((3, 99))


def test_every_measure_has_a_line_in_the_table() -> None:
    assert {figure.measure for figure in FIGURES} == set(MEASURES)
