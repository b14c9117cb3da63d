"""Figures for people, as the sentences of checks have them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta


def span(length: timedelta | float) -> str:
    """A length of time, or of so many seconds: ``45 s``, ``12 min``, ``3 h``, ``2 d``."""
    seconds = max(0, int(length.total_seconds() if isinstance(length, timedelta) else length))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def size(number: float) -> str:
    """So many bytes: ``3.2 GiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"


def percent(part: float) -> str:
    """A part of one: ``12 %``."""
    return f"{part:.0%}".replace("%", " %")


def counted(number: int, what: str, most: int | None = None) -> str:
    """A number with its noun; of as many as were looked for at most, there may be more."""
    least = "at least " if most is not None and number >= most else ""
    return f"{least}{number:,} {what}" + ("" if number == 1 or what.endswith("s") else "s")


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
