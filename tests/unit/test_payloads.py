"""Payload types: what a trigger accepts, what is stored, and what a handler receives."""

import dataclasses
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from runlane.errors import PayloadInvalid
from runlane.jsontext import JsonInvalid
from runlane.payloads import PayloadSchema, result_to_json


class Color(Enum):
    RED = "red"


@attrs.frozen
class ByAttrs:
    user_id: str
    n: int = 1


@dataclasses.dataclass(frozen=True)
class ByDataclass:
    user_id: str
    n: int = 1


class ByTypedDict(TypedDict):
    user_id: str
    n: NotRequired[int]


class ByNamedTuple(NamedTuple):
    user_id: str
    n: int = 1


class ByPydantic(pydantic.BaseModel):
    user_id: str
    n: int = 1


class ByMsgspec(msgspec.Struct):
    user_id: str
    n: int = 1


@attrs.frozen
class Order:
    lines: list[ByAttrs]
    by_name: dict[str, ByDataclass]
    at: datetime
    color: Color
    maybe: ByAttrs | None = None
    pair: tuple[int, str] = (1, "x")
    score: float = 0.5


RECORDS = [ByAttrs, ByDataclass, ByPydantic, ByMsgspec]
CLASSES = [ByAttrs, ByDataclass]


def stored(kind: Any, payload: Any) -> Any:
    return PayloadSchema(kind).to_json(payload)


def received(kind: Any, value: Any) -> Any:
    return PayloadSchema(kind).from_json(value)


@pytest.mark.parametrize("kind", RECORDS)
def test_an_instance_is_stored_as_json_and_received_as_it_was(kind: Any) -> None:
    value = stored(kind, kind(user_id="u", n=2))
    assert value == {"user_id": "u", "n": 2}
    assert received(kind, value) == kind(user_id="u", n=2)


@pytest.mark.parametrize("kind", [*RECORDS, ByTypedDict])
def test_the_json_form_is_accepted_as_well(kind: Any) -> None:
    assert stored(kind, {"user_id": "u"}) == {"user_id": "u"}
    assert received(kind, {"user_id": "u"}) == kind(user_id="u")


def test_a_named_tuple_is_stored_and_received_as_it_was() -> None:
    value = stored(ByNamedTuple, ByNamedTuple("u", 2))
    assert received(ByNamedTuple, value) == ByNamedTuple("u", 2)


@pytest.mark.parametrize("payload", [["u", 2], ("u", 2)])
def test_a_named_tuple_is_stored_as_its_values(payload: Any) -> None:
    assert stored(ByNamedTuple, payload) == stored(ByNamedTuple, ByNamedTuple("u", 2)) == ["u", 2]
    assert received(ByNamedTuple, ["u", 2]) == ByNamedTuple("u", 2)


@pytest.mark.parametrize("payload", [[5, 1], ["u", "2"], ["u", 1, 2], [], {"user_id": "u"}, None, "u"])
def test_what_does_not_fit_a_named_tuple_is_refused(payload: Any) -> None:
    with pytest.raises(PayloadInvalid, match=r"^payload does not fit ByNamedTuple"):
        stored(ByNamedTuple, payload)


def test_nested_values_survive() -> None:
    order = Order([ByAttrs("a"), ByAttrs("b", 2)], {"x": ByDataclass("c")}, datetime(2026, 1, 1, tzinfo=UTC), Color.RED)
    value = stored(Order, order)
    assert value["lines"] == [{"user_id": "a", "n": 1}, {"user_id": "b", "n": 2}]
    assert value["color"] == "red"
    assert received(Order, value) == order


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (str, "x"), (int, 5), (int, 2**63 - 1), (bool, False), (float, 1.5), (dict, {"a": [1]}), (list, [1, "x"]),
        (type(None), None), (list[int], [1, 2]), (dict[str, int], {"a": 1}), (int | None, None), (int | str, "5"),
        (int | str, 5), (Literal["a", "b"], "b"), (ByAttrs | None, ByAttrs("u")), (tuple[int, str], (1, "x")),
        (set[int], {1, 2}), (Color, Color.RED), (datetime, datetime(2026, 1, 1, tzinfo=UTC)), (bytes, b"\x00\xff"),
    ],
)  # fmt: skip
def test_builtin_types_survive(kind: Any, payload: Any) -> None:
    read_back = received(kind, stored(kind, payload))
    assert read_back == payload
    assert type(read_back) is type(payload)


def test_an_integer_is_a_float_to_a_handler_that_wants_one() -> None:
    assert type(received(float, stored(float, 1))) is float


@pytest.mark.parametrize("payload", [None, 1, "x", [1, {"a": None}], {"a": [1.5, True]}])
def test_without_a_type_every_json_value_is_received_as_it_was(payload: Any) -> None:
    assert received(Any, stored(Any, payload)) == payload


@pytest.mark.parametrize("kind", [Any, dict, dict[str, list[int]]])
def test_what_is_stored_is_a_copy(kind: Any) -> None:
    payload = {"a": [1]}
    value = stored(kind, payload)
    payload["a"].append(2)
    assert value == {"a": [1]}


def test_without_a_type_a_record_is_received_as_its_json() -> None:
    assert received(Any, stored(Any, ByAttrs("u"))) == {"user_id": "u", "n": 1}


@pytest.mark.parametrize("payload", [object(), {"a": {1, 2}}, {1: 2}, [float("nan")], "\x00", 2**63, {"a": object()}])
def test_without_a_type_what_is_no_json_is_refused(payload: Any) -> None:
    with pytest.raises(PayloadInvalid, match="payload"):
        stored(Any, payload)


def endless() -> list:
    loop: list = []
    loop.append(loop)
    return loop


def deep() -> list:
    value: list = []
    for _ in range(5_000):
        value = [value]
    return value


@pytest.mark.parametrize("make", [endless, deep])
@pytest.mark.parametrize("kind", [Any, list])
def test_a_payload_without_a_bottom_is_refused(kind: Any, make: Any) -> None:
    with pytest.raises(PayloadInvalid, match="payload is nested deeper than 64 levels"):
        stored(kind, make())


@pytest.mark.parametrize("make", [endless, deep])
def test_a_result_without_a_bottom_is_refused(make: Any) -> None:
    with pytest.raises(JsonInvalid, match="result is nested deeper than 64 levels"):
        result_to_json(make())


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    ("payload", "place"),
    [
        ({"user_id": 5}, r"expected str @ payload\.user_id"),
        ({"user_id": None}, r"expected str @ payload\.user_id"),
        ({"user_id": "u", "n": "5"}, r"expected int @ payload\.n"),
        ({"user_id": "u", "n": 5.0}, r"expected int @ payload\.n"),
        ({"user_id": "u", "n": True}, r"expected int @ payload\.n"),
        ({}, r"required field missing @ payload\.user_id"),
        ({"user_id": "u", "age": 3}, r"extra fields found \(age\) @ payload"),
        (None, "payload"),
        ("u", "payload"),
        (["u", 1], "payload"),
        (5, "payload"),
    ],
)
def test_what_does_not_fit_names_the_field_and_the_type(kind: Any, payload: Any, place: str) -> None:
    with pytest.raises(PayloadInvalid, match=f"^payload does not fit {kind.__name__}: .*{place}"):
        stored(kind, payload)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_key_that_is_no_text_is_refused(kind: Any) -> None:
    with pytest.raises(PayloadInvalid, match="payload"):
        stored(kind, {"user_id": "u", 1: 2})


def test_bytes_are_no_text() -> None:
    with pytest.raises(PayloadInvalid, match="str"):
        stored(str, b"x")


@pytest.mark.parametrize("kind", [ByPydantic, ByMsgspec])
@pytest.mark.parametrize("payload", [{"user_id": 5}, {"user_id": "u", "n": "five"}, {}, None, "u", [1]])
def test_other_libraries_refuse_by_their_own_validation(kind: Any, payload: Any) -> None:
    with pytest.raises(PayloadInvalid, match=f"^payload does not fit {kind.__name__}"):
        stored(kind, payload)


@pytest.mark.parametrize("kind", [ByPydantic, ByMsgspec])
def test_other_libraries_name_the_field_too(kind: Any) -> None:
    with pytest.raises(PayloadInvalid, match=r"user_id"):
        stored(kind, {"user_id": 5})


@pytest.mark.parametrize(
    ("payload", "place"), [({"user_id": 5}, "user_id"), ({}, "user_id"), ({"user_id": "u", "age": 3}, "age")]
)
def test_what_does_not_fit_a_typed_dict_names_the_field(payload: Any, place: str) -> None:
    with pytest.raises(PayloadInvalid, match=place):
        stored(ByTypedDict, payload)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (int, "5"), (int, 5.0), (int, True), (int, None), (float, "1.5"), (float, True), (str, 5), (str, None),
        (bool, 1), (bool, "true"), (list[int], ["1"]), (dict[str, int], {"a": "1"}), (int | None, "5"),
        (Literal["a"], "b"), (Color, "blue"), (tuple[int, str], [1]), (datetime, "soon"), (type(None), 0),
        (type(None), ""), (list[int], 5), (float, 10**400),
    ],
)  # fmt: skip
def test_no_text_becomes_a_number_and_no_number_text(kind: Any, payload: Any) -> None:
    with pytest.raises(PayloadInvalid, match=r"^payload does not fit"):
        stored(kind, payload)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"lines": [{"user_id": "a"}, {"user_id": 5}]}, r"payload\.lines\[1\]\.user_id"),
        ({"by_name": {"x": {}}}, r"payload\.by_name\['x'\]\.user_id"),
        ({"maybe": {"user_id": "u", "n": "1"}}, r"payload\.maybe"),
        ({"score": "1"}, r"payload\.score"),
    ],
)
def test_a_misfit_deep_inside_is_named_by_its_path(change: dict, place: str) -> None:
    fine = {"lines": [], "by_name": {}, "at": "2026-01-01T00:00:00+00:00", "color": "red"}
    assert stored(Order, fine) == fine
    with pytest.raises(PayloadInvalid, match=place):
        stored(Order, fine | change)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_stored_key_that_todays_type_does_not_know_is_passed_over(kind: Any) -> None:
    assert received(kind, {"user_id": "u", "age": 3}) == kind(user_id="u")


@pytest.mark.parametrize("kind", RECORDS)
def test_a_stored_value_that_does_not_fit_todays_type_is_refused(kind: Any) -> None:
    with pytest.raises(PayloadInvalid, match=f"does not fit {kind.__name__}"):
        received(kind, {"user": "u"})


def test_the_name_of_the_value_is_in_the_message() -> None:
    with pytest.raises(PayloadInvalid, match=r"^payload of schedule nightly does not fit int"):
        PayloadSchema(int).to_json("5", "payload of schedule nightly")


def test_a_payload_that_fits_but_cannot_be_stored_is_refused() -> None:
    for kind, payload in [(str, "\x00"), (int, 2**63), (float, float("inf")), (str, "x" * 1024 * 1024)]:
        with pytest.raises(PayloadInvalid, match="payload"):
            stored(kind, payload)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (list[ByAttrs], [ByAttrs("u")]),
        (dict[str, ByAttrs], {"a": ByAttrs("u")}),
        (list[ByPydantic], [ByPydantic(user_id="u")]),
        (list[datetime], [datetime(2026, 1, 1, tzinfo=UTC)]),
    ],
)
def test_records_inside_containers_survive(kind: Any, payload: Any) -> None:
    assert received(kind, stored(kind, payload)) == payload


@pytest.mark.parametrize("value", [[ByAttrs("u")], {"all": [ByAttrs("u")]}])
def test_records_inside_results_are_kept_as_json(value: Any) -> None:
    assert "user_id" in str(result_to_json(value))


@attrs.frozen
class ById:
    id: UUID


def test_ids_survive() -> None:
    assert received(ById, stored(ById, ById(UUID(int=1)))) == ById(UUID(int=1))


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (None, None), (0, 0), ("", ""), ([1], [1]), ({"a": None}, {"a": None}),
        (ByAttrs("u"), {"user_id": "u", "n": 1}),
        (ByPydantic(user_id="u"), {"user_id": "u", "n": 1}), (Color.RED, "red"),
    ],
)  # fmt: skip
def test_results_are_kept_as_json(value: Any, result: Any) -> None:
    assert result_to_json(value) == result


@pytest.mark.parametrize("value", [object(), {"a": object()}, float("nan"), "x" * 1024 * 1024, {1: 2}])
def test_a_result_that_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(JsonInvalid, match=r"^result"):
        result_to_json(value)
