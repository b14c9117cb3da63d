"""The poison: every kind of value that has broken somebody's queue, by name.

What is made anew for each use comes from functions: some of it contains itself, and some of it is large.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any, NoReturn
from uuid import UUID

#: What would change or end a statement if it came to stand in one.
SQL = {
    "a quote": "x' or 'x' = 'x",
    "a statement": "x'; drop table runlane.events; --",
    "a comment": "x'/*",
    "double quotes": 'x"; drop schema "runlane" cascade; --',
    "dollar quotes": "$$; select pg_sleep(60); $$",
    "a backslash quote": "x\\' or 1=1 --",
    "a copy terminator": "\\.",
    "places of parameters": "%s %(name)s ? $1 @p1",
    "a like pattern": "%_%",
    "a union": "x' union select version() --",
}
#: What would do something when it is formatted, looked up, shown or opened.
TRICKS = {
    "percent places": "%s%n%d %%s",
    "format places": "{0} {} {self.__class__} {0!r:>1000000}",
    "a template": "${jndi:ldap://x} {{7*7}} #{1}",
    "an escape": "\\x00\\u0000\\n",
    "rich markup": "[bold red]x[/] [link=file:///etc/passwd]y",
    "a path upwards": "../../../../etc/passwd",
    "a windows path": "..\\..\\boot.ini",
    "a file url": "file:///etc/passwd",
    "a spreadsheet formula": "=cmd|' /C calc'!A0",
    "an html script": "<script>alert(1)</script>",
    "three quotation marks": '"""\nimport os\n"""',
    "an option": "--help",
    "a dash": "-",
    "at a file": "@/etc/passwd",
    "bidi override": "abc\u202edcba",
    "zero width": "a\u200bb\ufeff",
    "combining": "e" + "\u0301" * 50,
    "emoji joined": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "astral": "\U0010ffff\uffff\ufffe",
    "turkish i": "\u0130\u0131iI",
    "not normal": "\u212b\u00c5A\u030a",
    "digits of elsewhere": "\u0661\u0662\u0663",
    "line separators": "a\u2028b\u2029c",
    "the mark": "$runlane",
    "a number": "1e400",
    "not a number": "NaN",
    "null": "null",
    "a uuid in capitals": "019C8F3E-7A52-7B8E-9D54-0C1B2A3D4E5F",
    "a uuid in braces": "{019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f}",
    "the nil uuid": "00000000-0000-0000-0000-000000000000",
    "nearly a uuid": "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5g",
    "infinity as a time": "infinity",
    "a year too far": "10000-01-01T00:00:00+00:00",
    "the year 0": "0000-01-01T00:00:00+00:00",
    "a cron rule": "*/0 99 31 2 *",
}
#: What no terminal and no log is to be given as it is, and what cannot be stored.
CONTROLS = {
    "ansi": "\x1b[31mred\x1b[0m",
    "a title": "\x1b]0;owned\x07",
    "eight-bit csi": "\x9b31m",
    "a bell": "\x07",
    "backspaces": "secret\b\b\b\b\b\b",
    "carriage return": "all is well\rnot",
    "newlines": "one\nERROR two\r\n\nthree",
    "delete": "\x7f",
    "next line": "a\x85b",
    "a tab": "\t",
    "nul": "\x00",
    "nul within": "a\x00b",
    "high surrogate": "\ud800",
    "low surrogate": "a\udfffb",
    "surrogates the wrong way round": "\udc00\ud800",
    "a byte that is no text": "\udcff",
}
LENGTHS = {
    "empty": "",
    "a space": " ",
    "spaces": " \u00a0\u3000\u2003",
    "255": "k" * 255,
    "256": "k" * 256,
    "255 astral": "\U0001f680" * 255,
    "4096": "t" * 4096,
    "4097": "t" * 4097,
    "a million": "x" * 1_000_000,
    "two mebibytes": "x" * (2 * 1024 * 1024),
    "a colon": "a:b",
}
TEXTS: dict[str, str] = SQL | TRICKS | CONTROLS | LENGTHS

NUMBERS: dict[str, Any] = {
    "zero": 0,
    "minus zero": -0.0,
    "minus one": -1,
    "2**15": 2**15,
    "-2**15 - 1": -(2**15) - 1,
    "2**31": 2**31,
    "-2**31 - 1": -(2**31) - 1,
    "2**63 - 1": 2**63 - 1,
    "2**63": 2**63,
    "-2**63": -(2**63),
    "-2**63 - 1": -(2**63) - 1,
    "2**64": 2**64,
    "10**400": 10**400,
    "more digits than are written": 10**5000,
    "half": 0.5,
    "the greatest float": 1.7976931348623157e308,
    "the least float": 5e-324,
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "true": True,
    "false": False,
    "complex": 1j,
    "decimal": Decimal("0.1"),
    "decimal nan": Decimal("sNaN"),
}


class _Unfinished(tzinfo):
    """A time zone that knows no offset."""


TIMES: dict[str, Any] = {
    "the first instant": datetime.min.replace(tzinfo=UTC),
    "the last instant": datetime.max.replace(tzinfo=UTC),
    "before the first": datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    "behind the last": datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
    "naive": datetime(2026, 1, 1),
    "odd offset": datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
    "no offset": datetime(2026, 1, 1, tzinfo=_Unfinished()),
    "a date": date(2026, 1, 1),
    "the longest": timedelta.max,
    "the most negative": timedelta.min,
    "no time": timedelta(0),
    "a microsecond": timedelta(microseconds=1),
}


class Hostile(Exception):
    """What objects of the corpus raise."""


def refuse(*_: Any, **__: Any) -> NoReturn:
    """Takes the place of any method."""
    raise Hostile("this object does not want to be looked at")


class Unshowable:
    """Cannot be shown."""

    __repr__ = __str__ = refuse


class Uncomparable:
    """Cannot be compared, hashed, measured or asked whether it is true."""

    __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __lt__ = __getattr__ = refuse  # type: ignore[assignment]


class Loud:
    """Shows itself with what a terminal obeys, over many lines, at length."""

    def __repr__(self) -> str:
        return "\x1b[31m\n" + "loud " * 100_000


class OwnText(str):
    """Text of its own kind, which lies about itself."""

    __slots__ = ()
    __len__ = __eq__ = __hash__ = __repr__ = __str__ = refuse  # type: ignore[assignment]


class OwnNumber(int):
    """A number of its own kind."""

    __repr__ = __str__ = refuse


class OwnDict(dict[Any, Any]):
    """A dict of its own kind, which cannot be gone through."""

    __iter__ = items = keys = values = __len__ = refuse  # type: ignore[assignment]


class OwnList(list[Any]):
    """A list of its own kind, which cannot be gone through."""

    __iter__ = __len__ = refuse  # type: ignore[assignment]


class Colour(Enum):
    """Neither text nor number."""

    RED = object()


def nested(levels: int, kind: type = list) -> Any:
    """A value in so many lists or dicts."""
    value: Any = 1
    for _ in range(levels):
        value = {"k": value} if kind is dict else [value]
    return value


def cycle() -> list[Any]:
    """Contains itself, once."""
    value: list[Any] = []
    value.append(value)
    return value


def bush() -> list[Any]:
    """Contains itself twice, so that there are more ways through it than anybody can go."""
    value: list[Any] = []
    value += [value, value]
    return value


def knot() -> dict[str, Any]:
    """Contains itself by many names."""
    value: dict[str, Any] = {}
    value.update({str(number): value for number in range(10)})
    return value


def laughs() -> list[Any]:
    """Forty lists in memory, a million million as text."""
    value: list[Any] = ["ha"]
    for _ in range(40):
        value = [value, value]
    return value


def choir() -> list[str]:
    """One text in memory, ten gigabytes as JSON."""
    return ["la" * 50_000] * 100_000


OBJECTS: dict[str, Callable[[], Any]] = {
    "an object": object,
    "a class": lambda: object,
    "a function": lambda: refuse,
    "bytes": lambda: b"\x00\xff",
    "a bytearray": lambda: bytearray(b"x"),
    "a set": lambda: {1, 2},
    "a frozen set": lambda: frozenset({"a"}),
    "a generator": lambda: iter([1, 2]),
    "an ordered dict": lambda: OrderedDict(a=1),
    "an enum": lambda: Colour.RED,
    "a uuid": lambda: UUID(int=1),
    "a uuid of version 4": lambda: UUID("11111111-1111-4111-8111-111111111111"),
    "an exception": lambda: ValueError("x"),
    "unshowable": Unshowable,
    "uncomparable": Uncomparable,
    "loud": Loud,
    "text of its own kind": lambda: OwnText("own"),
    "a number of its own kind": lambda: OwnNumber(7),
    "a dict of its own kind": lambda: OwnDict(a=1),
    "a list of its own kind": lambda: OwnList([1]),
    "64 levels": lambda: nested(64),
    "65 levels": lambda: nested(65),
    "64 levels of dicts": lambda: nested(64, dict),
    "5000 levels": lambda: nested(5000),
    "5000 levels of dicts": lambda: nested(5000, dict),
    "a cycle": cycle,
    "a bush": bush,
    "a knot": knot,
    "laughs": laughs,
    "a choir": choir,
    "an empty list": list,
    "an empty dict": dict,
    "a tuple": lambda: (1, (2, ())),
    "the mark as a key": lambda: {"$runlane": "aes-gcm", "key": "x"},
    "the mark within": lambda: {"a": {"$runlane": 1}},
    "a number as a key": lambda: {1: 2},
    "a huge number as a key": lambda: {10**5000: 1},
    "an unshowable key": lambda: {Unshowable(): 1},
    "a long key": lambda: {"k" * 200_000: [0] * 200_000},
    "keys that differ by their form": lambda: {"\u00c5": 1, "A\u030a": 2, "\u212b": 3},
    "an empty key": lambda: {"": {"": ""}},
    "nan within": lambda: {"a": [math.nan]},
    "a key a terminal obeys": lambda: {"\x1b[31m\n": object()},
    "texts": lambda: list(SQL.values()) + list(TRICKS.values()),
    "tricks as keys": lambda: dict.fromkeys([*SQL.values(), *TRICKS.values()], 1),
}

#: JSON that programs read differently, or not at all.
JSON = {
    "a key twice": '{"a": 1, "a": 2}',
    "a key twice within": '[{"b": {"a": 1, "\\u0061": 2}}]',
    "NaN": "NaN",
    "minus Infinity": "[-Infinity]",
    "1e400": "1e400",
    "2**64": "18446744073709551616",
    "2**63": "9223372036854775808",
    "5000 digits": "1" * 5000,
    "deep": "[" * 100_000,
    "deep and closed": "[" * 900 + "]" * 900,
    "deep objects": '{"a":' * 500 + "1" + "}" * 500,
    "nul": '"\\u0000"',
    "a nul byte": '"\x00"',
    "half a pair": '"\\ud800"',
    "a comment": "{} // x",
    "a comma": "[1,]",
    "single quotes": "{'a': 1}",
    "two values": "1 2",
    "nothing": "",
    "a byte order mark": "\ufeff{}",
    "the mark": '{"$runlane": "sealed"}',
}


def poison() -> Iterator[tuple[str, Any]]:
    """All of it, by name."""
    for kind, found in (("text", TEXTS), ("number", NUMBERS), ("time", TIMES)):
        yield from ((f"{kind}: {name}", value) for name, value in found.items())
    yield from ((f"object: {name}", make()) for name, make in OBJECTS.items())


#: Takes long to refuse, or can be used once.
HEAVY = frozenset(
    {"object: a generator", "object: laughs", "object: a choir", "object: a long key", "text: two mebibytes"}
)


def lanes_for(name: str, apps: list[Any]) -> list[Any]:
    """Where to try this one."""
    return apps[:1] if name in HEAVY else apps
