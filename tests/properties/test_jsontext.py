"""Accepted JSON comes back equal; everything else is refused with a JsonInvalid, never anything worse."""

from __future__ import annotations

import json
from enum import IntEnum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runlane import jsontext
from tests.strategies import json_values

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.binary(max_size=3)
    | st.sampled_from(["\ud800", "\x00", "ü", 2**63, -(2**63), -(2**63) - 1, UUID(int=1), IntEnum("Level", "LOW").LOW]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["\ud800", "\x00", "ü"]), inner, max_size=1)
        | st.dictionaries(st.text(st.characters(), max_size=3) | st.integers(), inner, max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=8,
)


@given(json_values)
def test_decoding_undoes_encoding(value: object) -> None:
    data = jsontext.encode(value, "payload")
    assert jsontext.decode(data) == value
    assert json.loads(data) == value
    assert jsontext.decode(data.decode()) == value


@given(anything)
def test_a_value_is_stored_faithfully_or_refused(value: object) -> None:
    try:
        data = jsontext.encode(value, "payload")
    except jsontext.JsonInvalid:
        with pytest.raises(jsontext.JsonInvalid, match="payload"):
            jsontext.check(value, "payload")
        return
    jsontext.check(value, "payload")  # the quick look agrees with the thorough one
    # Encoding once more tells lists from tuples no longer, so compare what both stand for.
    assert json.loads(data) == json.loads(json.dumps(value, allow_nan=False))
    assert b"\x00" not in data


@pytest.mark.parametrize("much", ["x" * jsontext.MAX_BYTES, [1] * (jsontext.MAX_BYTES // 4), {"k" * 1000: 1}])
def test_what_is_small_in_memory_and_endless_as_text_is_refused_at_once(much: object) -> None:
    with pytest.raises(jsontext.JsonInvalid, match=r"payload is more than 1,048,576 bytes of JSON"):
        jsontext.encode([much] * 300_000, "payload")
