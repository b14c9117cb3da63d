"""Histories: drawn at random and played, and where one fails, made small and told so that it can be played again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random

import pytest

from tests.stateful.by_consumers import Consumers
from tests.stateful.by_schedulers import Schedulers
from tests.stateful.by_workers import Workers
from tests.stateful.lanes import Stage
from tests.stateful.machine import COMMANDS, Step

#: Steps of an episode.
LENGTH = 150
#: What a step may fail with; ``pytest.raises`` has an exception of its own for what was not raised.
FAILURES = (Exception, pytest.fail.Exception)


class Everybody(Workers, Schedulers, Consumers):
    """All the commands."""


NAMES = tuple(COMMANDS)
WEIGHTS = tuple(weight for weight, _ in COMMANDS.values())


class Broken(AssertionError):
    """A history fails; the message says how to see it again.

    Args:
        lot: the seed of its episode.
        steps: as few as it takes.
    """

    def __init__(self, stage: Stage, lot: int, steps: Sequence[Step], of: int, error: BaseException) -> None:
        lines = "\n".join(f"    {step!r}," for step in steps)
        super().__init__(
            f"{type(error).__name__}: {error}\n\non {stage.name}, in {len(steps)} of {of} steps; to repeat it:\n"
            f"python -m tests.stateful --lane {stage.name} --lot {lot} --replay '[\n{lines}\n]'"
        )
        self.lot, self.steps = lot, list(steps)


def play(stage: Stage, steps: int, seed: int) -> int:
    """Play episodes until `steps` steps were taken; how many they were.

    Raises:
        Broken: one failed.
    """
    rng, taken = Random(seed), 0
    while taken < steps:
        lot = rng.getrandbits(32)
        drawn: list[Step] = []
        try:
            taken += episode(stage, lot, drawn)
        except FAILURES as error:
            small, last = smaller(stage, lot, drawn, error)
            raise Broken(stage, lot, small, len(drawn), last) from last
    return taken


def episode(stage: Stage, lot: int, drawn: list[Step]) -> int:
    """One episode in an environment of its own; adds its steps to `drawn`, and returns how many were taken."""
    rng = Random(lot)

    def steps() -> Step:
        drawn.append((rng.choices(NAMES, WEIGHTS)[0], rng.getrandbits(32)))
        return drawn[-1]

    return _play(stage, lot, steps)


def replay(stage: Stage, lot: int, history: Sequence[Step]) -> int:
    """The same with given steps."""
    left = iter(history)
    return _play(stage, lot, lambda: next(left, None))


def _play(stage: Stage, lot: int, steps: Callable[[], Step | None]) -> int:
    stage.next_episode()
    machine, taken = Everybody(stage, lot), 0
    try:
        while taken < LENGTH and (step := steps()) is not None:
            taken += machine.step(*step)
        machine.look_at_everything()
    except BaseException:
        with suppress(Exception):
            machine.close()
        raise
    machine.close()
    return taken


def smaller(stage: Stage, lot: int, history: Sequence[Step], error: BaseException) -> tuple[list[Step], BaseException]:
    """A history that fails at the same place with as few steps as leaving out some can give, and its failure."""
    best, size, last = list(history), max(1, len(history) // 2), error
    while size:
        at = 0
        while at < len(best):
            shorter = best[:at] + best[at + size :]
            failure = _failure(stage, lot, shorter)
            if failure is not None and _place(failure) == _place(error):
                best, last = shorter, failure
            else:
                at += size
        size //= 2
    return best, last


def _place(error: BaseException) -> tuple[type, str, int]:
    """Where an error was raised, outside the standard library's and other packages' code as far as can be."""
    trace = error.__traceback__
    found = ("", 0)
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "/tests/stateful/" in name or "/runlane/" in name or "/projections/" in name:
            found = (name, trace.tb_lineno)
        trace = trace.tb_next
    return type(error), *found


def _failure(stage: Stage, lot: int, history: Sequence[Step]) -> BaseException | None:
    try:
        replay(stage, lot, history)
    except FAILURES as error:
        return error
    return None
