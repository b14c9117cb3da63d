"""The suite for a transport as a doorbell: whoever listens is rung for, and nobody who rings has to wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from runlane.lanes import Lane
from runlane.storage.database import Database
from runlane.testing.conformance.cases import PATIENCE, together
from runlane.transport import Publisher, Transport

#: Seconds within which a hundred rings have to return: those who ring have just committed, and have other work.
AT_ONCE = 2.0
HERE = "conformance"


class Bell:
    """Counts its rings, and can be waited for."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def rung(self, more_than: int, what: str) -> int:
        """Wait until it was rung more often than so; how often it was."""
        with self._changed:
            heard = self._changed.wait_for(lambda: self.count > more_than, PATIENCE)
        assert heard, f"{what}: the bell was not rung within {PATIENCE:g} s"
        return self.count


class DoorbellCases:
    """What ``Transport`` says; a bell may always be rung too often."""

    @pytest.fixture
    def transport(self) -> Transport:
        """The adapter, not started: yours to provide."""
        pytest.fail("a subclass of TransportConformance needs a fixture `transport`", pytrace=False)

    @pytest.fixture
    def started(self, transport: Transport) -> Iterator[Transport]:
        """The adapter, started, and closed afterwards."""
        transport.start()
        yield transport
        transport.close()

    def test_it_fits_into_a_lane(self, transport: Transport) -> None:
        lane = Lane(Database("memory:"), transport)
        assert lane.transport is transport

    def test_a_ring_is_heard_by_who_listens_for_the_queue(self, started: Transport) -> None:
        bell = Bell()
        started.listen(HERE, ["a", "b"], bell)
        for queues in (["a"], ["b", "c"], {"b"}, ("a", "b"), None):
            before = bell.count
            started.ring(HERE, queues)
            bell.rung(before, f"ring for {queues}")
        started.unlisten(bell)

    def test_everybody_who_listens_hears(self, started: Transport) -> None:
        bells = [Bell() for _ in range(5)]
        for bell in bells:
            started.listen(HERE, ["a"], bell)
        started.ring(HERE, ["a"])
        for n, bell in enumerate(bells):
            bell.rung(0, f"listener {n} of 5")
            started.unlisten(bell)

    def test_who_no_longer_listens_is_left_alone(self, started: Transport) -> None:
        gone, there = Bell(), Bell()
        started.listen(HERE, ["a"], gone)
        started.listen(HERE, ["a"], there)
        started.unlisten(gone)
        before = gone.count
        started.ring(HERE, ["a"])
        there.rung(0, "the one who still listens")
        assert gone.count == before, "a bell was rung after its `unlisten`"
        started.unlisten(there)
        started.unlisten(there)  # who does not listen may stop listening

    def test_ringing_returns_at_once(self, started: Transport) -> None:
        began = time.monotonic()
        for n in range(100):
            started.ring(HERE, [f"q{n}"])
        took = time.monotonic() - began
        assert took < AT_ONCE, f"100 rings took {took:.1f} s, and those who ring wait for them"

    def test_ringing_never_raises(self, transport: Transport) -> None:
        """Not before the start, nor after the end: the run is stored already, and a trigger must not fail."""
        transport.ring(HERE, None)
        transport.start()
        for queues in ([], ["a" * 255], [f"q{n}" for n in range(500)], ["ä \U0001f600"]):
            transport.ring(HERE, queues)
        transport.close()
        transport.ring(HERE, ["a"])
        transport.close()

    def test_it_can_be_closed_twice_and_started_again(self, transport: Transport) -> None:
        for n in range(3):
            transport.start()
            bell = Bell()
            transport.listen(HERE, ["a"], bell)
            transport.ring(HERE, ["a"])
            bell.rung(0, f"start {n + 1}")
            transport.unlisten(bell)
            transport.close()
            transport.close()

    def test_it_may_be_closed_without_having_been_started(self, transport: Transport) -> None:
        transport.close()

    def test_many_threads_may_use_it_at_once(self, started: Transport) -> None:
        def work() -> int:
            for _ in range(20):
                bell = Bell()
                started.listen(HERE, ["a"], bell)
                started.ring(HERE, ["a"])
                bell.rung(0, "one thread of four")
                started.unlisten(bell)
            return 20

        assert together([work] * 4) == [20] * 4


class TransportConformance(DoorbellCases):
    """What every doorbell has to do; give it a fixture `transport` that returns one, not started."""

    def test_it_is_no_publisher(self, transport: Any) -> None:
        said = f"transport {transport.name} publishes wakeups: use PublisherConformance"
        assert not isinstance(transport, Publisher), said
