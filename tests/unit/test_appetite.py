"""When a worker looks for runs: what it has been told, and nothing else, decides."""

from __future__ import annotations

import pytest

from runlane.appetite import Appetite


def sated(drain: bool = False, limited: bool = False) -> Appetite:
    """One that has just looked, at 100 s, and found nothing; the next look is due 10 s later, or nearly."""
    appetite = Appetite(10.0, drain, limited, most=50)
    appetite.asks(5, 100.0)
    appetite.found(0, 5, stored=False, others_stored=False)
    return appetite


def test_the_first_look_is_for_all_the_room_there_is() -> None:
    assert Appetite(10.0, drain=False, limited=False, most=50).wanted(7, 0, 100.0) == 7


@pytest.mark.parametrize("room", [0, -3])
def test_nothing_is_wanted_without_room(room: int) -> None:
    assert Appetite(10.0, drain=False, limited=False, most=50).wanted(room, 0, 100.0) == 0


def test_who_has_found_nothing_looks_again_when_it_is_time_give_or_take_a_tenth() -> None:
    appetite = sated()
    assert appetite.wanted(7, 0, 108.9) == 0
    assert appetite.wanted(7, 0, 111.1) == 7
    assert 8.9 < appetite.until_poll(100.0) < 11.1


def test_a_ring_makes_hungry() -> None:
    appetite = sated(drain=True)
    assert appetite.dry
    appetite.ring()
    assert appetite.wanted(7, 0, 100.1) == 7
    assert not appetite.dry


def test_a_ring_during_a_claim_is_not_lost() -> None:
    appetite = sated()
    appetite.asks(5, 111.0)
    appetite.ring()
    appetite.found(0, 5, stored=False, others_stored=False)
    assert appetite.hungry
    assert not appetite.dry


def test_a_ring_before_a_claim_is_answered_by_it() -> None:
    appetite = sated()
    appetite.ring()
    appetite.asks(5, 101.0)
    appetite.found(0, 5, stored=False, others_stored=False)
    assert not appetite.hungry


@pytest.mark.parametrize(("claimed", "hungry"), [(5, True), (4, False)])
def test_a_claim_that_got_all_it_asked_for_may_have_left_something(claimed: int, hungry: bool) -> None:
    appetite = sated()
    appetite.asks(5, 111.0)
    appetite.found(claimed, 5, stored=False, others_stored=False)
    assert appetite.hungry is hungry


def test_so_may_one_that_came_to_the_bound_of_a_claim() -> None:
    appetite = sated()
    appetite.asks(200, 111.0)
    appetite.found(50, 200, stored=False, others_stored=False)
    assert appetite.hungry


def test_one_claim_at_a_time_until_it_is_known_that_there_is_plenty() -> None:
    appetite = sated()
    appetite.asks(5, 111.0)
    assert not appetite.may_look
    appetite.found(5, 5, stored=False, others_stored=False)
    appetite.asks(5, 111.1)
    assert appetite.may_look


@pytest.mark.parametrize(("drain", "limited"), [(True, False), (False, True)])
def test_where_another_lane_may_have_made_room_both_look(drain: bool, limited: bool) -> None:
    appetite = sated(drain, limited)
    appetite.asks(5, 111.0)
    assert appetite.may_look


def test_a_drain_looks_without_waiting_once_nothing_is_under_way() -> None:
    appetite = sated(drain=True)
    appetite.dry = False
    assert appetite.wanted(7, 1, 100.1) == 0
    assert appetite.wanted(7, 0, 100.1) == 7


def test_a_drain_does_not_look_while_its_last_look_may_be_under_way() -> None:
    appetite = sated(drain=True)
    appetite.asks(5, 111.0)
    assert appetite.awaits_look
    assert appetite.wanted(7, 0, 1000.0) == 0
    appetite.was_refused(5)
    assert not appetite.awaits_look
    assert appetite.wanted(7, 0, 1000.0) == 7


@pytest.mark.parametrize(
    ("claimed", "stored", "others_stored", "dry"),
    [(0, False, False, True), (1, False, False, False), (0, True, False, False), (0, False, True, False)],
)
def test_a_drain_is_dry_if_nothing_was_found_and_nothing_stored_meanwhile(
    claimed: int, stored: bool, others_stored: bool, dry: bool
) -> None:
    appetite = Appetite(10.0, drain=True, limited=False, most=50)
    appetite.asks(5, 100.0)
    appetite.found(claimed, 5, stored, others_stored)
    assert appetite.dry is dry


def test_outcomes_alone_may_be_due_again() -> None:
    appetite = sated(drain=True)
    appetite.asks(0, 100.1)
    appetite.found(0, 0, stored=True, others_stored=False)
    assert not appetite.dry


def test_what_others_hold_locked_is_worth_another_look() -> None:
    appetite = sated(drain=True)
    appetite.asks(5, 100.1)
    appetite.rang_late()
    appetite.found(0, 5, stored=False, others_stored=False)
    assert not appetite.dry
    assert appetite.hungry
