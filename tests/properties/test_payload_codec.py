"""Encoding: every JSON value comes back, and only as what it was encoded for."""

from __future__ import annotations

from base64 import b64decode, b64encode
from uuid import UUID

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from runlane import AesGcm, CodecContext, PayloadUnreadable, jsontext
from runlane.payload_codec import DataKey, KeyUnavailable, Part, Wrapped
from tests.strategies import identifiers, json_values

CODEC = AesGcm(bytes(range(32)))
contexts = st.builds(
    CodecContext,
    identifiers,
    st.uuids(),
    identifiers,
    st.sampled_from(list(Part)),
    st.none() | identifiers,
    st.builds(DataKey, st.uuids(), st.binary(min_size=32, max_size=32)),
)


@given(json_values, contexts)
def test_every_value_comes_back(value: object, context: CodecContext) -> None:
    plain = jsontext.dumps(value).encode()
    stored = jsontext.decode(jsontext.dumps(CODEC.encode(plain, context)))
    assert CODEC.decode(stored, evolve(context, subject=None)) == plain


@given(json_values, contexts, contexts)
def test_in_another_place_nothing_comes_back(value: object, context: CodecContext, other: CodecContext) -> None:
    stored = CODEC.encode(jsontext.dumps(value).encode(), context)
    for field in ("environment", "run_id", "task_id", "part", "key"):
        elsewhere = evolve(context, **{field: getattr(other, field)})
        if elsewhere != context:
            with pytest.raises(PayloadUnreadable, match="was not encrypted for"):
                CODEC.decode(stored, elsewhere)


@given(json_values, contexts, st.integers(0), st.integers(1, 255))
def test_a_changed_byte_is_found(value: object, context: CodecContext, place: int, by: int) -> None:

    stored = dict(CODEC.encode(jsontext.dumps(value).encode(), context))
    data = bytearray(b64decode(stored["data"]))
    data[place % len(data)] ^= by
    with pytest.raises(PayloadUnreadable):
        CODEC.decode({**stored, "data": b64encode(data).decode()}, context)


@given(st.binary(min_size=32, max_size=32), st.binary(), st.binary())
def test_a_data_key_is_unwrapped_for_its_row_only(secret: bytes, row: bytes, other: bytes) -> None:
    wrapped = CODEC.wrap(secret, row)
    assert CODEC.unwrap(wrapped, row) == secret
    assert secret not in wrapped.data
    if other != row:
        with pytest.raises(KeyUnavailable, match="was changed"):
            CODEC.unwrap(wrapped, other)
    with pytest.raises(KeyUnavailable, match="which is not here"):
        CODEC.unwrap(Wrapped("another", wrapped.data), row)


def test_two_encodings_of_one_value_differ() -> None:
    context = CodecContext("e", UUID(int=1), "t", Part.PAYLOAD, None, DataKey(UUID(int=2), bytes(32)))
    assert CODEC.encode(b"1", context) != CODEC.encode(b"1", context)
