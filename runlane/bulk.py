"""One operation on many runs that match a filter: bounded, resumable, each run a change of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, Unpack
from uuid import UUID

from attrs import frozen

from runlane import reading
from runlane.capabilities import Capability
from runlane.errors import ConfigurationInvalid, RunlaneError
from runlane.projections.runs import Run
from runlane.reading import Where
from runlane.runtime import Runtime
from runlane.shown import shown
from runlane.values import RunStatus

#: The most runs of one call, unless it says otherwise.
LIMIT = 100


@frozen
class Bulk:
    """What a bulk operation came to.

    `changed` are the runs it cancelled, or the new ones it made; `refused` says why others were left as they are.
    Pass `next_cursor` to the same call to go on; None means that no run is left.
    """

    changed: tuple[Run, ...]
    refused: Mapping[UUID, str]
    next_cursor: str | None


def each(
    runtime: Runtime,
    allowed: Set[RunStatus],
    change: Callable[[UUID], Run],
    limit: int,
    cursor: str | None,
    **where: Unpack[Where],
) -> Bulk:
    """Change each run of a page, oldest first; one that refuses does not stop the rest.

    Raises:
        ConfigurationInvalid: a condition is not valid, or asks for a status that the operation is not for.
        StorageUnavailable: the database went away; what was changed until then stays changed.
    """
    runtime.lane.require(Capability.OPERATOR_READS, "choosing runs by filter")
    options: dict[str, Any] = {**where}
    wanted = reading.run_filter(**{**options, "statuses": _statuses(options.get("statuses"), allowed)})
    with runtime.reading() as tx:
        page = reading.list_runs(tx, runtime.environment, wanted, limit, cursor, "oldest")
    changed: list[Run] = []
    refused: dict[UUID, str] = {}
    for run in page.data:
        try:
            changed.append(change(run.id))
        except RunlaneError as error:
            if error.retryable or "denied" in error.meta:  # the role may not, whichever run it is
                raise
            refused[run.id] = error.message
    return Bulk(tuple(changed), refused, page.next_cursor)


def _statuses(asked: Any, allowed: Set[RunStatus]) -> list[str]:
    if asked is None:
        return sorted(allowed)
    for status in reading.run_filter(statuses=asked).statuses or ():
        if status not in allowed:
            known = ", ".join(sorted(allowed))
            raise ConfigurationInvalid(f"this is for runs that are {known}; not for {shown(str(status))}")
    return list(asked)
