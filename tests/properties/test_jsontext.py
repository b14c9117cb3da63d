"""Accepted JSON comes back equal; everything else is refused with a JsonInvalid, never anything worse."""

from __future__ import annotations

import json

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
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
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
    # Encoding once more tells lists from tuples no longer, so compare what both stand for.
    assert json.loads(data) == json.loads(json.dumps(value, allow_nan=False))
    assert b"\x00" not in data
