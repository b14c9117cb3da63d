"""A real HTTP server that speaks SQS, and queues of each test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from runlane import Queue, Runlane
from runlane.lanes import Lane
from runlane.sqs import SqsConsumer, SqsQueue, SqsTransport
from runlane.storage.database import Database
from tests.sqs.server import SqsServer
from tests.support import PATIENCE, postgres_url, reused_postgres  # noqa: F401

#: The queue of the runtimes made here.
WORK = Queue("work", default=True)


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


@pytest.fixture
def make_sqs_app(client: Any) -> Iterator[Callable[..., Runlane]]:
    """Makes started runtimes on a database and an SQS queue; every history has to verify at the end."""
    made: list[Runlane] = []

    def make(database: str, sqs_url: str, *tasks: Any, busy_timeout: float = 30.0, **options: Any) -> Runlane:
        transport = SqsTransport([SqsQueue(WORK, url=sqs_url)], client=client)
        lane = Lane(Database(database, busy_timeout=busy_timeout), transport)
        made.append(Runlane(lane, queues=[WORK], tasks=tasks, **options).start())
        return made[-1]

    yield make
    for app in made:
        assert app.audit.verify().differences == ()
        app.close()


@pytest.fixture
def consume(client: Any) -> Iterator[Callable[..., SqsConsumer]]:
    """Starts consumers, and stops them."""
    started: list[SqsConsumer] = []

    def consume(app: Runlane, **options: Any) -> SqsConsumer:
        options = {"wait_seconds": 1, "maintenance": False} | options
        consumer = SqsConsumer(app, **options)
        consumer.start()
        started.append(consumer)
        return consumer

    yield consume
    for consumer in started:
        consumer.stop(PATIENCE)


@pytest.fixture
def left(client: Any) -> Callable[[str], int]:
    """How many messages a queue holds, in somebody's hands or not."""

    def left(url: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(number) for number in found.values())

    return left
