"""``struct``: the value classes that are made by the thousand a second.

To readers and type checkers a struct is a frozen attrs class, and every change of one that is written down in code is
refused by both type checkers.  At run time nothing stands in the way of an assignment: to refuse it, attrs has to set
each field of each new object in a roundabout way, which for a run makes 3.5 µs of 0.4 µs (and there are 35 µs in all
for a run in a worker).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as struct
else:
    from functools import partial

    from attrs import define, setters

    struct = partial(define, unsafe_hash=True, on_setattr=setters.NO_OP)

__all__ = ["struct"]
