"""Looking at the database, awaitable: see ``runlane.doctor``."""

from __future__ import annotations

from runlane.app import Runlane
from runlane.bridge import ThreadCalls
from runlane.health import Diagnosis, Thresholds


class AsyncExamined:
    """The part of ``AsyncRunlane`` that looks at its database."""

    _app: Runlane
    _call: ThreadCalls

    async def doctor(self, *, thresholds: Thresholds | None = None) -> Diagnosis:
        """See ``Runlane.doctor``."""
        return await self._call(self._app.doctor, thresholds=thresholds)
