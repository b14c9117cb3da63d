"""Texts and durations, for every input: accepted as they are, or refused in one way."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runlane import values
from runlane.errors import ConfigurationInvalid
from runlane.tasks import idempotency_ttl
from runlane.values import Actor
from tests.strategies import actors, identifiers

wild_text = st.text(st.characters(), max_size=8)


@given(wild_text | st.text(st.sampled_from("ab:\n\x00\ud800"), max_size=3))
def test_an_identifier_is_accepted_exactly_when_the_contract_allows_it(text: str) -> None:
    legal = 1 <= len(text) <= 255 and ":" not in text
    legal = legal and not any(unicodedata.category(c) in ("Cc", "Cs") for c in text)
    try:
        assert values.identifier("name", text) == text
    except ConfigurationInvalid:
        assert not legal
    else:
        assert legal


@given(wild_text, st.integers(1, 8))
def test_text_made_storable_is_free_text_within_its_limit(text: str, limit: int) -> None:
    made = values.storable(text, limit)
    assert len(made) <= limit
    assert values.free_text("reason", made) == made
    assert values.storable(made, limit) == made


@given(identifiers)
def test_storable_leaves_good_text_alone(text: str) -> None:
    assert values.storable(text) == text


@given(
    st.integers(1, 10**6), st.sampled_from([("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)])
)
def test_a_duration_is_its_number_of_units(number: int, unit: tuple[str, int]) -> None:
    assert values.duration("delay", f"{number}{unit[0]}") == timedelta(milliseconds=number * unit[1])


@given(st.text(st.sampled_from("0123456789msdh.- "), max_size=6))
def test_duration_text_is_understood_or_refused(text: str) -> None:
    if re.fullmatch("[1-9][0-9]*(ms|s|m|h|d)", text):
        assert values.duration("delay", text) > timedelta(0)
    else:
        with pytest.raises(ConfigurationInvalid, match="delay"):
            values.duration("delay", text)


@given(st.datetimes(timezones=st.timezones()))
def test_an_instant_keeps_its_moment(at) -> None:
    try:
        made = values.instant("run_at", at)
    except ConfigurationInvalid:
        assert at.year in (1, 9999)
    else:
        assert made == at.astimezone(UTC)
        assert made.tzinfo is UTC


@given(actors)
def test_actors_survive_their_stored_form(actor: Actor) -> None:
    assert Actor.parse(str(actor)) == actor


@given(st.integers(1, 365 * 30 * 86_400_000).map(lambda n: timedelta(milliseconds=n)))
def test_a_retention_is_stored_to_the_millisecond(ttl: timedelta) -> None:
    assert values.duration("ttl", idempotency_ttl(ttl)) == ttl
