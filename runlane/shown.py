"""Values of callers in messages: short, on one line, whatever they are."""

from __future__ import annotations

import reprlib

#: The greatest length of a value in a message, in characters.
_LONGEST = 200

_REPR = reprlib.Repr()
_REPR.maxlevel = 4
_REPR.maxtuple = _REPR.maxlist = _REPR.maxarray = _REPR.maxdict = _REPR.maxset = _REPR.maxfrozenset = 10
_REPR.maxdeque = 10
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = _LONGEST


def shown(value: object) -> str:
    """`value` as ``repr`` shows it, cut where that is long; of what cannot be shown, the type."""
    try:
        text = _REPR.repr(value)
    except Exception:  # a __repr__ of the caller's that raises, or more digits than Python will write
        return f"<{type(value).__name__}>"
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    return text if text.isprintable() else ascii(text)[1:-1]


def told(text: object) -> str:
    """Somebody else's text as a log tells it: as it is, but where it is long or a terminal would obey it."""
    return text if isinstance(text, str) and len(text) <= _LONGEST and text.isprintable() else shown(text)


def words_of(error: BaseException) -> str:
    """What an exception says; of one that cannot say it, or says nothing, the type."""
    try:
        return str.__str__(str(error)) or type(error).__name__  # a text of its own kind may do as it likes
    except BaseException:  # a __str__ of somebody else's that raises, whatever it raises
        return type(error).__name__
