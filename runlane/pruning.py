"""What a caller of ``runs.prune`` asks for, checked before storage is touched, and what it is answered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from attrs import frozen

from runlane import reading
from runlane.engine.prune import Old, Removed
from runlane.errors import ConfigurationInvalid
from runlane.shown import shown
from runlane.values import TERMINAL, RunStatus, duration, instant

DEFAULT_LIMIT, MOST = 1000, 10_000


@frozen
class Pruned:
    """What a prune removed, or would remove.

    Args:
        runs, events, keys: how many of each.
        cutoff: runs last updated before this instant were old enough.
        next_cursor: pass it to the same call to go on; None means that nothing more is old enough.
        archive: the file that holds the removed histories, if they were to be archived and there were any.
    """

    runs: int
    events: int
    keys: int
    cutoff: datetime
    next_cursor: str | None = None
    archive: str | None = None

    @property
    def more(self) -> bool:
        """Whether more runs are old enough."""
        return self.next_cursor is not None


def old_runs(
    environment: str,
    older_than: timedelta | str | datetime,
    statuses: Sequence[RunStatus | str] | None,
    limit: int,
    cursor: str | None,
) -> Old:
    """The request for a prune.

    Raises:
        ConfigurationInvalid: naming the argument that is not valid, such as a status that is not terminal.
    """
    wanted = reading.run_filter(statuses=sorted(TERMINAL) if statuses is None else statuses).statuses or ()
    active = [status for status in wanted if status not in TERMINAL]
    if active or not wanted:
        raise ConfigurationInvalid(
            f"only ended runs are pruned: statuses must be some of {', '.join(sorted(TERMINAL))}; got {shown(statuses)}"
        )
    if type(limit) is not int or not 1 <= limit <= MOST:
        raise ConfigurationInvalid(f"limit must be an integer from 1 to {MOST}; got {shown(limit)}")
    age = instant("older_than", older_than) if isinstance(older_than, datetime) else duration("older_than", older_than)
    ordered = tuple(sorted(set(wanted)))
    after = None if cursor is None else reading.unseal(cursor, _fingerprint(environment, ordered), "runs.prune")
    return Old(age, ordered, limit, after)


def answer(environment: str, old: Old, removed: Removed) -> Pruned:
    """What the caller gets."""
    cursor = None if removed.last is None else reading.seal(removed.last, _fingerprint(environment, old.statuses))
    return Pruned(removed.runs, removed.events, removed.keys, removed.cutoff, cursor)


def _fingerprint(environment: str, statuses: Sequence[RunStatus]) -> str:
    return hashlib.sha256(repr(("prune", environment, [str(s) for s in statuses])).encode()).hexdigest()[:16]
