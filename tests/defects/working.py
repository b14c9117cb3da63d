"""Defects of workers, and of what they are told."""

from __future__ import annotations

from tests.defects.defect import Defect

DEFECTS = [
    Defect(
        "ahead: a ready run needs no slot",
        "runlane/ready.py",
        "                    self._free -= 1",
        "                    self._free -= 0",
        "tests/engine/test_ahead.py::test_never_more_at_once_than_asked_for_and_each_once[memory]",
        "a worker executes no more attempts at once than it was asked to",
    ),
    Defect(
        "ahead: a ready run waits for its slot for as long as that takes",
        "runlane/exchange.py",
        "        if self._ahead is not None and self._patience() <= 0:",
        "        if self._ahead is not None and self._patience() <= -3600:",
        "tests/engine/test_ahead.py::test_what_cannot_begin_soon_is_given_back_to_whoever_has_a_slot[memory-def]",
        "a slow handler keeps no ready run from another worker",
    ),
    Defect(
        "ahead: a ready run that is asked to stop begins all the same",
        "runlane/exchange.py",
        "        self._withdraw(executions, reason)",
        "        self._withdraw((), reason)",
        "tests/engine/test_ahead.py::test_a_ready_run_that_is_cancelled_does_not_begin[memory-def]",
        "a run that is asked to stop before it has begun is not executed",
    ),
    Defect(
        "ahead: a ready run begins although its session is lost, if another thread is still about to tell",
        "runlane/exchange.py",
        "        self._part_unless_trusted(session_of(execution.run))",
        "        self._runtime.is_trusted(session_of(execution.run))",
        "tests/engine/test_ahead.py::test_what_is_ready_does_not_begin_while_another_thread_is_just_withdrawing_it"
        "[memory-def]",
        "nothing begins under a lost session",
    ),
    Defect(
        "attempt: the payload is not fitted to today's type",
        "runlane/executor.py",
        "        return (self.task.payload.from_json(self.run.payload), self.context)[: self.task.arity]",
        "        return (self.run.payload, self.context)[: self.task.arity]",
        "tests/engine/test_outcomes.py::test_a_payload_that_no_longer_fits_fails_the_run_for_good[memory]",
        "a handler gets what its annotation says",
    ),
    Defect(
        "rerun: the payload is not validated again",
        "runlane/engine/operate.py",
        "    payload = task.payload.to_json(vault.open_in(tx, stored, vault.about(source, Part.PAYLOAD)))",
        "    payload = vault.open_in(tx, stored, vault.about(source, Part.PAYLOAD))",
        "tests/engine/test_run_again.py::test_the_payload_has_to_fit_todays_task[memory]",
        "a rerun's payload fits today's task",
    ),
    Defect(
        "wakeup: workers are rung before the run is committed",
        "runlane/intake.py",
        "(lambda tx: trigger(tx, environment, wanted), runtime.clock)",
        "(lambda tx: runtime.ring() or trigger(tx, environment, wanted), runtime.clock)",
        "tests/transport/test_wakeups.py::test_a_ring_comes_after_the_commit",
        "nobody is woken for a run that is not there yet",
    ),
    Defect(
        "signals: one that another thread gets is not heeded",
        "runlane/stopping.py",
        "    while not over.wait(LOOK):",
        "    while not over.wait():",
        "tests/acceptance/test_signals.py::test_a_worker_stops[15]",
        "a worker that is asked to stop stops",
    ),
]
