"""For tests of programs and of adapters: a clock that stands still, waits, runs in every state, and what was triggered.

With pytest, the fixtures ``runlane_app``, ``drain`` and ``assert_triggered`` come by themselves (see
``runlane.pytest_plugin``).  The suites for adapters are in ``runlane.testing.conformance``, which alone needs pytest.
"""

from runlane.clock import SettableClock
from runlane.testing.assertions import ANY_PAYLOAD, assert_triggered, drain, on_memory
from runlane.testing.recording import Misbehaviour, RecordingTransport
from runlane.testing.replays import assert_same_outcome
from runlane.testing.states import (
    cancellation_requested_run,
    cancelled_run,
    failed_run,
    queued_run,
    released_run,
    retrying_run,
    running_run,
    scheduled_run,
    succeeded_run,
)
from runlane.testing.waits import wait_for_event, wait_for_status

__all__ = [
    "ANY_PAYLOAD",
    "Misbehaviour",
    "RecordingTransport",
    "SettableClock",
    "assert_same_outcome",
    "assert_triggered",
    "cancellation_requested_run",
    "cancelled_run",
    "drain",
    "failed_run",
    "on_memory",
    "queued_run",
    "released_run",
    "retrying_run",
    "running_run",
    "scheduled_run",
    "succeeded_run",
    "wait_for_event",
    "wait_for_status",
]
