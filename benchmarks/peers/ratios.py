"""What the rounds come to: medians, and ratios that are taken within a round before their median is."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from attrs import frozen

from benchmarks.peers.rounds import Round


@frozen
class Figure:
    """A line of the table.

    Args:
        unit: rates and bytes are whole numbers; ``ms`` and ``rows`` have a decimal.
        better: ``more`` or ``less``; None where neither is.
    """

    measure: str
    name: str
    title: str
    unit: str
    better: str | None


FIGURES = (
    Figure("drain1", "jobs_per_s", "drain, 1 worker process", "jobs/s", "more"),
    Figure("drain2", "jobs_per_s", "drain, 2 worker processes", "jobs/s", "more"),
    Figure("bulk", "jobs_per_s", "enqueue in bulk", "jobs/s", "more"),
    Figure("single", "jobs_per_s", "enqueue, one caller", "jobs/s", "more"),
    Figure("concurrent", "jobs_per_s", "enqueue, 64 callers", "jobs/s", "more"),
    Figure("concurrent", "p50_ms", "one call of the 64, p50", "ms", "less"),
    Figure("latency", "p50_ms", "call to start, p50", "ms", "less"),
    Figure("latency", "p99_ms", "call to start, p99", "ms", "less"),
    Figure("bytes", "bytes_per_job", "stored per finished job", "bytes", "less"),
    Figure("bytes", "rows_per_job", "rows per finished job", "rows", None),
)


def values(found: Sequence[Round], figure: Figure, peer: str) -> dict[int, float]:
    """A figure of a peer by the number of the round."""
    return {
        one.number: measured.figures[figure.name]
        for one in found
        if one.taken and one.measure == figure.measure
        for measured in one.measurements
        if measured.peer == peer and figure.name in measured.figures
    }


def median(found: Sequence[Round], figure: Figure, peer: str) -> float | None:
    """Over all rounds; None if it was never measured."""
    some = values(found, figure, peer)
    return statistics.median(some.values()) if some else None


def ratio(found: Sequence[Round], figure: Figure, peer: str, reference: str) -> float | None:
    """How many times as good a peer is as the reference, side by side: the median of the rounds that have both.

    Above 1 the peer is better, whether more is better or less.
    """
    both = list(_pairs(found, figure, peer, reference))
    if figure.better is None or not both:
        return None
    return statistics.median(mine / theirs if figure.better == "more" else theirs / mine for mine, theirs in both)


def _pairs(found: Sequence[Round], figure: Figure, peer: str, reference: str) -> Iterator[tuple[float, float]]:
    mine, theirs = values(found, figure, peer), values(found, figure, reference)
    for number in mine.keys() & theirs.keys():
        if mine[number] > 0 and theirs[number] > 0:
            yield mine[number], theirs[number]
