"""Payload types: from what a caller passes to stored JSON, and from stored JSON to what a handler receives.

attrs, dataclasses, TypedDict, NamedTuple and builtin types go through cattrs with strict primitives (text is never
turned into a number); pydantic models and msgspec structs through their own validation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, get_origin
from uuid import UUID

from attrs import frozen
from cattrs import Converter, transform_error
from cattrs.preconf.json import make_converter
from cattrs.v import format_exception

from runlane import jsontext
from runlane.errors import PayloadInvalid
from runlane.payload_codec import MARK
from runlane.shown import shown, words_of


def _strict(kind: type, *accepted: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is kind:
            return value
        if isinstance(value, accepted) and not isinstance(value, bool):
            return kind(value)
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")

    return structure


def _nothing(value: Any, _: Any) -> None:
    """A task without parameters takes no payload."""
    if value is not None:
        raise TypeError(f"expected no payload (None), got {type(value).__name__}")


def _from_text(value: Any, kind: Any) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, str):
        raise TypeError(f"expected {kind.__name__} as text, got {type(value).__name__}")
    try:
        return kind(value)
    except InvalidOperation:
        raise ValueError(f"{shown(value)} is no decimal number") from None


def _is_pydantic(kind: Any) -> bool:
    base = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    return base is not None and isinstance(kind, type) and issubclass(kind, base)


def _is_msgspec(kind: Any) -> bool:
    base = getattr(sys.modules.get("msgspec"), "Struct", None)
    return base is not None and isinstance(kind, type) and issubclass(kind, base)


def _make(forbid_extra_keys: bool) -> Converter:
    converter = make_converter(forbid_extra_keys=forbid_extra_keys, detailed_validation=True)
    converter.register_structure_hook(str, _strict(str))
    converter.register_structure_hook(int, _strict(int))
    converter.register_structure_hook(bool, _strict(bool))
    converter.register_structure_hook(float, _strict(float, int))
    converter.register_structure_hook(type(None), _nothing)
    for kind in (UUID, Decimal):
        converter.register_unstructure_hook(kind, str)
        converter.register_structure_hook(kind, _from_text)
    converter.register_structure_hook_func(_is_pydantic, lambda value, kind: kind.model_validate(value))
    converter.register_unstructure_hook_func(_is_pydantic, lambda value: value.model_dump(mode="json"))
    converter.register_structure_hook_func(_is_msgspec, lambda value, kind: sys.modules["msgspec"].convert(value, kind))
    converter.register_unstructure_hook_func(_is_msgspec, lambda value: sys.modules["msgspec"].to_builtins(value))
    return converter


# A key that the type does not know is a mistake in a trigger, but in a stored payload it may be a newer writer's.
_TRIGGER = _make(forbid_extra_keys=True)
_EXECUTION = _make(forbid_extra_keys=False)
_SCALARS = frozenset({str, int, float, bool, type(None)})
#: What only a declared type can turn into JSON: an untyped reader would get something else back.
_OPAQUE = (bytes, bytearray, set, frozenset)


@frozen
class PayloadSchema:
    """A task's payload type; ``Any`` accepts every JSON value."""

    type: Any = Any

    def to_json(self, payload: Any, what: str = "payload") -> Any:
        """`payload`, an instance of the type or its JSON form, validated and as plain JSON values.

        Raises:
            PayloadInvalid: naming the field.
        """
        try:
            if isinstance(payload, _OPAQUE) and self._is_of(type(payload)):
                value = _TRIGGER.unstructure(payload)
            else:
                value = plain(payload)
            if self.type is not Any:
                self._structured(_TRIGGER, value, what)
            jsontext.encode(value, what)
        except jsontext.Beyond as error:
            raise PayloadInvalid(str(error.of(what))) from None
        except jsontext.JsonInvalid as error:
            raise PayloadInvalid(str(error)) from None
        except PayloadInvalid:
            raise
        except RecursionError:
            raise PayloadInvalid(str(jsontext.too_deep().of(what))) from None
        except Exception as error:  # whatever an object of the caller's raises when it is looked at
            raise PayloadInvalid(f"{what} cannot be turned into JSON: {words_of(error)}") from error
        if type(value) is dict and MARK in value:
            raise PayloadInvalid(f"{what} has the key {MARK!r}, which is reserved for encoded payloads")
        return value

    def from_json(self, value: Any, what: str = "payload") -> Any:
        """What a handler receives for stored JSON.

        Raises:
            PayloadInvalid: the stored value does not fit today's type.
        """
        return value if self.type is Any else self._structured(_EXECUTION, value, what)

    def _is_of(self, kind: Any) -> bool:
        return kind in (self.type, get_origin(self.type))

    def _structured(self, converter: Converter, value: Any, what: str) -> Any:
        try:
            return converter.structure(value, self.type)
        except Exception as error:
            try:
                reasons = transform_error(error, path=what, format_exception=_reason)
            except Exception:  # as for keys that are no text: what is no JSON cannot always be told by its path
                jsontext.check(value, what)
                reasons = [str(error)]
            raise PayloadInvalid(f"{what} does not fit {_type_name(self.type)}: " + "; ".join(reasons)) from error


def plain(value: Any, depth: int = 0, left: jsontext.Room | None = None) -> Any:
    """`value` with every record in it turned into JSON values; what cannot be is left for the JSON check to refuse.

    Raises:
        jsontext.Beyond: it is too deep, as one that contains itself, or holds too much (`left`: ``jsontext.spend``).
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict or isinstance(value, (list, tuple)):
        if depth >= jsontext.MAX_DEPTH:
            raise jsontext.too_deep()
        left = jsontext.spend(jsontext.room() if left is None else left, 2 * len(value))
        if isinstance(value, dict):
            return {
                key: item if type(item) in _SCALARS else plain(item, depth + 1, left) for key, item in value.items()
            }
        return [item if type(item) in _SCALARS else plain(item, depth + 1, left) for item in value]
    return value if isinstance(value, _OPAQUE) else _TRIGGER.unstructure(value)


def result_to_json(value: Any) -> Any:
    """A handler's return value as plain JSON values.

    Raises:
        jsontext.JsonInvalid: it is no JSON, or too large.
    """
    try:
        value = plain(value)
    except jsontext.Beyond as error:
        raise error.of("result") from None
    except RecursionError:
        raise jsontext.too_deep().of("result") from None
    jsontext.encode(value, "result")
    if type(value) is dict and MARK in value:
        raise jsontext.JsonInvalid(f"result has the key {MARK!r}, which is reserved for encoded results")
    return value


def _reason(error: BaseException, kind: type | None) -> str:
    """Why a value does not fit; what pydantic and msgspec say names fields of its own."""
    library = type(error).__module__.partition(".")[0]
    if library.startswith("pydantic"):
        errors: list[dict[str, Any]] = getattr(error, "errors", list)()
        return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'value'}: {one['msg']}" for one in errors)
    if library == "msgspec":
        return str(error)
    if isinstance(error, AttributeError):
        return "expected named fields, as in a dict"
    return format_exception(error, kind)


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
