"""JSON as Runlane stores it: the same values are accepted on every lane, and what is stored is what was checked.

The limits come from what PostgreSQL, SQLite and Python's own parser can all read back: no NUL, NaN, infinity or lone
surrogate, integers within 64 bits, depth at most 64.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_INTEGER = 2**63 - 1


class JsonInvalid(ValueError):
    """A value that cannot be stored; the text names the place and the reason."""


class _TooDeep(JsonInvalid):
    """So deep that its path would be no help."""


def encode(value: Any, what: str, limit: int = MAX_BYTES) -> bytes:
    """The JSON bytes of `value` after checking it.

    Args:
        value: plain JSON: ``dict`` with ``str`` keys, ``list`` or ``tuple``, text, numbers, booleans and ``None``.
        what: the name of the value in error messages, such as ``"payload"``.
        limit: the greatest number of bytes.

    Raises:
        JsonInvalid: naming the place, such as ``payload.user.age``, and what is wrong there.
    """
    try:
        check(value, what)
    except _TooDeep:
        raise JsonInvalid(f"{what} is nested deeper than {MAX_DEPTH} levels") from None
    try:
        data = orjson.dumps(value)
    except TypeError as error:  # what the check lets through and orjson does not: nothing known
        raise JsonInvalid(f"{what} is no JSON: {error}") from None
    if len(data) > limit:
        raise JsonInvalid(f"{what} is {len(data):,} bytes of JSON; at most {limit:,} are allowed")
    return data


def decode(data: bytes | str) -> Any:
    """The value of stored JSON."""
    return orjson.loads(data)


def dumps(value: Any) -> str:
    """The JSON text of a value that is known to be valid."""
    return orjson.dumps(value).decode()


def check(value: Any, what: str, depth: int = 0) -> None:
    """Raise ``JsonInvalid`` unless `value` is storable JSON."""
    kind = type(value)
    if kind is str:
        _check_text(value, what)
    elif value is None or kind is bool:
        return
    elif kind is int:
        if not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
            raise JsonInvalid(f"{what} is an integer beyond 64 bits; send it as a string")
    elif kind is float:
        if not math.isfinite(value):
            raise JsonInvalid(f"{what} is {value}, which JSON cannot hold; use None or a string")
    elif depth >= MAX_DEPTH and isinstance(value, (dict, list, tuple)):
        raise _TooDeep(f"{what} is nested deeper than {MAX_DEPTH} levels")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise JsonInvalid(f"{what} has the key {key!r} of type {type(key).__name__}; JSON keys are strings")
            _check_text(key, f"a key of {what}")
            check(item, f"{what}.{key}", depth + 1)
    elif kind is list or kind is tuple:
        for index, item in enumerate(value):
            check(item, f"{what}[{index}]", depth + 1)
    else:
        raise JsonInvalid(f"{what} is a {kind.__name__}, which is no JSON value")


def _check_text(text: str, what: str) -> None:
    if text.isascii():
        if "\x00" in text:
            raise JsonInvalid(f"{what} contains a NUL character, which databases cannot store")
        return
    if "\x00" in text:
        raise JsonInvalid(f"{what} contains a NUL character, which databases cannot store")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise JsonInvalid(f"{what} contains a lone surrogate, which is no valid text") from None
