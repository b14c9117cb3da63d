"""The course of strikes: made once from a seed, and the same for everybody."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping

from attrs import frozen

#: How often each happens, in a second.
RATES: Mapping[str, float] = {"kill": 0.3, "pause": 0.25, "terminate": 0.25}


@frozen
class Strike:
    """One blow.

    Args:
        at: seconds since the first job.
        kind: ``kill`` (SIGKILL), ``pause`` (SIGSTOP for `seconds`) or ``terminate`` (one connection, by the server).
        worker: the place of the worker that is hit.
        which: of the connections there are, sorted, the one at this part of them.
    """

    at: float
    kind: str
    worker: int = 0
    seconds: float = 0.0
    which: float = 0.0


def course(seed: int, seconds: float, workers: int, window: float) -> list[Strike]:
    """Blows from the third second on; never are more than half of the workers paused at once.

    A pause is longer than the window, by a tenth to four fifths: others have taken the job over, and are at it or have
    just finished it, when the sleeper wakes.
    """
    rng = random.Random(seed)
    strikes: list[Strike] = []
    awake_from = [0.0] * workers
    at = 3.0
    while (at := at + rng.expovariate(sum(RATES.values()))) < seconds:
        kind = rng.choices([*RATES], [*RATES.values()])[0]
        worker, long, which = rng.randrange(workers), window * rng.uniform(1.1, 1.8), rng.random()
        if kind == "pause":
            asleep = sum(until > at for until in awake_from)
            if awake_from[worker] > at or asleep >= workers // 2:
                continue
            awake_from[worker] = at + long
            strikes.append(Strike(at, kind, worker, seconds=long))
        elif kind == "kill":
            awake_from[worker] = at
            strikes.append(Strike(at, kind, worker))
        else:
            strikes.append(Strike(at, kind, which=which))
    return strikes


def told(strikes: Iterable[Strike]) -> dict[str, int]:
    """How many there are of each kind."""
    return dict(Counter(strike.kind for strike in strikes))


def jobs(seed: int, seconds: float, rate: float) -> list[dict[str, float]]:
    """So many jobs a second, each of which takes half a second to three and a half."""
    rng = random.Random(f"jobs of {seed}")
    return [{"n": n, "at": n / rate, "seconds": round(rng.uniform(0.5, 3.5), 3)} for n in range(int(seconds * rate))]
