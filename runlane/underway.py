"""The attempts that a process has under way: those that execute, are ready, or whose outcome is not yet stored."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from runlane.executor import Execution
from runlane.projections.runs import Run


class UnderWay:
    """The executions of whoever holds them, who has the lock that guards them."""

    def __init__(self) -> None:
        self._executions: dict[tuple[UUID, int], Execution] = {}

    def __len__(self) -> int:
        return len(self._executions)

    def add(self, execution: Execution) -> None:
        """One more."""
        self._executions[execution.run.id, execution.context.attempt] = execution

    def forget(self, executions: Iterable[Execution]) -> None:
        """These are over, or have been before."""
        for execution in executions:
            self._executions.pop((execution.run.id, execution.context.attempt), None)

    def all(self) -> list[Execution]:
        """All of them."""
        return list(self._executions.values())

    def of_session(self, session_id: UUID) -> list[Execution]:
        """Those that were leased under this session."""
        return [execution for execution in self._executions.values() if session_of(execution.run) == session_id]

    def of_runs(self, run_ids: Collection[UUID]) -> list[Execution]:
        """Those of these runs."""
        return [execution for (run_id, _), execution in self._executions.items() if run_id in run_ids]

    def attempts(self) -> dict[UUID, int]:
        """The number of each run's attempt; of two of one run the later one."""
        return dict(sorted(self._executions))


def session_of(run: Run) -> UUID | None:
    """The session that has leased it."""
    return None if run.lease is None else run.lease.session_id
