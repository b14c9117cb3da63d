"""Retry arithmetic: how many attempts, and how long between them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from attrs import field, frozen

from runlane.errors import ConfigurationInvalid
from runlane.shown import shown
from runlane.values import duration

#: The longest wait a backoff may reach, whatever its formula says.
LONGEST_DELAY = timedelta(days=365)


Exceptions = type[BaseException] | tuple[type[BaseException], ...]


def _delay(value: timedelta | str) -> timedelta:
    return duration("backoff delay", value)


def _max_delay(value: timedelta | str | None) -> timedelta | None:
    return None if value is None else duration("backoff max_delay", value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationInvalid(f"{name} must be a number; got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ConfigurationInvalid(f"{name} is out of range: {shown(value)}") from None


def _factor(value: float) -> float:
    return _number("Exponential factor", value)


def _jitter(value: float) -> float:
    return _number("Retry jitter", value)


def _exceptions(value: Exceptions) -> tuple[type[BaseException], ...]:
    kinds = value if isinstance(value, tuple) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ConfigurationInvalid(f"retry_on and give_up_on take exception classes; got {shown(kind)}")
    return kinds


def _exceptions_or_none(value: Exceptions | None) -> tuple[type[BaseException], ...] | None:
    return None if value is None else _exceptions(value)


@frozen
class Fixed:
    """Wait the same `delay` before each retry."""

    delay: timedelta = field(converter=_delay)

    def before_retry(self, n: int) -> timedelta:
        """The wait before retry `n` (the first retry is 1)."""
        return min(self.delay, LONGEST_DELAY)


@frozen
class Exponential:
    """Wait ``min(delay * factor ** (n - 1), max_delay)`` before retry n."""

    delay: timedelta = field(converter=_delay)
    max_delay: timedelta | None = field(default=None, kw_only=True, converter=_max_delay)
    factor: float = field(default=2.0, kw_only=True, converter=_factor)

    def __attrs_post_init__(self) -> None:
        if not 1.0 <= self.factor <= 1000.0:
            raise ConfigurationInvalid(f"Exponential factor must be from 1 to 1000; got {self.factor}")

    def before_retry(self, n: int) -> timedelta:
        """The wait before retry `n` (the first retry is 1)."""
        longest = min(self.max_delay or LONGEST_DELAY, LONGEST_DELAY)
        try:
            return min(self.delay * self.factor ** (n - 1), longest)
        except OverflowError:
            return longest


Backoff = Fixed | Exponential


@frozen
class Retry:
    """How often a run may fail, and how long it waits in between.

    Args:
        max_attempts: total attempts, counted in failures; a release or a lost lease spends none.
        backoff: the wait before each retry.
        jitter: the greatest fraction by which a wait is lengthened or shortened at random, 0 to 1.
        max_lost: after so many lost leases the run fails with code ``lease_lost``.
        retry_on: if given, only these exceptions are retried.
        give_up_on: these exceptions are never retried.
    """

    max_attempts: int
    backoff: Backoff = field(factory=lambda: Exponential("1s", max_delay="1h"))
    jitter: float = field(default=0.1, converter=_jitter)
    max_lost: int = 3
    retry_on: tuple[type[BaseException], ...] | None = field(default=None, converter=_exceptions_or_none)
    give_up_on: tuple[type[BaseException], ...] = field(default=(), converter=_exceptions)

    def __attrs_post_init__(self) -> None:
        for name, least in (("max_attempts", 1), ("max_lost", 1)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= 1_000_000:
                raise ConfigurationInvalid(
                    f"Retry {name} must be an integer from {least} to 1000000; got {shown(value)}"
                )
        if not isinstance(self.backoff, (Fixed, Exponential)):
            raise ConfigurationInvalid(f"Retry backoff must be Fixed(…) or Exponential(…); got {shown(self.backoff)}")
        if not 0.0 <= self.jitter <= 1.0:
            raise ConfigurationInvalid(f"Retry jitter must be from 0 to 1; got {self.jitter}")

    def retries(self, error: BaseException) -> bool:
        """Whether an attempt that ended with `error` may be repeated at all."""
        if isinstance(error, self.give_up_on):
            return False
        return self.retry_on is None or isinstance(error, self.retry_on)

    def delay(self, retry: int, spread: float) -> timedelta:
        """The wait before retry `retry`, moved by `spread` (-1 to 1, drawn by the caller) within the jitter."""
        base = self.backoff.before_retry(retry)
        return max(timedelta(0), base + base * (self.jitter * spread))


#: What a task without ``retry=`` gets: one attempt.
ONE_ATTEMPT = Retry(1)
