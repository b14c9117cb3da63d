"""Numbers and rows in order, as ``sorted`` has them, with almost nothing of them in memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runlane.simulation.ordering import of_numbers, of_rows
from runlane.simulation.scratch import Scratch
from runlane.simulation.stretches import merged
from tests.recordings import TINY

NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(NUMBERS | st.integers(0, 3), max_size=200))
def test_numbers_are_those_of_sorted(given: list[int]) -> None:
    with Scratch(TINY) as scratch:
        found = of_numbers(scratch, given)
        assert len(found) == len(given)
        assert list(found) == sorted(given)
        assert len(found) == len(given), "how many there were is known behind it"
        assert scratch.used == 0, "what was read has given its room back"


@given(st.lists(st.tuples(st.integers(-2, 2), NUMBERS, st.integers(0, 9)), max_size=100))
def test_rows_are_those_of_sorted(given: list[tuple[int, ...]]) -> None:
    with Scratch(TINY) as scratch:
        assert list(of_rows(scratch, 3, given)) == sorted(given)
        assert scratch.used == 0


def test_room_is_used_again() -> None:
    with Scratch(TINY) as scratch:
        for _ in range(3):
            assert list(of_numbers(scratch, range(1000, 0, -1))) == list(range(1, 1001))
        # Twice what is kept: a merge reads stretches while it writes another one.
        assert 8 * 1000 < scratch.size < 3 * 8 * 1000


@given(st.lists(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=5), max_size=5), max_size=6))
def test_lists_in_order_are_merged(parts: list[list[list[int]]]) -> None:
    in_order = []
    for part in parts:
        numbers = sorted(number for block in part for number in block)
        ends = [sum(map(len, part[: end + 1])) for end in range(len(part))]
        in_order.append([numbers[begin:end] for begin, end in zip([0, *ends], ends, strict=False)])
    found = list(merged(map(iter, in_order)))
    assert [number for block in found for number in block] == sorted(
        n for part in parts for block in part for n in block
    )
    assert all(found)
