"""The suite for a transport that publishes: an answer for each wakeup, and no surprise when the provider is away."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from runlane.errors import TransportUnavailable
from runlane.testing.conformance.cases import QUEUE, START, together
from runlane.testing.conformance.transport import HERE, DoorbellCases
from runlane.transport import Publisher
from runlane.values import new_run_id
from runlane.wakeup import PublishOutcome, PublishStatus, Wakeup


def wakeups(count: int, queue: str = QUEUE, **options: dict[str, str]) -> list[Wakeup]:
    """Wakeups of runs that may exist or not: the transport is not to care."""
    return [
        Wakeup(HERE, new_run_id(), queue, START + timedelta(microseconds=n), options.get("trace_carrier"))
        for n in range(count)
    ]


class PublisherConformance(DoorbellCases):
    """What every transport that publishes has to do; give it a fixture `transport`, not started.

    It has to take wakeups for a queue called ``work``; override `queue` where your provider knows another.
    """

    queue = QUEUE

    def test_it_says_that_it_publishes(self, transport: Publisher) -> None:
        assert isinstance(transport, Publisher), "a publishing transport has a method `publish`"

    @pytest.mark.parametrize("count", [0, 1, 7, 45])
    def test_each_wakeup_has_an_outcome(self, started: Publisher, count: int) -> None:
        self.outcomes(started, wakeups(count, self.queue), [PublishStatus.PUBLISHED])

    def test_what_it_is_given_stays_as_it_was(self, started: Publisher) -> None:
        given = tuple(wakeups(3, self.queue))
        before = list(given)
        started.publish(given)
        assert list(given) == before

    def test_wakeups_may_be_published_again(self, started: Publisher) -> None:
        given = wakeups(2, self.queue)
        for _ in range(2):
            self.outcomes(started, [*given, *given], [PublishStatus.PUBLISHED])

    def test_a_carrier_of_traces_travels_along(self, started: Publisher) -> None:
        given = wakeups(2, self.queue, trace_carrier={"traceparent": "00-ab-cd-01", "state": "ä"})
        self.outcomes(started, given, [PublishStatus.PUBLISHED])

    def test_one_that_cannot_be_taken_does_not_hinder_the_others(self, started: Publisher) -> None:
        """A provider may refuse a wakeup; that is its outcome, in its place, and no exception."""
        huge = wakeups(1, self.queue, trace_carrier={"state": "x" * 2_000_000})
        found = self.outcomes(started, [*wakeups(1, self.queue), *huge, *wakeups(1, self.queue)], list(PublishStatus))
        assert found[0].status is found[2].status is PublishStatus.PUBLISHED, f"the outcomes are {found}"

    def test_many_threads_may_publish_at_once(self, started: Publisher) -> None:
        together([lambda: self.outcomes(started, wakeups(9, self.queue), [PublishStatus.PUBLISHED])] * 4)

    def test_it_publishes_again_after_a_restart(self, transport: Publisher) -> None:
        for _ in range(2):
            transport.start()
            self.outcomes(transport, wakeups(2, self.queue), [PublishStatus.PUBLISHED])
            transport.close()

    def test_outside_its_life_it_raises_transport_unavailable_at_most(self, transport: Publisher) -> None:
        for moment in ("before the start", "after the end"):
            try:
                found = transport.publish(wakeups(2, self.queue))
            except TransportUnavailable:
                found = [PublishOutcome(PublishStatus.FAILED)] * 2
            assert len(found) == 2, f"{moment} two wakeups have {len(found)} outcomes"
            transport.start()
            transport.close()

    @staticmethod
    def outcomes(
        transport: Publisher, given: Sequence[Wakeup], allowed: Sequence[PublishStatus]
    ) -> Sequence[PublishOutcome]:
        """Publish, and check that each wakeup has an outcome, of an allowed status."""
        found = transport.publish(given)
        assert len(found) == len(given), f"{len(given)} wakeups have {len(found)} outcomes"
        assert all(isinstance(one, PublishOutcome) for one in found), f"outcomes must be PublishOutcome, not {found}"
        wrong = [one for one in found if one.status not in allowed]
        assert not wrong, f"expected {' or '.join(allowed)} for each wakeup, there are {wrong}"
        return found
