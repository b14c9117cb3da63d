"""Rounds: every peer is measured once after the other, in an order that changes, and again if somebody disturbed it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from attrs import field, frozen

from benchmarks.peers.conditions import Conditions, observed
from benchmarks.peers.driven import Driven, DriverFailed
from benchmarks.peers.measures import MEASURES, Figures, Sizes
from benchmarks.peers.server import Server

#: Cores that others may use during a measurement.
_QUIET = 0.3
#: How much slower than at its fastest the machine may be within a round.
_STEADY = 0.6
#: How often a round is measured until it is taken as it is.
_TRIES = 3


@frozen
class Measurement:
    """One measure of one peer: figures and what surrounded them, or the problem that it ended with."""

    peer: str
    figures: Figures = field(factory=dict)
    conditions: Conditions | None = None
    problem: str | None = None


@frozen
class Round:
    """One measure of all peers, one after the other.

    Args:
        number: counts from 1.
        attempt: counts from 1; a second one means that the first was disturbed.
        taken: whether its figures are the ones of this number.
    """

    measure: str
    number: int
    attempt: int
    measurements: tuple[Measurement, ...]
    taken: bool = False

    @property
    def disturbance(self) -> str | None:
        """Why it is no fair comparison; None if it is one."""
        met = [one.conditions for one in self.measurements if one.conditions is not None]
        if not met:
            return None
        others = max((one.others for one in met if one.others is not None), default=0.0)
        if others > _QUIET:
            return f"other processes used {others:.1f} cores"
        slowest, fastest = min(one.speed for one in met), max(one.speed for one in met)
        if slowest < _STEADY * fastest:
            return f"the machine's speed fell to {slowest / fastest:.0%}"
        return None

    @property
    def noise(self) -> float:
        """Cores that others used, on average."""
        used = [one.conditions.others or 0.0 for one in self.measurements if one.conditions is not None]
        return sum(used) / len(used) if used else 0.0


def order(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: A B C, C B A, B C A, A C B, … so that nobody always comes after the same."""
    turn = (number - 1) // 2 % len(names)
    turned = [*names[turn:], *names[:turn]]
    return turned if number % 2 else turned[::-1]


def rounds(
    peers: dict[str, Driven],
    measures: Sequence[str],
    count: int,
    server: Server,
    sizes: Sizes,
    tell: Callable[[str], None],
) -> Iterator[Round]:
    """Measure everything; yields each number's attempts, one of them taken.

    Args:
        tell: hears of each step, for people who wait.
    """
    process = server.process()
    for number in range(1, count + 1):
        for measure in measures:
            attempts: list[Round] = []
            while not attempts or (attempts[-1].disturbance and len(attempts) < _TRIES):
                done = []
                for name in order(list(peers), number):
                    one = _measured(peers[name], measure, server, process, sizes)
                    tell(f"round {number}/{count} {measure:<10} {_said(one)}")
                    done.append(one)
                attempts.append(Round(measure, number, len(attempts) + 1, tuple(done)))
                if why := attempts[-1].disturbance:
                    tell(f"round {number}/{count} {measure:<10} was disturbed: {why}")
            yield from chosen(attempts)


def chosen(attempts: Sequence[Round]) -> list[Round]:
    """The attempts at one round, the undisturbed one taken, or else the least disturbed."""
    best = min(attempts, key=lambda one: (one.disturbance is not None, one.noise))
    return [Round(one.measure, one.number, one.attempt, one.measurements, one is best) for one in attempts]


def remarks(found: Sequence[Round]) -> list[str]:
    """What a reader has to know about the rounds."""
    told = []
    key = lambda one: (one.measure, one.number)  # noqa: E731
    for (measure, number), group in groupby(sorted(found, key=key), key):
        attempts = list(group)
        taken = next(one for one in attempts if one.taken)
        if len(attempts) > 1 or taken.disturbance:
            reasons = "; ".join(one.disturbance for one in attempts if one.disturbance)
            end = f"taken although {taken.disturbance}" if taken.disturbance else "the last is taken"
            told.append(f"{measure}, round {number}: measured {len(attempts)} times ({reasons}); {end}")
        told += [f"{measure}, round {number}: {one.problem}" for one in taken.measurements if one.problem]
    return told


def _measured(peer: Driven, measure: str, server: Server, process: int | None, sizes: Sizes) -> Measurement:
    try:
        with server.fresh() as database, observed(process) as seen:
            peer.ask(database, "setup")
            figures = MEASURES[measure](peer, database, sizes)
    except DriverFailed as problem:
        return Measurement(peer.name, problem=str(problem))
    return Measurement(peer.name, figures, seen.conditions)


def _said(one: Measurement) -> str:
    if one.problem:
        return f"{one.peer}: {one.problem}"
    return f"{one.peer:<14}" + "  ".join(f"{name} {value:,.1f}" for name, value in one.figures.items())
