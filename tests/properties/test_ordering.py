"""Numbers in order in arrays, as ``sorted`` has them."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runlane.simulation import ordering

numbers = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30)


@pytest.fixture(autouse=True, scope="module")
def short_stretches() -> object:
    before, ordering._STRETCH = ordering._STRETCH, 4
    yield
    ordering._STRETCH = before


@given(numbers)
def test_they_are_those_of_sorted(given: list[int]) -> None:
    assert list(ordering.ordered(given)) == sorted(given)
    assert list(ordering.ordered(array("q", given))) == sorted(given)


@given(numbers)
def test_equal_ones_stay_as_they_are(given: list[int]) -> None:
    assert list(ordering.ordered(given, key=lambda one: one % 3)) == sorted(given, key=lambda one: one % 3)
    assert list(ordering.ordered(range(len(given)), key=given.__getitem__)) == sorted(
        range(len(given)), key=given.__getitem__
    )
