"""Quantiles of durations from counts in buckets, each of which is a tenth wider than the one before.

A quantile is off by 5 % at most, whatever the durations are, and two sketches are merged by adding their counts: those
of hours to one of a day, those of tasks to one of a queue.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

#: Seconds: all that is shorter is in bucket 0.
LEAST = 0.001
_GROWTH = 1.1
_LOG = math.log(_GROWTH)


def bucket_of(seconds: float) -> int:
    """The bucket of a duration."""
    return 0 if seconds <= LEAST else math.ceil(math.log(seconds / LEAST) / _LOG)


class Sketch:
    """Counts of durations by bucket."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts = Counter(counts or {})

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bucket_of(seconds)] += 1

    def merge(self, other: Sketch) -> None:
        """Count what the other one has counted."""
        self.counts.update(other.counts)

    def quantile(self, part: float) -> float | None:
        """The duration, in seconds, that `part` of all (0 to 1) do not exceed; None if nothing was counted."""
        if not self.counts:
            return None
        left, bucket = max(1, math.ceil(part * len(self))), 0
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                break
        # The middle of the bucket, as seen from both of its ends.
        return LEAST if bucket == 0 else LEAST * _GROWTH**bucket * 2 / (1 + _GROWTH)
