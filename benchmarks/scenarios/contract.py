"""What a scenario is: its options, and one function that measures."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from attrs import Attribute, evolve, field, fields, frozen

from benchmarks import machine
from benchmarks.databases import Databases
from benchmarks.figures import Sample

#: Measures a case so many times; each time with the same random numbers.
Measure = Callable[[Databases, Any, int, int], list[Sample]]
_ABOUT = "benchmarks"


@frozen
class About:
    """How the command line shows an option.

    Args:
        help: one line.
        type: a click type or a Python type.
        each: an option of several values makes a case of each of them; these are the usual ones.
        many: an option of several values that one case takes together.
    """

    help: str
    type: Any
    each: tuple[Any, ...] | None = None
    many: bool = False


@frozen
class Scenario:
    """A scenario.

    Args:
        options: an attrs class whose fields are made with ``option`` and ``each``.
        measure: (databases, options, seed, repeat) to one sample per repeat.
        title: what tells a case from the others of its scenario, made of its options.
        tiny: the smallest sizes, to see that everything works.
        in_memory: whether a case can be measured on the database in memory too, which only one runtime can open.
    """

    name: str
    help: str
    options: type
    measure: Measure
    title: Callable[[Any], str]
    tiny: Mapping[str, Any]
    in_memory: Callable[[Any], bool] = lambda options: False

    def cases(self, given: Mapping[str, Any]) -> Iterator[Any]:
        """The options of each case: every combination of the values that are given, or else usual."""
        names = [attribute.name for attribute in fields(self.options)]
        values = [_values(attribute, given) for attribute in fields(self.options)]
        for chosen in product(*values):
            yield self.options(**dict(zip(names, chosen, strict=True)))


def option(default: Any, help: str, type: Any = int, *, many: bool = False) -> Any:
    """An option with one value in each case (which may be a tuple of `many`)."""
    return field(default=default, metadata={_ABOUT: About(help, type, many=many)})


def each(usual: tuple[Any, ...], help: str, type: Any = int) -> Any:
    """An option of which each value makes a case of its own."""
    return field(default=usual[0], metadata={_ABOUT: About(help, type, each=usual)})


def about(attribute: Attribute[Any]) -> About:
    """What is known about a field of an options class."""
    found: About = attribute.metadata[_ABOUT]
    return found


def repeated(once: Callable[[Databases, Any, random.Random], Sample]) -> Measure:
    """Measure by doing everything anew each time."""

    def measure(places: Databases, options: Any, seed: int, repeat: int) -> list[Sample]:
        return [timed(lambda: once(places, options, random.Random(seed))) for _ in range(repeat)]

    return measure


def timed(once: Callable[[], Sample]) -> Sample:
    """A sample that knows how fast the machine was just before it."""
    speed = machine.speed()
    return evolve(once(), machine_loops_per_s=speed)


def _values(attribute: Attribute[Any], given: Mapping[str, Any]) -> Sequence[Any]:
    known = about(attribute)
    chosen = given.get(attribute.name)
    if known.each is not None:
        return tuple(chosen) if chosen else known.each
    return [attribute.default if chosen is None or chosen == () else chosen]
