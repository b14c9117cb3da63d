"""How many runs are claimed ahead: arithmetic on what a worker has seen of its handlers and of the database."""

from __future__ import annotations

import pytest

from runlane.ahead import Ahead


def after(ahead: Ahead, rate: float, took: float, seconds: float = 2.0, trip: float = 0.005) -> int:
    """What is wanted when so many handlers a second have come back for `seconds`, each after `took` seconds."""
    ahead.returned(trip)
    wanted = 0
    for step in range(int(seconds * 100) + 1):
        left = int(rate * step / 100)
        wanted = ahead.wanted(1000 + step / 100, left, left * took)
    return wanted


def test_as_many_as_come_back_in_six_round_trips() -> None:
    assert after(Ahead(200), rate=4000, took=0.05) == pytest.approx(120, abs=1)
    assert after(Ahead(200), rate=4000, took=0.05, trip=0.002) == pytest.approx(48, abs=1)
    assert after(Ahead(10), rate=200, took=0.05) == pytest.approx(6, abs=1)


def test_at_most_as_many_as_there_are_slots() -> None:
    assert after(Ahead(200), rate=40_000, took=0.005) == 200
    assert after(Ahead(3), rate=4000, took=0.0005) == 3
    assert after(Ahead(1), rate=4000, took=0.0002) == 1


def test_no_more_than_begin_in_a_moment_however_slow_the_database_is() -> None:
    assert after(Ahead(200), rate=1000, took=0.05, trip=1.0) == pytest.approx(50, abs=1)


@pytest.mark.parametrize(("rate", "took"), [(20, 10.0), (1000, 0.2), (1900, 0.101)])
def test_none_where_handlers_are_slow(rate: float, took: float) -> None:
    assert after(Ahead(200), rate, took) == 0


def test_none_where_most_slots_are_stuck() -> None:
    """One slot of two hundred is left to quick handlers; by their time alone there would be 120."""
    assert after(Ahead(200), rate=20, took=0.05) == 0


def test_none_at_the_beginning_and_more_as_it_becomes_certain() -> None:
    ahead = Ahead(200)
    assert ahead.wanted(0.0, 0, 0.0) == 0
    ahead.returned(0.005)
    assert ahead.wanted(0.01, 0, 0.0) == 0
    few = ahead.wanted(0.06, 40, 2.0)
    assert few < ahead.wanted(0.26, 800, 40.0) <= 120
    assert few < 15


def test_what_was_long_ago_is_forgotten() -> None:
    ahead = Ahead(200)
    assert after(ahead, rate=4000, took=0.05) > 0
    assert ahead.wanted(1002.9, 8000, 400.0) == 0
    assert ahead.wanted(5000.0, 8000, 400.0) == 0


def test_handlers_that_become_slow_are_noticed_within_half_a_second() -> None:
    ahead = Ahead(200)
    assert after(ahead, rate=4000, took=0.05) > 0
    assert ahead.wanted(1002.4, 8040, 400.0 + 40 * 0.4) < 36
    assert ahead.wanted(1002.6, 8080, 400.0 + 80 * 0.4) == 0


def test_none_for_a_while_after_some_had_to_be_given_back() -> None:
    ahead = Ahead(200)
    assert after(ahead, rate=4000, took=0.05) > 0
    ahead.gave_back(1002.0)
    assert ahead.wanted(1002.1, 8400, 420.0) == 0
    assert ahead.wanted(1003.9, 15_600, 780.0) == 0
    assert ahead.wanted(1004.1, 16_400, 820.0) > 0


def test_a_round_trip_counts_for_an_eighth() -> None:
    ahead = Ahead(200)
    ahead.returned(0.008)
    assert after(ahead, rate=500, took=0.05, trip=0.016) == pytest.approx(25, abs=1)


def test_what_comes_back_in_one_round_trip_is_enough_for_one() -> None:
    ahead = Ahead(200)
    assert not ahead.is_ample(0)
    assert after(ahead, rate=4000, took=0.05) == pytest.approx(120, abs=1)
    assert ahead.is_ample(21)
    assert not ahead.is_ample(19)
    assert not ahead.is_ample(0)


def test_half_of_them_are_enough_where_more_come_back_than_there_are_slots() -> None:
    ahead = Ahead(200)
    assert after(ahead, rate=40_000, took=0.005) == 200
    assert ahead.is_ample(100)
    assert not ahead.is_ample(99)
