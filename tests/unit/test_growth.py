"""The judgement of a soak: what grows is named, what only jitters, peaks or falls is not."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.chaos.growth import Bound, Course, Sample, judged

MEMORY = {"rss_mb": Bound(1.1, 10.0)}
#: Half an hour, looked at every five seconds.
MOMENTS = [5.0 * number for number in range(360)]


def course_of(value: Callable[[float], float], moments: list[float] = MOMENTS) -> Course:
    (course,) = judged([Sample(at, {"rss_mb": value(at)}) for at in moments], MEMORY)
    return course


def test_a_planted_leak_is_named_with_its_figures() -> None:
    rng = random.Random(1)
    course = course_of(lambda at: 100 + rng.uniform(-8, 8) + 2 * at / 60)  # two megabytes a minute
    assert course.problem is not None
    assert course.problem.startswith("rss_mb grew from ")
    assert course.as_json()["level"] is False


def test_a_leak_of_which_one_measure_of_many_tells() -> None:
    bounds = {"open_files": Bound(1.0, 8.0), "threads": Bound(1.0, 6.0)}
    samples = [Sample(at, {"open_files": 30.0, "threads": 9 + at / 100}) for at in MOMENTS]
    assert [course.name for course in judged(samples, bounds) if course.problem] == ["threads"]


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_growth(seed: int) -> None:
    rng = random.Random(seed)
    assert course_of(lambda _: rng.uniform(60, 140)).problem is None


def test_what_fills_at_the_beginning_is_no_growth() -> None:
    assert course_of(lambda at: min(300.0, 50 + at)).problem is None


def test_peaks_pass_and_what_stays_does_not() -> None:
    assert course_of(lambda at: 900.0 if at % 60 < 25 else 100.0).problem is None
    assert course_of(lambda at: 900.0 if at > 1200 else 100.0).problem is not None


def test_what_falls_is_no_growth() -> None:
    assert course_of(lambda at: 2000 - at).problem is None


def test_the_bound_is_where_it_is_said_to_be() -> None:
    assert course_of(lambda at: 100.0 if at < 1000 else 120.0).problem is None
    assert course_of(lambda at: 100.0 if at < 1000 else 120.1).problem is not None


def test_what_was_measured_too_seldom_is_told() -> None:
    (missing,) = judged([Sample(at, {}) for at in MOMENTS], MEMORY)
    assert missing.problem == "rss_mb was measured 0 times, too seldom to be judged"
    vanished = [Sample(at, {"rss_mb": 100.0} if at < 1200 else {}) for at in MOMENTS]
    assert judged(vanished, MEMORY)[0].problem is not None
    assert judged([], MEMORY)[0].problem is not None
