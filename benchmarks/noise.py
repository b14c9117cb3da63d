"""Telling a change from noise, by the spread of the repeats."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Literal

from attrs import frozen

#: A change is believed where chance alone would show one like it less often than this.
ALPHA = 0.05
_EXACT = 200_000  # the most ways to divide the repeats that are all looked at
_DRAWN = 20_000

Sign = Literal["more", "less", "none", "unknown"]


@frozen
class Difference:
    """What two series of repeats say.

    Args:
        ratio: of the medians, the second to the first.
        p: how often chance alone would set two series so far apart (Mann-Whitney, two-sided); None where there are too
            few repeats for it to say anything.
        sign: whether the second is more, less, no different as far as can be seen, or unknown for want of repeats.
    """

    ratio: float
    p: float | None
    sign: Sign


def difference(before: Sequence[float], after: Sequence[float], least: float = 0.0, alpha: float = ALPHA) -> Difference:
    """Compare two series.

    Where there are repeats enough for it to be sure (four each, at the usual `alpha`), the Mann-Whitney test decides.
    With fewer it could not, so their ranges have to lie further apart than either is wide; a single repeat has no
    spread, and nothing can be said.

    Args:
        least: changes of a smaller part than this do not count, however certain.
        alpha: below which p a change is believed.
    """
    first, second = statistics.median(before), statistics.median(after)
    ratio = second / first if first else (1.0 if second == first else float("inf"))
    if min(len(before), len(after)) < 2:
        return Difference(ratio, None, "unknown")
    p = mann_whitney(before, after) if 2 / comb(len(before) + len(after), len(before)) <= alpha else None
    differs = p <= alpha if p is not None else _far_apart(before, after)
    if not differs or abs(ratio - 1) < least or second == first:
        return Difference(ratio, p, "none")
    return Difference(ratio, p, "more" if second > first else "less")


def mann_whitney(before: Sequence[float], after: Sequence[float]) -> float:
    """How likely two samples of one and the same thing differ at least so much in rank; exact for small samples."""
    ranks = _ranks([*before, *after])
    expected = len(before) * (len(ranks) + 1) / 2
    seen = abs(sum(ranks[: len(before)]) - expected) - 1e-9
    if comb(len(ranks), len(before)) <= _EXACT:
        sums = [sum(chosen) for chosen in combinations(ranks, len(before))]
        return sum(abs(one - expected) >= seen for one in sums) / len(sums)
    rng = random.Random(1)
    far = sum(abs(sum(rng.sample(ranks, len(before))) - expected) >= seen for _ in range(_DRAWN))
    return (far + 1) / (_DRAWN + 1)


def _ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 1; equal ones share the middle of theirs."""
    ordered = sorted(values)
    middle = {value: ordered.index(value) + (ordered.count(value) + 1) / 2 for value in set(values)}
    return [middle[value] for value in values]


def _far_apart(before: Sequence[float], after: Sequence[float]) -> bool:
    gap = max(min(after) - max(before), min(before) - max(after))
    return gap > max(max(before) - min(before), max(after) - min(after))
