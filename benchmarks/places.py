"""A place to measure in: a database and an environment, opened by any process with the settings of the measurement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import frozen

from benchmarks.jobs import QUEUE, TASKS
from benchmarks.knobs import Knobs
from runlane import AsyncRunlane, Queue, Runlane, Task
from runlane.lanes import Lane, lane_of, postgres_lane, sqlite_lane
from runlane.values import duration


@frozen
class Place:
    """Where a measurement happens; travels to worker processes."""

    url: str
    environment: str
    knobs: Knobs = Knobs()

    def app(
        self, *, queues: Iterable[Queue] = (QUEUE,), tasks: Iterable[Task[..., Any]] = TASKS, **options: Any
    ) -> Runlane:
        """A runtime here, not yet started."""
        return Runlane(self._lane(), **self._options(queues, tasks), **options)

    def async_app(self) -> AsyncRunlane:
        """The same for asyncio programs."""
        return AsyncRunlane(self._lane(), **self._options((QUEUE,), TASKS))

    def _lane(self) -> Lane:
        if not self.knobs.relaxed:
            return lane_of(self.url)
        make = sqlite_lane if self.url.startswith("sqlite") else postgres_lane
        return make(self.url, synchronous_commit=False)

    def _options(self, queues: Iterable[Queue], tasks: Iterable[Task[..., Any]]) -> dict[str, Any]:
        self.knobs.turn()
        options: dict[str, Any] = {"queues": [*queues], "tasks": [*tasks], "environment": self.environment}
        if self.knobs.heartbeat is not None:
            beat = duration("heartbeat", self.knobs.heartbeat)
            options |= {"heartbeat": beat, "lease_duration": 3 * beat}
        return options


def execute(app: Runlane, statement: str, **parameters: Any) -> Any:
    """Execute SQL on a connection of Runlane's; ``{runs}`` and ``{events}`` stand for the tables.

    ``{event_digest}`` stands for the function that works out digests.

    Returns the rows, or how many were changed.
    """
    from sqlalchemy import text

    database = app.lane.database
    schema = "" if database.schema is None else f"{database.schema}."
    names = {name: schema + name for name in ("runs", "events", "event_digest")}
    with database.engine.begin() as connection:
        result = connection.execute(text(statement.format(**names)), parameters)
        return result.all() if result.returns_rows else result.rowcount
