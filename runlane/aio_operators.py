"""What operators ask, awaitable: see ``runlane.operators``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Unpack
from uuid import UUID

from runlane import bulk, pruning
from runlane.bridge import ThreadCalls
from runlane.bulk import Bulk
from runlane.engine.trigger import Triggered
from runlane.events import Recorded
from runlane.operators import IdempotencyKeys, Runs, pauses
from runlane.projections.attempts import Attempt
from runlane.projections.occurrences import Occurrence
from runlane.projections.queues import QueueControl
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.pruning import Pruned
from runlane.reading import DEFAULT_LIMIT, Order, Page, QueueState, Where
from runlane.steering import Queues, Schedules
from runlane.tasks import Queue, Task
from runlane.values import Actor, RunStatus


class AsyncRuns:
    """See ``runlane.operators.Runs``."""

    def __init__(self, runs: Runs, call: ThreadCalls) -> None:
        self._sync = runs
        self._call = call

    async def get(self, id: UUID | str, *, at_sequence: int | None = None, at: datetime | None = None) -> Run:
        """See ``Runs.get``."""
        return await self._call(self._sync.get, id, at_sequence=at_sequence, at=at)

    async def list(
        self,
        *,
        statuses: Sequence[RunStatus | str] | None = None,
        tasks: Sequence[Task[..., Any] | str] | None = None,
        queues: Sequence[Queue | str] | None = None,
        correlation_id: str | None = None,
        idempotency_key: str | None = None,
        singleton_key: str | None = None,
        concurrency_key: str | None = None,
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
            singleton_key=singleton_key,
            concurrency_key=concurrency_key,
            source_run_id=source_run_id,
            parent_run_id=parent_run_id,
            schedule_id=schedule_id,
            created_after=created_after,
            created_before=created_before,
            limit=limit,
            cursor=cursor,
            order=order,
        )

    async def count(self, **where: Unpack[Where]) -> dict[RunStatus, int]:
        """See ``Runs.count``."""
        return await self._call(partial(self._sync.count, **where))

    async def events(self, id: UUID | str) -> tuple[Recorded, ...]:
        """See ``Runs.events``."""
        return await self._call(self._sync.events, id)

    async def attempts(self, id: UUID | str) -> tuple[Attempt, ...]:
        """See ``Runs.attempts``."""
        return await self._call(self._sync.attempts, id)

    async def why(self, id: UUID | str) -> tuple[str, ...]:
        """See ``Runs.why``."""
        return await self._call(self._sync.why, id)

    async def find_active(
        self, task: Task[..., Any] | str, *, idempotency_key: str | None = None, singleton_key: str | None = None
    ) -> Run | None:
        """See ``Runs.find_active``."""
        return await self._call(
            self._sync.find_active, task, idempotency_key=idempotency_key, singleton_key=singleton_key
        )

    async def find_current(self, task: Task[..., Any] | str, idempotency_key: str) -> Run | None:
        """See ``Runs.find_current``."""
        return await self._call(self._sync.find_current, task, idempotency_key)

    async def cancel(
        self,
        id: UUID | str,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Run:
        """See ``Runs.cancel``."""
        return await self._call(self._sync.cancel, id, actor=actor, reason=reason, meta=meta)

    async def rerun(
        self,
        id: UUID | str,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Run:
        """See ``Runs.rerun``."""
        return await self._call(self._sync.rerun, id, actor=actor, reason=reason, meta=meta)

    async def retry(
        self,
        id: UUID | str,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Run:
        """See ``Runs.retry``."""
        return await self._call(self._sync.retry, id, actor=actor, reason=reason, meta=meta)

    async def cancel_many(
        self,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        limit: int = bulk.LIMIT,
        cursor: str | None = None,
        **where: Unpack[Where],
    ) -> Bulk:
        """See ``Runs.cancel_many``."""
        return await self._call(
            partial(self._sync.cancel_many, actor=actor, reason=reason, limit=limit, cursor=cursor, **where)
        )

    async def rerun_many(
        self,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        limit: int = bulk.LIMIT,
        cursor: str | None = None,
        **where: Unpack[Where],
    ) -> Bulk:
        """See ``Runs.rerun_many``."""
        return await self._call(
            partial(self._sync.rerun_many, actor=actor, reason=reason, limit=limit, cursor=cursor, **where)
        )

    async def retry_many(
        self,
        *,
        actor: Actor | None = None,
        reason: str | None = None,
        limit: int = bulk.LIMIT,
        cursor: str | None = None,
        **where: Unpack[Where],
    ) -> Bulk:
        """See ``Runs.retry_many``."""
        return await self._call(
            partial(self._sync.retry_many, actor=actor, reason=reason, limit=limit, cursor=cursor, **where)
        )

    async def wait(self, id: UUID | str, *, timeout: float | None = None) -> Run:
        """See ``Runs.wait``."""
        pause = pauses(timeout)
        # No thread waits: it would have a place in a pool, and go on when nobody waits any more.
        while not (run := await self._call(self._sync.get, id)).is_terminal:
            await asyncio.sleep(pause(run))
        return run

    async def prune(
        self,
        older_than: timedelta | str | datetime,
        *,
        statuses: Sequence[RunStatus | str] | None = None,
        limit: int = pruning.DEFAULT_LIMIT,
        cursor: str | None = None,
        actor: Actor | None = None,
        reason: str | None = None,
        dry_run: bool = False,
        archive: str | Path | None = None,
        key: str | Path | None = None,
    ) -> Pruned:
        """See ``Runs.prune``."""
        return await self._call(
            self._sync.prune,
            older_than,
            statuses=statuses,
            limit=limit,
            cursor=cursor,
            actor=actor,
            reason=reason,
            dry_run=dry_run,
            archive=archive,
            key=key,
        )


class AsyncIdempotencyKeys:
    """See ``runlane.operators.IdempotencyKeys``."""

    def __init__(self, idempotency_keys: IdempotencyKeys, call: ThreadCalls) -> None:
        self._sync = idempotency_keys
        self._call = call

    async def reset(
        self, task: Task[..., Any] | str, key: str, *, actor: Actor | None = None, reason: str | None = None
    ) -> bool:
        """See ``IdempotencyKeys.reset``."""
        return await self._call(self._sync.reset, task, key, actor=actor, reason=reason)


class AsyncSchedules:
    """See ``runlane.steering.Schedules``."""

    def __init__(self, schedules: Schedules, call: ThreadCalls) -> None:
        self._sync = schedules
        self._call = call

    async def list(self) -> tuple[ScheduleState, ...]:
        """See ``Schedules.list``."""
        return await self._call(self._sync.list)

    async def get(self, id: str) -> ScheduleState:
        """See ``Schedules.get``."""
        return await self._call(self._sync.get, id)

    async def pause(self, id: str, *, actor: Actor | None = None, reason: str | None = None) -> ScheduleState:
        """See ``Schedules.pause``."""
        return await self._call(self._sync.pause, id, actor=actor, reason=reason)

    async def resume(self, id: str, *, actor: Actor | None = None, reason: str | None = None) -> ScheduleState:
        """See ``Schedules.resume``."""
        return await self._call(self._sync.resume, id, actor=actor, reason=reason)

    async def trigger(self, id: str, *, actor: Actor | None = None) -> Triggered:
        """See ``Schedules.trigger``."""
        return await self._call(self._sync.trigger, id, actor=actor)

    async def preview(self, id: str, count: int = 5) -> tuple[datetime, ...]:
        """See ``Schedules.preview``."""
        return await self._call(self._sync.preview, id, count)

    async def occurrences(self, id: str, *, limit: int = DEFAULT_LIMIT) -> tuple[Occurrence, ...]:
        """See ``Schedules.occurrences``."""
        return await self._call(self._sync.occurrences, id, limit=limit)


class AsyncQueues:
    """See ``runlane.steering.Queues``."""

    def __init__(self, queues: Queues, call: ThreadCalls) -> None:
        self._sync = queues
        self._call = call

    async def list(self) -> tuple[QueueState, ...]:
        """See ``Queues.list``."""
        return await self._call(self._sync.list)

    async def pause(
        self, queue: Queue | str, *, reason: str | None = None, actor: Actor | None = None
    ) -> QueueControl | None:
        """See ``Queues.pause``."""
        return await self._call(self._sync.pause, queue, reason=reason, actor=actor)

    async def resume(
        self, queue: Queue | str, *, reason: str | None = None, actor: Actor | None = None
    ) -> QueueControl | None:
        """See ``Queues.resume``."""
        return await self._call(self._sync.resume, queue, reason=reason, actor=actor)
