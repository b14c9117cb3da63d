"""Waits stay within what the policy promises, for every policy."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from runlane.policy import LONGEST_DELAY, Exponential, Fixed, Retry

delays = st.integers(1, 10**12).map(lambda n: timedelta(microseconds=n))
exponentials = st.builds(Exponential, delays, max_delay=st.none() | delays, factor=st.floats(1, 1000, allow_nan=False))
backoffs = st.builds(Fixed, delays) | exponentials
spreads = st.floats(-1, 1)


@given(delays, st.none() | delays, st.integers(1, 12), st.integers(1, 30))
def test_exponential_is_the_formula(delay: timedelta, most: timedelta | None, factor: int, n: int) -> None:
    exact = Fraction(delay // timedelta(microseconds=1)) * Fraction(factor) ** (n - 1)
    limit = min(most or LONGEST_DELAY, LONGEST_DELAY) // timedelta(microseconds=1)
    wait = Exponential(delay, max_delay=most, factor=factor).before_retry(n) // timedelta(microseconds=1)
    assert abs(wait - min(exact, limit)) <= Fraction(wait, 10**12) + 1


@given(exponentials, st.integers(1, 500))
def test_waits_never_shrink_and_never_pass_their_limit(backoff: Exponential, n: int) -> None:
    wait, longer = backoff.before_retry(n), backoff.before_retry(n + 1)
    limit = min(backoff.max_delay or LONGEST_DELAY, LONGEST_DELAY)
    assert timedelta(0) < wait <= longer <= limit


@given(backoffs, st.floats(0, 1), st.integers(1, 50), spreads)
def test_jitter_stays_within_its_fraction(backoff, jitter: float, n: int, spread: float) -> None:
    base = backoff.before_retry(n)
    moved = Retry(3, backoff, jitter=jitter).delay(n, spread)
    slack = timedelta(microseconds=1)
    assert moved >= timedelta(0)
    assert base - base * jitter - slack <= moved <= base + base * jitter + slack


@given(backoffs, st.floats(0, 1), st.integers(1, 50), spreads, spreads)
def test_a_greater_spread_never_waits_shorter(backoff, jitter: float, n: int, a: float, b: float) -> None:
    retry = Retry(3, backoff, jitter=jitter)
    assert retry.delay(n, min(a, b)) <= retry.delay(n, max(a, b))
