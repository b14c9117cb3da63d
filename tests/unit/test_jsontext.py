"""What JSON is stored, and what is refused by name at the edge."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

import pytest

from runlane import jsontext
from runlane.jsontext import JsonInvalid


class Mood(StrEnum):
    GOOD = "good"


def nested(levels: int, leaf: object = 1, kind: type = list) -> object:
    value = leaf
    for _ in range(levels):
        value = {"k": value} if kind is dict else [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 2**63 - 1, -(2**63), 0.1, -0.0, 1e308, 5e-324, "", "a\nb\t\x01\x7f", "Zoë \U0001f680",
        "\ud7ff\ue000\uffff", [], {}, [[]], {"": ""}, {"a": [1, {"b": None}]}, [1, "1", 1.0, True],
        nested(64), nested(64, kind=dict), nested(64, leaf="x"),
    ],
)  # fmt: skip
def test_what_json_can_say_comes_back_as_it_went(value: object) -> None:
    read_back = jsontext.decode(jsontext.encode(value, "payload"))
    assert read_back == value
    assert type(read_back) is type(value)


def test_tuples_are_written_as_lists() -> None:
    assert jsontext.encode((1, (2, 3)), "payload") == b"[1,[2,3]]"


def test_the_text_is_utf8_without_blanks() -> None:
    assert jsontext.encode({"a": [1, "ë"]}, "payload") == '{"a":[1,"ë"]}'.encode()
    assert jsontext.dumps({"a": [1, "ë"]}) == '{"a":[1,"ë"]}'


REFUSED = [
    (float("nan"), "nan"),
    (float("inf"), "inf"),
    (float("-inf"), "-inf"),
    (2**63, "beyond 64 bits"),
    (-(2**63) - 1, "beyond 64 bits"),
    (10**400, "beyond 64 bits"),
    ("a\x00b", "NUL"),
    ("ë\x00", "NUL"),
    ("\ud800", "lone surrogate"),
    ("a\udfffb", "lone surrogate"),
    (b"bytes", "bytes"),
    ({1, 2}, "set"),
    (object(), "object"),
    (1j, "complex"),
    (datetime(2026, 1, 1, tzinfo=UTC), "datetime"),
    (UUID(int=1), "UUID"),
    (Mood.GOOD, "Mood"),
    (OrderedDict(a=1), "OrderedDict"),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED)
@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda value: value, r"payload\b"),
        (lambda value: [0, value], r"payload\[1\]"),
        (lambda value: {"user": {"age": value}}, r"payload\.user\.age"),
        (lambda value: {"users": [{}, {"age": value}]}, r"payload\.users\[1\]\.age"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_place_and_reason(value, reason, wrap, path) -> None:
    with pytest.raises(JsonInvalid, match=f"^{path}.*{reason}"):
        jsontext.encode(wrap(value), "payload")


@pytest.mark.parametrize(
    ("key", "reason"),
    [(1, "key 1 of type int"), (None, "NoneType"), (True, "bool"), ((1, 2), "tuple"), (Mood.GOOD, "Mood"),
     ("\x00", "NUL"), ("\ud800", "lone surrogate")],
)  # fmt: skip
def test_keys_must_be_storable_text(key: object, reason: str) -> None:
    with pytest.raises(JsonInvalid, match=rf"payload\.user.*{reason}"):
        jsontext.encode({"user": {key: 1}}, "payload")


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize("leaf", [1, "x", [], {}])
def test_depth_ends_at_64(kind: type, leaf: object) -> None:
    container = isinstance(leaf, list | dict)
    jsontext.encode(nested(64 - container, leaf, kind), "payload")
    with pytest.raises(JsonInvalid, match=r"^payload is nested deeper than 64 levels"):
        jsontext.encode(nested(65 - container, leaf, kind), "payload")


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list = []
    loop.append(loop)
    with pytest.raises(JsonInvalid, match="deeper than 64"):
        jsontext.encode(loop, "payload")


def test_size_ends_at_one_mebibyte() -> None:
    assert len(jsontext.encode("x" * (1024 * 1024 - 2), "payload")) == 1024 * 1024
    with pytest.raises(JsonInvalid, match="payload is 1,048,577 bytes of JSON; at most 1,048,576"):
        jsontext.encode("x" * (1024 * 1024 - 1), "payload")


def test_size_is_counted_in_bytes() -> None:
    jsontext.encode("ë" * 4, "meta", limit=10)
    with pytest.raises(JsonInvalid, match="meta is 11 bytes"):
        jsontext.encode("ë" * 4 + "x", "meta", limit=10)


def test_depth_errors_name_the_value_in_full() -> None:
    with pytest.raises(JsonInvalid, match=r"^payload of schedule reports\.nightly is nested deeper"):
        jsontext.encode(nested(65), "payload of schedule reports.nightly")


def test_a_greater_limit_is_the_one_that_counts_and_is_named() -> None:
    mebibyte = 1024 * 1024
    assert len(jsontext.encode({"data": "x" * 2 * mebibyte}, "it", 3 * mebibyte)) > 2 * mebibyte
    assert jsontext.encode([1] * mebibyte, "it", 3 * mebibyte).count(b"1") == mebibyte
    with pytest.raises(JsonInvalid, match=r"^it is 3,145,733 bytes of JSON; at most 3,145,728 are allowed$"):
        jsontext.encode({"data": "x" * (3 * mebibyte - 6)}, "it", 3 * mebibyte)
    for much in ("x" * (3 * mebibyte + 1), [1] * 2 * mebibyte):
        with pytest.raises(JsonInvalid, match=r"^it is more than 3,145,728 bytes of JSON$"):
            jsontext.encode({"data": much}, "it", 3 * mebibyte)


def test_a_smaller_limit_is_named() -> None:
    with pytest.raises(JsonInvalid, match=r"^meta is more than 10 bytes of JSON$"):
        jsontext.encode(["x" * 2 * 1024 * 1024], "meta", limit=10)
