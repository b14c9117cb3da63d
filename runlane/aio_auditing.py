"""Checking the log, awaitable: see ``runlane.auditing``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from uuid import UUID

from runlane.auditing import Audit
from runlane.bridge import ThreadCalls
from runlane.export import Manifest, formats
from runlane.storage.replay import Verification
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
