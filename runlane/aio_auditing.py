"""Checking the log, and making the tables from it again, awaitable: see ``runlane.auditing``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from runlane import attribution, sealing, travel
from runlane.attribution import Attribution
from runlane.auditing import Audit
from runlane.bridge import ThreadCalls
from runlane.engine.erase import Erasure
from runlane.export import Manifest, formats
from runlane.export.archives import Archives
from runlane.policy import Retry
from runlane.projections.differences import RunDiff
from runlane.projections.fleet import Fleet
from runlane.projections.timeline import Moment
from runlane.proofs import Proof
from runlane.sealing import Checkpointed
from runlane.simulation import Simulation
from runlane.storage.findings import Difference, Verification
from runlane.storage.rebuild import Rebuilt
from runlane.tasks import Queue, Task
from runlane.values import Actor


class AsyncAudit:
    """See ``runlane.auditing.Audit``."""

    def __init__(self, audit: Audit, call: ThreadCalls) -> None:
        self._sync = audit
        self._call = call

    async def count(self) -> dict[str, int]:
        """See ``Audit.count``."""
        return await self._call(self._sync.count)

    async def verify(
        self,
        id: UUID | str | None = None,
        *,
        since: datetime | None = None,
        key: str | Path | Sequence[str | Path] = (),
        checkpoints: Sequence[str | Path] = (),
        progress: Callable[[int], None] | None = None,
        processes: int = 1,
    ) -> Verification:
        """See ``Audit.verify``."""
        return await self._call(
            self._sync.verify,
            id,
            since=since,
            key=key,
            checkpoints=checkpoints,
            progress=progress,
            processes=processes,
        )

    async def checkpoint(
        self, sign: str | Path | None = None, *, actor: Actor | None = None, timeout: float = sealing.PATIENCE
    ) -> Checkpointed:
        """See ``Audit.checkpoint``."""
        return await self._call(self._sync.checkpoint, sign, actor=actor, timeout=timeout)

    async def prove(self, id: UUID | str, sequence: int | None = None) -> Proof:
        """See ``Audit.prove``."""
        return await self._call(self._sync.prove, id, sequence)

    async def as_of(
        self,
        at: datetime,
        *,
        limit: int = travel.DEFAULT_LIMIT,
        progress: Callable[[int], None] | None = None,
    ) -> Fleet:
        """See ``Audit.as_of``."""
        return await self._call(self._sync.as_of, at, limit=limit, progress=progress)

    async def diff(self, id: UUID | str, from_sequence: int = 1, to_sequence: int | None = None) -> RunDiff:
        """See ``Audit.diff``."""
        return await self._call(self._sync.diff, id, from_sequence, to_sequence)

    async def timeline(self, id: UUID | str) -> tuple[Moment, ...]:
        """See ``Audit.timeline``."""
        return await self._call(self._sync.timeline, id)

    async def who(
        self,
        *,
        actor: Actor | str | None = None,
        worker: str | None = None,
        key: str | None = None,
        limit: int = attribution.DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Attribution:
        """See ``Audit.who``."""
        return await self._call(self._sync.who, actor=actor, worker=worker, key=key, limit=limit, cursor=cursor)

    async def repair(
        self, id: UUID | str, *, actor: Actor | None = None, reason: str | None = None
    ) -> tuple[Difference, ...]:
        """See ``Audit.repair``."""
        return await self._call(self._sync.repair, id, actor=actor, reason=reason)

    async def erase(self, subject: str, *, reason: str | None = None, actor: Actor | None = None) -> Erasure:
        """See ``Audit.erase``."""
        return await self._call(self._sync.erase, subject, reason=reason, actor=actor)

    async def rewrap(self) -> int:
        """See ``Audit.rewrap``."""
        return await self._call(self._sync.rewrap)

    async def rebuild(
        self,
        *,
        progress: Callable[[int], None] | None = None,
        swap: bool = True,
        actor: Actor | None = None,
        reason: str | None = None,
    ) -> Rebuilt:
        """See ``Audit.rebuild``."""
        return await self._call(self._sync.rebuild, progress=progress, swap=swap, actor=actor, reason=reason)

    async def export(
        self,
        path: str | Path,
        format: str = formats.CANONICAL,
        since: datetime | None = None,
        key: str | Path | None = None,
        *,
        resume: bool = False,
        actor: Actor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Manifest:
        """See ``Audit.export``."""
        return await self._call(
            self._sync.export, path, format, since, key, resume=resume, actor=actor, progress=progress
        )

    async def simulate(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        retry: Retry | Mapping[str, Retry] | None = None,
        limit: Mapping[str, int | None] | None = None,
        workers: int | None = None,
        concurrency: int | None = None,
        tasks: Iterable[Task[..., Any] | str] | None = None,
        queues: Iterable[Queue | str] | None = None,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Simulation:
        """See ``Audit.simulate``."""
        return await self._call(
            self._sync.simulate,
            since=since,
            until=until,
            retry=retry,
            limit=limit,
            workers=workers,
            concurrency=concurrency,
            tasks=tasks,
            queues=queues,
            seed=seed,
            progress=progress,
        )

    async def archives(
        self,
        path: str | Path,
        *,
        public_key: str | Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Archives:
        """See ``Audit.archives``."""
        return await self._call(self._sync.archives, path, public_key=public_key, progress=progress)
