"""Checking the log, and making the tables from it again, awaitable: see ``runlane.auditing``."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from runlane.auditing import Audit
from runlane.bridge import ThreadCalls
from runlane.storage.rebuild import Rebuilt
from runlane.storage.replay import Difference, Verification
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
        self, id: UUID | str | None = None, *, progress: Callable[[int], None] | None = None
    ) -> Verification:
        """See ``Audit.verify``."""
        return await self._call(self._sync.verify, id, progress=progress)

    async def repair(
        self, id: UUID | str, *, actor: Actor | None = None, reason: str | None = None
    ) -> tuple[Difference, ...]:
        """See ``Audit.repair``."""
        return await self._call(self._sync.repair, id, actor=actor, reason=reason)

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
