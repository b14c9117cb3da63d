"""A transport that carries wakeups to a list, as badly as a test wants it to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from runlane import Delivery, Lane, PublishOutcome, PublishStatus, Queue, Runlane, Wakeup
from runlane.lanes import lane_of
from runlane.transport.local import LocalTransport

DONE = PublishOutcome(PublishStatus.PUBLISHED)


class Post(LocalTransport):
    """Keeps what is published; `answer` says what becomes of each wakeup, `refuse` is raised instead."""

    name = "post"

    def __init__(self) -> None:
        super().__init__()
        self.wakeups: list[Wakeup] = []
        self.answer: Callable[[Wakeup], PublishOutcome] = lambda _: DONE
        self.refuse: BaseException | None = None
        self.calls = 0

    def publish(self, wakeups: Sequence[Wakeup]) -> list[PublishOutcome]:
        self.calls += 1
        if self.refuse is not None:
            raise self.refuse
        outcomes = [self.answer(wakeup) for wakeup in wakeups]
        self.wakeups += [wakeup for wakeup, outcome in zip(wakeups, outcomes, strict=True) if outcome == DONE]
        return outcomes

    def take(self) -> list[Wakeup]:
        """What has come since the last look."""
        taken, self.wakeups = self.wakeups, []
        return taken


class Office:
    """Runtimes on one lane with a ``Post``."""

    def __init__(self, url: str) -> None:
        self.post = Post()
        self.lane = Lane(lane_of(url).database, self.post)
        self.apps: list[Runlane] = []

    def app(self, *tasks: Any, queues: Sequence[Queue] = (), **options: Any) -> Runlane:
        """A started runtime; every history has to verify at the end."""
        app = Runlane(self.lane, tasks=tasks, queues=queues, **options).start()
        self.apps.append(app)
        return app

    def deliver_all(self, app: Runlane) -> list[Delivery]:
        """Hand every wakeup that has come to a consumer."""
        return [app.execute_delivery(wakeup) for wakeup in self.post.take()]


@pytest.fixture
def office(lane_url: str) -> Iterator[Office]:
    """Each lane in turn, with a transport that carries wakeups."""
    made = Office(lane_url)
    yield made
    for app in made.apps:
        assert app.audit.verify().differences == ()
        app.close()
