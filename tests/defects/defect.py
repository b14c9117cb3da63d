"""What a planted defect is."""

from __future__ import annotations

from attrs import frozen


@frozen
class Defect:
    """A change of one place that must not survive.

    Args:
        file: from the root of the project.
        sound: the line, or a part of it, as it is; it occurs once in the file.
        broken: what takes its place.
        test: the test that fails with it; without a parameter in brackets all of its cases are run.
        promise: what would be broken; numbers are those of the invariants.
        postgres: whether the test needs a PostgreSQL.
    """

    name: str
    file: str
    sound: str
    broken: str
    test: str
    promise: str
    postgres: bool = False
