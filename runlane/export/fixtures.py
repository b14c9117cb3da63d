"""A run's history as a test: what its handler came to in each attempt, for today's handler to come to again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from attrs import evolve

from runlane import codec
from runlane.decisions import Failed, Outcome, Released, Succeeded
from runlane.digests import START
from runlane.errors import ConfigurationInvalid, ErrorCode
from runlane.events import Recorded, RunCreated, RunFailed, RunReleased, RunRetryScheduled, RunSucceeded
from runlane.export import formats
from runlane.export.formats import Envelope
from runlane.payload_codec import Sealed
from runlane.projections import runs
from runlane.projections.runs import Run
from runlane.storage.tables import instant_to_text
from runlane.structs import struct
from runlane.values import RunStatus

#: Failures that say nothing of what the handler did.
_NOT_THE_HANDLERS = (ErrorCode.LEASE_LOST, ErrorCode.HISTORY_LIMIT, ErrorCode.ATTEMPT_TIMEOUT)

_MODULE = '''\
"""Run {id} of task {task}, as it was recorded.

Each attempt calls today's handler with the recorded payload and context, and expects the kind of outcome it had then.
What the handler does to the world, it does again: replace that first, as by monkeypatch.
"""

# ruff: noqa: E501
from __future__ import annotations

import pytest

from runlane import Runlane
from runlane.testing import assert_same_outcome

HISTORY = [
{lines}
]


@pytest.mark.parametrize("attempt", {attempts})
def test_run_{name}(runlane_app: Runlane, attempt: int) -> None:
    assert_same_outcome(runlane_app, HISTORY, attempt)
'''


@struct
class Decided:
    """An attempt whose handler came to an outcome: the run when it was leased, and the outcome as it was recorded."""

    run: Run
    outcome: Outcome


def decided(records: Iterable[Recorded]) -> dict[int, Decided]:
    """By number, the attempts of a run that ended as their handler decided.

    Left out are those that were cut off or lost, and those of a run that was asked to stop: what their handlers would
    have come to is not known.

    Raises:
        InvariantViolation: the events are no history of a run.
    """
    found: dict[int, Decided] = {}
    run: Run | None = None
    leased: Run | None = None
    for record in records:
        before, run = run, runs.born(record) if run is None else runs.after(run, record)
        if run.status is RunStatus.RUNNING:
            leased = run
        outcome = _outcome(record)
        if leased is not None and outcome is not None and before is not None and before.status is RunStatus.RUNNING:
            found[run.counters.attempts] = Decided(leased, outcome)
    return found


def _outcome(record: Recorded) -> Outcome | None:
    match record.event:
        case RunSucceeded(result=result):
            return Succeeded(result)
        case RunReleased(run_at=run_at, reason=reason, meta=meta):
            return Released(None, run_at, reason, meta)
        case RunRetryScheduled(failure=failure) | RunFailed(failure=failure):
            return None if failure.code in _NOT_THE_HANDLERS else Failed(failure)
        case _:
            return None


def module_of(records: Sequence[Recorded]) -> str:
    """The source of a pytest module that replays a run's attempts.

    Raises:
        ConfigurationInvalid: no attempt ended as its handler decided, or its payload cannot be read.
    """
    attempts = decided(records)
    first = records[0]
    if isinstance(first.event, RunCreated) and isinstance(first.event.payload, Sealed):
        raise ConfigurationInvalid(f"the payload of run {first.stream_id} cannot be read: {first.event.payload}")
    if not attempts:
        raise ConfigurationInvalid(f"no attempt of run {first.stream_id} ended as its handler decided")
    lines = [formats.line(event).decode().rstrip("\n") for event in _envelopes(records)]
    return _MODULE.format(
        id=first.stream_id,
        task=_in_a_docstring(next(iter(attempts.values())).run.task_id),
        lines="\n".join(f"    {line!r}," for line in lines),
        attempts=list(attempts),
        name=str(first.stream_id).replace("-", "_"),
    )


def _in_a_docstring(name: str) -> str:
    """A name as it is quoted within three quotation marks, which it cannot end: the module is executed."""
    return repr(name).replace('"', '\\"')


def history(lines: Iterable[str]) -> list[Recorded]:
    """The events of canonical lines without their newlines."""
    return [formats.recorded(formats.parse(line.encode() + b"\n")) for line in lines]


def _envelopes(records: Iterable[Recorded]) -> Iterator[Envelope]:
    """The events as they are written today, from the first one on."""
    digest = START.hex()
    for record in records:
        stored = codec.encode(record.event)
        event = Envelope(
            str(record.stream_id),
            record.sequence,
            stored.type,
            stored.version,
            instant_to_text(record.occurred_at),
            record.environment,
            record.actor.text,
            "",
            stored.data,
        )
        digest = formats.digest(digest, event, record)
        yield evolve(event, digest=digest)
