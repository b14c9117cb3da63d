"""Changes that nobody can tell from outside, each with the reason.

They are subtracted from the changes, and counted beside them.  An entry that fits none of them, or more
than it says, is an error.
"""

from __future__ import annotations

from attrs import frozen


@frozen
class Equivalent:
    """A change of a line, by the line's text and the change's, and why it changes nothing.

    `times`: how often the file has such a line with such a change, if more than once: the reason has to fit all.
    """

    file: str
    statement: str
    change: str
    reason: str
    times: int = 1


EQUIVALENT: tuple[Equivalent, ...] = ()
