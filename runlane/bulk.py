"""One operation on many runs that match a filter: bounded, resumable, each run a change of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, Unpack
from uuid import UUID

from attrs import evolve, frozen

from runlane import reading
from runlane.capabilities import Capability
from runlane.errors import ConfigurationInvalid, RunlaneError
from runlane.projections.runs import Run
from runlane.reading import Where
from runlane.runtime import Runtime
from runlane.shown import shown
from runlane.values import RunStatus, new_run_id

#: The most runs of one call, unless it says otherwise.
LIMIT = 100
#: Under which name an error carries what was done before it.
_DONE = "runlane_bulk"


@frozen
class Bulk:
    """What a bulk operation came to.

    `changed` are the runs it cancelled, or the new ones it made; `refused` says why others were left as they are.
    Pass `next_cursor` to the same call to go on; None means that no run is left of those that there were at the first.
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

    Calls that go on with a cursor are for the runs that there were at the first of them.

    Raises:
        ConfigurationInvalid: a condition is not valid, or asks for a status that the operation is not for.
        StorageUnavailable: the database went away; what was changed until then stays changed, and the error's meta says
            how many those are, and with which cursor to go on.
    """
    runtime.lane.require(Capability.OPERATOR_READS, "choosing runs by filter")
    options: dict[str, Any] = {**where}
    wanted = reading.run_filter(**{**options, "statuses": _statuses(options.get("statuses"), allowed)})
    kept = reading.kept(cursor)
    wanted = evolve(wanted, made_until=kept.get("made_until"), last_made=kept.get("last_made"))
    with runtime.reading() as tx:
        page = reading.list_runs(tx, runtime.environment, wanted, limit, cursor, "oldest")
        if wanted.made_until is None:
            # Calls after this one take nothing newer, or a retry would go on with its own repeats.
            newest = max([tx.now(), *(run.created_at for run in page.data)])
            wanted = evolve(wanted, made_until=newest, last_made=new_run_id())

    def behind(last: Run) -> str:
        return reading.behind(last.id, runtime.environment, wanted, "oldest")

    changed: list[Run] = []
    refused: dict[UUID, str] = {}
    last: Run | None = None
    try:
        for run in page.data:
            try:
                changed.append(change(run.id))
            except RunlaneError as error:
                if error.retryable or "denied" in error.meta:  # the role may not, whichever run it is
                    raise
                refused[run.id] = error.message
            last = run
    except BaseException as error:
        tell(error, Bulk(tuple(changed), refused, cursor if last is None else behind(last)))
        raise
    return Bulk(tuple(changed), refused, None if page.next_cursor is None else behind(page.data[-1]))


def done_before(error: BaseException) -> Bulk | None:
    """What a bulk operation had done when this error ended it; its `next_cursor` goes on from there."""
    found = vars(error).get(_DONE)
    return found if isinstance(found, Bulk) else None


def tell(error: BaseException, done: Bulk) -> None:
    """Let an error carry what was done before it."""
    vars(error)[_DONE] = done
    if isinstance(error, RunlaneError):
        error.meta |= {"changed": len(done.changed), "refused": len(done.refused), "next_cursor": done.next_cursor}


def _statuses(asked: Any, allowed: Set[RunStatus]) -> list[str]:
    if asked is None:
        return sorted(allowed)
    for status in reading.run_filter(statuses=asked).statuses or ():
        if status not in allowed:
            known = ", ".join(sorted(allowed))
            raise ConfigurationInvalid(f"this is for runs that are {known}; not for {shown(str(status))}")
    return list(asked)
