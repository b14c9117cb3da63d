"""The suite that every publishing transport has to pass, on both kinds of SQS queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runlane.sqs import SqsQueue, SqsTransport
from runlane.testing.conformance import PublisherConformance
from tests.sqs.conftest import WORK


class TestSqs(PublisherConformance):
    """A standard queue."""

    @pytest.fixture
    def transport(self, client: Any, url: str) -> SqsTransport:
        return SqsTransport([SqsQueue(WORK, url=url)], client=client)


class TestSqsFifo(PublisherConformance):
    """A FIFO queue, given by name."""

    @pytest.fixture
    def transport(self, client: Any, make_queue: Callable[..., str]) -> SqsTransport:
        return SqsTransport([SqsQueue(WORK, name=make_queue(fifo=True).rpartition("/")[2])], client=client)
