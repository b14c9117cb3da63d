"""Payload types from modules whose annotations are postponed, and so are only text when the class is made."""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from runlane import task
from runlane.errors import PayloadInvalid
from runlane.payloads import PayloadSchema


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
    n: int


class ByPydantic(pydantic.BaseModel):
    user_id: str
    n: int = 1


class ByMsgspec(msgspec.Struct):
    user_id: str
    n: int = 1


KINDS = [ByAttrs, ByDataclass, ByTypedDict, ByPydantic, ByMsgspec]


@pytest.mark.parametrize("kind", KINDS)
def test_an_instance_survives(kind: Any) -> None:
    schema = PayloadSchema(kind)
    assert schema.from_json(schema.to_json(kind(user_id="u", n=2))) == kind(user_id="u", n=2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_misfit_is_refused(kind: Any) -> None:
    with pytest.raises(PayloadInvalid, match="user_id"):
        PayloadSchema(kind).to_json({"user_id": 5, "n": 1})


def test_the_annotation_of_a_handler_is_resolved() -> None:
    @task("t")
    def handler(payload: ByAttrs) -> None:
        """Wants a record."""

    assert handler.payload.type is ByAttrs
