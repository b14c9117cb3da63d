"""What operators ask, awaitable: see ``runlane.operators``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from runlane import pruning
from runlane.bridge import ThreadCalls
from runlane.events import Recorded
from runlane.operators import Audit, Queues, Runs, Schedules
from runlane.projections.attempts import Attempt
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.pruning import Pruned
from runlane.reading import DEFAULT_LIMIT, Order, Page, QueueState
from runlane.storage.replay import Verification
from runlane.tasks import Queue, Task
from runlane.values import Actor, RunStatus


class AsyncRuns:
    """See ``runlane.operators.Runs``."""

    def __init__(self, runs: Runs, call: ThreadCalls) -> None:
        self._sync = runs
        self._call = call

    async def get(self, id: UUID | str) -> Run:
        """See ``Runs.get``."""
        return await self._call(self._sync.get, id)

    async def list(
        self,
        *,
        statuses: Sequence[RunStatus | str] | None = None,
        tasks: Sequence[Task[..., Any] | str] | None = None,
        queues: Sequence[Queue | str] | None = None,
        correlation_id: str | None = None,
        idempotency_key: str | None = None,
        source_run_id: UUID | str | None = None,
        parent_run_id: UUID | str | None = None,
        schedule_id: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        order: Order = "newest",
    ) -> Page:
        """See ``Runs.list``."""
        return await self._call(
            self._sync.list,
            statuses=statuses,
            tasks=tasks,
            queues=queues,
            correlation_id=correlation_id,
            idempotency_key=idempotency_key,
            source_run_id=source_run_id,
            parent_run_id=parent_run_id,
            schedule_id=schedule_id,
            created_after=created_after,
            created_before=created_before,
            limit=limit,
            cursor=cursor,
            order=order,
        )

    async def count(self, *, tasks: Sequence[Task[..., Any] | str] | None = None) -> dict[RunStatus, int]:
        """See ``Runs.count``."""
        return await self._call(self._sync.count, tasks=tasks)

    async def events(self, id: UUID | str) -> tuple[Recorded, ...]:
        """See ``Runs.events``."""
        return await self._call(self._sync.events, id)

    async def attempts(self, id: UUID | str) -> tuple[Attempt, ...]:
        """See ``Runs.attempts``."""
        return await self._call(self._sync.attempts, id)

    async def wait(self, id: UUID | str, *, timeout: float | None = None) -> Run:
        """See ``Runs.wait``."""
        return await asyncio.to_thread(self._sync.wait, id, timeout=timeout)

    async def prune(
        self,
        older_than: timedelta | str | datetime,
        *,
        statuses: Sequence[RunStatus | str] | None = None,
        limit: int = pruning.DEFAULT_LIMIT,
        cursor: str | None = None,
        actor: Actor | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """See ``Runs.prune``."""
        return await self._call(
            self._sync.prune,
            older_than,
            statuses=statuses,
            limit=limit,
            cursor=cursor,
            actor=actor,
            dry_run=dry_run,
        )


class AsyncSchedules:
    """See ``runlane.operators.Schedules``."""

    def __init__(self, schedules: Schedules, call: ThreadCalls) -> None:
        self._sync = schedules
        self._call = call

    async def list(self) -> tuple[ScheduleState, ...]:
        """See ``Schedules.list``."""
        return await self._call(self._sync.list)


class AsyncQueues:
    """See ``runlane.operators.Queues``."""

    def __init__(self, queues: Queues, call: ThreadCalls) -> None:
        self._sync = queues
        self._call = call

    async def list(self) -> tuple[QueueState, ...]:
        """See ``Queues.list``."""
        return await self._call(self._sync.list)


class AsyncAudit:
    """See ``runlane.operators.Audit``."""

    def __init__(self, audit: Audit, call: ThreadCalls) -> None:
        self._sync = audit
        self._call = call

    async def count(self) -> dict[str, int]:
        """See ``Audit.count``."""
        return await self._call(self._sync.count)

    async def verify(
        self, id: UUID | str | None = None, *, progress: Callable[[int], None] | None = None
    ) -> Verification:
        """See ``Audit.verify``."""
        return await self._call(self._sync.verify, id, progress=progress)
