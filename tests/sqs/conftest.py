"""A real HTTP server that speaks SQS, and queues of each test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.sqs.server import SqsServer
from tests.support import postgres_url, reused_postgres  # noqa: F401


@pytest.fixture(scope="session")
def sqs_server() -> Iterator[SqsServer]:
    """The server; tests use ``sqs``."""
    server = SqsServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sqs_client(sqs_server: SqsServer) -> Iterator[Any]:
    """A client of the server: making one takes longer than most tests."""
    made = sqs_server.client()
    yield made
    made.close()


@pytest.fixture
def sqs(sqs_server: SqsServer) -> Iterator[SqsServer]:
    """The server, listening and without faults."""
    sqs_server.calls.clear()
    yield sqs_server
    sqs_server.faults.clear()
    if not sqs_server.listens:
        sqs_server.start()


@pytest.fixture
def client(sqs: SqsServer, sqs_client: Any) -> Any:
    """A client of the server."""
    return sqs_client


@pytest.fixture
def make_queue(client: Any) -> Callable[..., str]:
    """Makes SQS queues, FIFO ones where asked; their URLs."""

    def make(fifo: bool = False, **attributes: str) -> str:
        if fifo:
            attributes["FifoQueue"] = "true"
        name = f"runlane-{uuid4().hex}" + (".fifo" if fifo else "")
        url: str = client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url

    return make


@pytest.fixture
def url(make_queue: Callable[..., str]) -> str:
    """A standard queue."""
    return make_queue()
