"""Columns, heaps and parked rows do what a list, a heap and a dictionary do, with almost nothing in memory."""

from __future__ import annotations

import resource
from heapq import heappop, heappush
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runlane import StorageUnavailable
from runlane.simulation.columns import Column
from runlane.simulation.heaps import Heap
from runlane.simulation.parking import Parking
from runlane.simulation.scratch import Scratch
from tests.recordings import TINY

PLACES = st.integers(0, 199)
NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(
    st.integers(0, 150),
    st.lists(st.tuples(PLACES, st.sampled_from(["append", "get", "set"]), NUMBERS), max_size=60),
)
def test_a_column_is_a_list(length: int, steps: list[tuple[int, str, int]]) -> None:
    with Scratch(TINY) as scratch:
        column, model = Column(scratch, "q", range(length)), list(range(length))
        beside = Column(scratch, "b", (one % 100 for one in range(length)))  # two do not write over each other
        for place, what, number in steps:
            if what == "append" or not model:
                column.append(number)
                model.append(number)
            elif what == "set":
                column[place % len(model)] = model[place % len(model)] = number
            else:
                assert column[place % len(model)] == model[place % len(model)]
                assert column[place % len(model) - len(model)] == model[place % len(model)]
        assert len(column) == len(model)
        assert list(column) == model
        assert list(column[3:50:2]) == model[3:50:2]
        assert list(beside) == [one % 100 for one in range(length)]
        assert len(column._chunks) <= TINY.cached
        for beyond in (len(model), len(model) + 1000, -len(model) - 1):
            with pytest.raises(IndexError):
                column[beyond]
            with pytest.raises(IndexError):
                column[beyond] = 0
        column.give_back()
        beside.give_back()
        assert scratch.used == 0


def test_a_column_that_fits_touches_no_file() -> None:
    with Scratch() as scratch:
        sizes = scratch.sizes
        column = Column(scratch, "q", range(sizes.chunk * (sizes.cached - 1)))
        assert sum(column) == sum(range(len(column)))
        assert scratch.size == 0
        column.extend(range(2 * sizes.chunk))
        assert scratch.size > 0


ROWS = st.tuples(st.integers(0, 5), NUMBERS)


@given(st.lists(ROWS | st.none(), max_size=200))
def test_a_heap_gives_the_least_first(steps: list[tuple[int, int] | None]) -> None:
    with Scratch(TINY) as scratch:
        heap, model = Heap(scratch, 2), list[tuple[int, ...]]()
        for row in steps:
            if row is not None:
                heap.push(row)
                heappush(model, row)
            elif model:
                assert heap.pop() == heappop(model)
            assert heap.least() == (model[0] if model else None)
            assert bool(heap) == bool(model)
            assert len(heap._near) <= TINY.near
        assert list(heap.drain()) == sorted(model)
        assert scratch.used == 0


def test_a_long_heap_is_merged() -> None:
    with Scratch(TINY) as scratch:
        heap = Heap(scratch, 1)
        for number in range(2000):
            heap.push(((number * 7919) % 2000,))
        assert len(heap._far) < 4 * TINY.ways
        assert [number for (number,) in heap.drain()] == list(range(2000))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-2, 2), st.integers(-1, 1) | st.none()), max_size=80))
def test_the_best_of_a_key_leaves_the_parking_first(steps: list[tuple[int, int, int | None]]) -> None:
    numbers = count()
    with Scratch(TINY) as scratch, Parking(scratch) as parking:
        model: dict[tuple[int, int], list[tuple[int, ...]]] = {}
        for queue, key, priority in steps:
            rows = model.setdefault((queue, key), [])
            if priority is None:
                assert parking.take(queue, key) == (heappop(rows) if rows else None)
            else:
                row = (priority, -(2**40), next(numbers), 1, 2, 3)
                parking.put(queue, key, row)
                heappush(rows, row)
        assert sum(map(len, parking._near.values())) <= TINY.near
        while (place := parking.any()) is not None:
            assert parking.take(*place) == heappop(model[place])
        assert not any(model.values())


def test_a_full_disk_is_told() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Scratch(TINY) as scratch:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the nearest thing to it for one process
        try:
            with pytest.raises(StorageUnavailable, match="the temporary file of a simulation cannot be written: "):
                Column(scratch, "q", range(1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_under_the_parking_is_told() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = pytest.raises(StorageUnavailable, match="the temporary file of a simulation cannot be written: ")
    try:
        with full, Scratch(TINY) as scratch, Parking(scratch) as parking:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
            for number in range(500_000):  # until SQLite's cache is full
                parking.put(0, number, (number, 0, 0, 0, 0, 0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_file_goes_with_an_error() -> None:
    def failing(scratch: Scratch) -> None:
        with scratch:
            column = Column(scratch, "q", range(1000))
            assert column[0] == 0
            raise RuntimeError("in the middle")

    scratch = Scratch(TINY)
    with pytest.raises(RuntimeError, match="in the middle"):
        failing(scratch)
    assert scratch.size > 0
    with pytest.raises(ValueError, match="closed"):
        scratch.read(0, 8)
