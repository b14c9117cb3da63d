"""The digest of an event: known values, and that nothing of an event can change without it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runlane.digests import START, Facts, chained, digest, microseconds

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
AT = datetime(2026, 3, 1, 12, 30, 15, 250, tzinfo=UTC)
FIRST: Facts = (ID, 1, "run.created", 1, AT, "default", "application:app", '{"task_id":"t","queue":"q","payload":"é"}')
SECOND: Facts = (ID, 2, "run.leased", 1, AT, "default", "worker:w", '{"attempt":1}')


def test_the_bytes_are_those_that_anybody_can_write_down() -> None:
    """What the documentation says, done by hand; a change here breaks every log there is."""
    first = (
        "01890a5d-ac96-774b-bcce-b302099a8057\n1\n1\n1772368215000250\nrun.created\ndefault\napplication:app\n"
        '{"task_id":"t","queue":"q","payload":"é"}'
    )
    second = (
        '01890a5d-ac96-774b-bcce-b302099a8057\n2\n1\n1772368215000250\nrun.leased\ndefault\nworker:w\n{"attempt":1}'
    )
    before = sha256(first.encode()).digest()
    expected = [before, sha256(before + second.encode()).digest()]
    assert chained([FIRST, SECOND], {}) == (expected, {ID: expected[1]})
    assert expected[0].hex() == "3bf1d17f889c6e169455da6ea22a2dfe99265d4ddd978df2d76acf033f2799a3"


def test_streams_do_not_mix() -> None:
    other: Facts = (UUID(int=1), *FIRST[1:])
    digests, last = chained([FIRST, other, SECOND], {})
    alone, _ = chained([FIRST, SECOND], {})
    assert [digests[0], digests[2]] == alone
    assert last == {ID: digests[2], UUID(int=1): digests[1]}


def test_a_stream_goes_on_where_it_was() -> None:
    (first, second), _ = chained([FIRST, SECOND], {})
    assert chained([SECOND], {ID: first})[0] == [second]
    assert chained([SECOND], {})[0] != [second]


@pytest.mark.parametrize("place", range(8))
def test_each_fact_counts(place: int) -> None:
    other = (UUID(int=1), 3, "run.failed", 2, AT + timedelta(microseconds=1), "else", "worker:x", '{"attempt":2}')
    changed = (*FIRST[:place], other[place], *FIRST[place + 1 :])
    assert chained([FIRST], {})[0] != chained([changed], {})[0]  # type: ignore[list-item]


lines = st.text(st.characters(exclude_characters="\n", codec="utf-8"), max_size=8)
facts = st.tuples(lines, st.integers(1, 9), lines, st.integers(1, 2), st.integers(0, 99), lines, lines, lines)


@given(facts, facts)
def test_no_two_events_have_the_same_bytes(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (digest(START, *one) == digest(START, *other)) is (one == other)  # type: ignore[arg-type]


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), st.integers(-720, 720))
def test_an_instant_is_the_same_in_every_zone(at: datetime, minutes: int) -> None:
    instant = at.replace(tzinfo=UTC)
    there = instant.astimezone(timezone(timedelta(minutes=minutes)))
    assert microseconds(there) == microseconds(instant)
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds(instant)) == instant
