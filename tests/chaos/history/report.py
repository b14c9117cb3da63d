"""What the checker found, each kind of finding by its name."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from attrs import Factory, define

#: Of each kind so many findings are told in full.
_TOLD = 20


def _lists() -> defaultdict[str, list[str]]:
    return defaultdict(list)


@define
class Report:
    """Counts, costs and findings; `violations` has those that are neither stale writes, nor losses, nor differences.

    `repeated` is how many attempts had begun and were executed again; `stale_attempted` how many outcomes came when the
    lease was somebody else's, or nobody's, already.  Both are what at-least-once costs.
    """

    runs: int = 0
    events: int = 0
    attempts: int = 0
    effects: int = 0
    calls: dict[str, int] = Factory(dict)
    repeated: int = 0
    stale_attempted: int = 0
    stale_accepted: list[str] = Factory(list)
    lost: list[str] = Factory(list)
    differences: list[str] = Factory(list)
    violations: defaultdict[str, list[str]] = Factory(_lists)

    def violate(self, name: str, what: str) -> None:
        """Note that an invariant does not hold."""
        self.violations[name].append(what)

    @property
    def sound(self) -> bool:
        """Whether every promise was kept."""
        return not (self.stale_accepted or self.lost or self.differences or any(self.violations.values()))

    def counts(self) -> dict[str, Any]:
        """The figures, as JSON."""
        return {
            "runs": self.runs,
            "events": self.events,
            "attempts": self.attempts,
            "effects": self.effects,
            "calls": self.calls,
            "executions_repeated": self.repeated,
            "stale_writes_attempted": self.stale_attempted,
            "stale_writes_accepted": len(self.stale_accepted),
            "acknowledged_runs_lost": len(self.lost),
            "projection_differences": len(self.differences),
            "violations": {name: len(found) for name, found in self.violations.items()},
        }

    def findings(self) -> list[str]:
        """What is wrong, a line each."""
        named = {
            "stale write accepted": self.stale_accepted,
            "acknowledged run lost": self.lost,
            "projection difference": self.differences,
            **self.violations,
        }
        return [f"{name}: {what}" for name, found in named.items() for what in found[:_TOLD]]
