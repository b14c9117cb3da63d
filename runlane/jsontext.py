"""JSON as Runlane stores it: the same values are accepted on every lane, and what is stored is what was checked.

The limits come from what PostgreSQL, SQLite and Python's own parser can all read back: no NUL, NaN, infinity or lone
surrogate, integers within 64 bits, depth at most 64.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from runlane.shown import shown

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_INTEGER = 2**63 - 1
#: Keys from this length on are cut where messages name a place.
_LONG = 80

#: How many more bytes there may be, in one place for all that look at parts of the same value, and the limit's name.
Room = list[int]


class JsonInvalid(ValueError):
    """A value that cannot be stored; the text names the place and the reason."""


class Beyond(JsonInvalid):
    """So deep, or of so many values, that its path would be no help; the text says which, without a name before it."""

    def of(self, what: str) -> JsonInvalid:
        """The same, of the value called `what`."""
        return JsonInvalid(f"{what} {self}")


def too_deep() -> Beyond:
    """That a value is nested too deep."""
    return Beyond(f"is nested deeper than {MAX_DEPTH} levels")


def room(limit: int = MAX_BYTES) -> Room:
    """At first: so many letters, or half as many values; where few bytes are allowed more, to count them exactly."""
    return [limit if limit > MAX_BYTES else MAX_BYTES, limit]


def encode(value: Any, what: str, limit: int = MAX_BYTES) -> bytes:
    """The JSON bytes of `value` after checking it.

    Args:
        value: plain JSON: ``dict`` with ``str`` keys, ``list`` or ``tuple``, text, numbers, booleans and ``None``.
        what: the name of the value in error messages, such as ``"payload"``.
        limit: the greatest number of bytes.

    Raises:
        JsonInvalid: naming the place, such as ``payload.user.age``, and what is wrong there.
    """
    if not _is_sound(value, MAX_DEPTH, room(limit)):
        try:
            check(value, what, limit=limit)
        except Beyond as error:
            raise error.of(what) from None
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


def _is_sound(value: Any, deeper: int, left: Room) -> bool:
    """Whether ``check`` has nothing against `value`; False as well where it is quicker not to find out.

    It goes through what a program stores all day, and makes no names of places for the case that one is wrong.

    Args:
        deeper: how many more levels there may be.
        left: as in ``spend``.
    """
    kind = type(value)
    if kind is str:
        left[0] -= len(value)
        return left[0] >= 0 and "\x00" not in value and (value.isascii() or _is_encodable(value))
    if kind is int:
        return bool(-MAX_INTEGER - 1 <= value <= MAX_INTEGER)
    if kind is dict:
        for key in value:
            if type(key) is not str or "\x00" in key or not (key.isascii() or _is_encodable(key)):
                return False
            left[0] -= len(key) + 2
        items = value.values()
    elif kind is list:
        left[0] -= 2 * len(value)
        items = value
    else:
        return value is None or kind is bool or (kind is float and math.isfinite(value))
    if not deeper or left[0] < 0:
        return False
    for item in items:  # noqa: SIM110 - a generator costs as much as what it would ask
        if not _is_sound(item, deeper - 1, left):
            return False
    return True


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check(value: Any, what: str, depth: int = 0, left: Room | None = None, limit: int = MAX_BYTES) -> None:
    """Raise ``JsonInvalid`` unless `value` is storable JSON; `left` as in ``spend``, by default the room of `limit`."""
    kind = type(value)
    if kind is str:
        if left is not None:
            spend(left, len(value))
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
        raise too_deep()
    elif kind is dict:
        left = spend(room(limit) if left is None else left, 2 * len(value))
        for key, item in value.items():
            if type(key) is not str:
                raise JsonInvalid(
                    f"{what} has the key {shown(key)} of type {type(key).__name__}; JSON keys are strings"
                )
            _check_text(key, f"a key of {what}")
            left[0] -= len(key)
            check(item, _within(what, key), depth + 1, left)
    elif kind is list or kind is tuple:
        left = spend(room(limit) if left is None else left, 2 * len(value))
        for index, item in enumerate(value):
            check(item, f"{what}[{index}]", depth + 1, left)
    else:
        raise JsonInvalid(f"{what} is a {kind.__name__}, which is no JSON value")


def spend(left: Room, much: int) -> Room:
    """What is left after `much` more bytes: one for each letter at least, two for each value (`1,`).

    A value that holds another one many times over is small in memory and without bounds as text: of two lists, each
    twice in the next, forty times over, come a million million.

    Raises:
        Beyond: nothing is left.
    """
    left[0] -= much
    if left[0] < 0:
        raise Beyond(f"is more than {left[1]:,} bytes of JSON")
    return left


def _within(what: str, key: str) -> str:
    """The place under a key that may be long, or that a terminal would obey."""
    return f"{what}.{key}" if key.isprintable() and len(key) < _LONG else f"{what}[{shown(key)}]"


def _check_text(text: str, what: str) -> None:
    if "\x00" in text:
        raise JsonInvalid(f"{what} contains a NUL character, which databases cannot store")
    if not text.isascii() and not _is_encodable(text):
        raise JsonInvalid(f"{what} contains a lone surrogate, which is no valid text")
