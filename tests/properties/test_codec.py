"""Every event survives its stored form, whatever it holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runlane import codec
from runlane import events as e
from tests.strategies import EVENTS, failures, sources


def test_the_strategies_know_every_event() -> None:
    assert set(EVENTS) == set(codec.STORED_AS)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=40)
def test_decoding_undoes_encoding(kind: type, data: st.DataObject) -> None:
    event = data.draw(EVENTS[kind])
    stored = codec.encode(event)
    read_back = codec.decode(stored.type, stored.version, stored.data)
    assert read_back == event
    assert type(read_back) is kind
    assert codec.encode(read_back) == stored
    assert isinstance(json.loads(stored.data), dict)
    assert codec.decode(stored.type, stored.version, stored.data.encode()) == event


@given(failures)
@settings(max_examples=40)
def test_failures_survive_their_stored_form(failure) -> None:
    assert codec.failure_from_json(json.loads(json.dumps(codec.to_json(failure)))) == failure


@given(sources, st.integers(-14 * 60, 14 * 60))
@settings(max_examples=40)
def test_instants_keep_their_meaning_in_any_offset(source, minutes: int) -> None:
    zone = timezone(timedelta(minutes=minutes))
    at = datetime(2026, 5, 4, 3, 2, 1, 7, tzinfo=UTC).astimezone(zone)
    stored = codec.encode(e.RunCreated("t", "q", None, source, run_at=at))
    assert codec.decode(stored.type, stored.version, stored.data) == e.RunCreated("t", "q", None, source, run_at=at)
