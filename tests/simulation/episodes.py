"""Plays plans; what fails is made small, and told so that it can be played again."""

from __future__ import annotations

import gc
import json
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from attrs import evolve, frozen

from runlane import inline, trips
from runlane.session import Session
from tests.simulation import judging
from tests.simulation.kernel import Process
from tests.simulation.patching import Ids, patched
from tests.simulation.plans import Mode, Plan, draw
from tests.simulation.stage import StagedDatabase
from tests.simulation.world import World

#: Steps after the faults within which everything has to end, and (virtual) seconds.
MOST_STEPS, MOST_SECONDS = 40_000, 1800.0
#: After so many episodes those before are cleared away.
_KEPT = 16


@frozen
class Played:
    """What came of an episode: the tally, the digest of its log, and the first thing that was wrong."""

    tally: Counter[str]
    digest: str
    error: BaseException | None


class Broken(AssertionError):
    """An episode fails; `plan` is as small as it could be made."""

    def __init__(self, plan: Plan, of: Plan, error: BaseException, tally: Counter[str]) -> None:
        self.plan, self.error, self.tally = plan, error, tally
        left = (
            f"{len(plan.faults)} of {len(of.faults)} faults, {len(plan.operations)} of {len(of.operations)} operations"
        )
        super().__init__(
            f"{type(error).__name__}: {error}\n\nepisode {of.seed} in {of.mode} mode; to repeat it:\n"
            f"python -m tests.simulation --mode {of.mode} --episode {of.seed} --length {of.steps}\n\n"
            f"in {left}, {plan.steps} of {of.steps} steps; to keep it, save this as "
            "tests/simulation/kept/NAME.json:\n\n" + plan.to_json()
        )


class Theatre:
    """A database that is cleared for each episode; the product patched meanwhile."""

    def __init__(self) -> None:
        self._ids = Ids()
        self._database = StagedDatabase()
        self._database.migrate()
        self._database.put_back()
        self._empty = sqlite3.connect(":memory:")
        # Drawn by nobody's seed, and checkpoints tell of it.
        self._raw().execute("update log_epochs set token = 'simulated', opened_at = '2026-01-01T00:00:00.000000Z'")
        self._raw().backup(self._empty)

    def _raw(self) -> Any:
        borrowed = self._database.engine.raw_connection()
        raw: Any = borrowed.driver_connection
        borrowed.close()
        return raw

    def close(self) -> None:
        """Close the connections."""
        self._empty.close()
        self._database.dispose()

    def play(self, plan: Plan) -> Played:
        """Play a plan."""
        self._database.put_back()
        self._empty.backup(self._raw())
        with patched(self._ids):
            world = World(plan, self._database, self._ids)
            error = _watched(world, partial(_course, world))
        if error is not None:
            world.tally["violations"] += 1
        world.tally["steps"] += world.steps
        world.tally["episodes"] += 1
        world.tally["wakeups lost"] += world.bells.lost + (0 if world.office is None else world.office.lost)
        world.tally["wakeups doubled"] += world.bells.doubled + (0 if world.office is None else world.office.doubled)
        world.tally["virtual seconds"] += int(world.kernel.now - 1000)
        return Played(world.tally, judging.digest(world), error)


def _watched(world: World, course: Callable[[], None]) -> BaseException | None:
    real, beat = (trips.complete, inline.complete), Session.beat
    trips.complete = inline.complete = partial(world.watch, real[0])  # type: ignore[assignment]
    Session.beat = lambda session: world.pulses.watch(beat, session)  # type: ignore[method-assign,assignment]
    world.begin()
    try:
        course()
    except Exception as error:
        world.kernel.fail(error)
    finally:
        world.end()
        trips.complete, inline.complete = real
        Session.beat = beat  # type: ignore[method-assign]
    if world.kernel.error is None:
        try:
            judging.judge(world)
        except Exception as error:
            return error
    return world.kernel.error


def _course(world: World) -> None:
    plan, kernel = world.plan, world.kernel
    kernel.run(lambda: world.steps >= plan.steps)
    if kernel.error is not None or plan.mode is Mode.SAFETY:
        return
    world.heal()
    end, last = kernel.now + MOST_SECONDS, world.steps + MOST_STEPS
    left = ["nobody has looked"]
    while left and kernel.now < end and world.steps < last and kernel.error is None:
        pause = kernel.now + 10.0
        kernel.run(lambda until=pause: kernel.now >= until or world.steps >= last)  # type: ignore[misc]
        left = judging.unsettled(world)
    if kernel.error is None and not left:
        left = _slots_are_free(world)
    if left and kernel.error is None:
        raise AssertionError(f"after {MOST_SECONDS:g} quiet seconds: " + "; ".join(left[:5]))


def _slots_are_free(world: World) -> list[str]:
    """Whether each queue still executes: one run on each has to end soon."""
    kernel, made = world.kernel, []

    def ask(process: Process) -> None:
        app = world._app(process)
        for task in ("plain", "stubborn", "once", "timed"):
            made.append(app.trigger(task, "last|last").run.id)  # noqa: PERF401  # those made count if a later one fails

    world._enter(ask, "o1")
    end = kernel.now + 120.0
    while kernel.now < end and kernel.error is None:
        pause = kernel.now + 5.0
        kernel.run(lambda until=pause: kernel.now >= until)  # type: ignore[misc]
        if len(made) == 4 and not judging.unsettled(world):
            return []
    return [f"of the last runs {len(made)} were made", *judging.unsettled(world)]


def play(
    steps: int, seed: int, modes: Sequence[Mode] = tuple(Mode), length: int = 600, patience: float = 120.0
) -> Counter[str]:
    """Play episodes until so many steps were taken; the tally.  `patience` as in ``smaller``.

    Raises:
        Broken: one failed.
    """
    with theatre() as stage:
        tally = Counter[str]()
        for number, drawn in enumerate(seeds(seed)):
            if tally["steps"] >= steps:
                return tally
            if number % _KEPT == _KEPT - 1:
                gc.collect()
            plan = draw(drawn, modes[number % len(modes)], length)
            played = stage.play(plan)
            tally.update(played.tally)
            if played.error is not None:
                small, last = smaller(stage, plan, played.error, patience)
                raise Broken(small, plan, last, tally) from last
    raise AssertionError("unreachable")


@contextmanager
def theatre() -> Iterator[Theatre]:
    """A theatre; what the product has to say goes to the judges alone."""
    logger = logging.getLogger("runlane")
    level, propagates = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    stage = Theatre()
    # Nothing but whole episodes is garbage worth looking for, and when that is done hangs on nothing but the plans.
    gc.disable()
    gc.collect()
    gc.freeze()
    try:
        yield stage
    finally:
        gc.unfreeze()
        gc.enable()
        stage.close()
        logger.setLevel(level)
        logger.propagate = propagates


def seeds(seed: int) -> Iterator[int]:
    """The seeds of the episodes of a run."""
    rng = Random(seed)
    while True:
        yield rng.getrandbits(32)


def smaller(stage: Theatre, plan: Plan, error: BaseException, patience: float) -> tuple[Plan, BaseException]:
    """A plan that fails alike with as few faults, operations and steps as can be found in `patience` real seconds."""
    until = time.monotonic() + patience
    best, last = plan, error

    def attempt(candidate: Plan) -> bool:
        nonlocal best, last
        played = stage.play(candidate)
        if played.error is None or _kind(played.error) != _kind(error):
            return False
        best, last = candidate, played.error
        # What is planned for later than the end is not needed.
        ended = played.tally["steps"]
        if candidate.mode is Mode.SAFETY and ended < candidate.steps:
            best = evolve(candidate, steps=ended, faults=tuple(one for one in candidate.faults if one.step <= ended))
        return True

    attempt(plan)
    for what in ("faults", "operations", "faults"):
        size = max(1, len(getattr(best, what)) // 2)
        while size and time.monotonic() < until:
            at = 0
            while at < len(getattr(best, what)) and time.monotonic() < until:
                if not attempt(best.without(what, range(at, at + size))):
                    at += size
            size //= 2
    for name, least in (("clients", None), ("tickers", 0), ("workers", 1), ("concurrency", 1)):
        while least is not None and getattr(best, name) > least and time.monotonic() < until:
            if not attempt(evolve(best, **{name: getattr(best, name) - 1})):
                break
    return best, last


def _kind(error: BaseException) -> tuple[Any, ...]:
    """What kind of failure it is: its text without its numbers and ids."""
    words = [word for word in str(error).split() if not any(letter.isdigit() for letter in word)]
    return type(error), *words[:6]


def keep(plan: Plan, error: BaseException, folder: Path) -> Path:
    """Keep a plan where the short test finds it."""
    path = folder / f"{plan.mode}-{plan.seed}.json"
    path.write_text(plan.to_json(), "utf-8")
    assert Plan.from_json(path.read_text("utf-8")) == plan, json.dumps(str(error))
    return path
