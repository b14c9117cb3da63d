"""Checking the log, awaitable: see ``runlane.auditing``."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from runlane.auditing import Audit
from runlane.bridge import ThreadCalls
from runlane.storage.replay import Verification


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
