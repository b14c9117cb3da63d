"""Changes that nobody can tell from outside, each with the reason.

They are subtracted from the changes, and counted beside them.  An entry that fits none of them, or more
than it says, is an error.
"""

from __future__ import annotations

from attrs import frozen

from tests.mutation.mutants import Mutant


@frozen
class Equivalent:
    """A change of a line, by the line's text and the change's, and why it changes nothing.

    Attributes:
        function: in which function, where the file has the line in several.
        times: how often the file has such a line with such a change, if more than once: the reason has to fit all.
    """

    file: str
    statement: str
    change: str
    reason: str
    function: str | None = None
    times: int = 1

    def fits(self, mutant: Mutant) -> bool:
        """Whether a mutant is what is meant."""
        meant = (self.file, self.statement, self.change, self.function or mutant.function)
        return meant == (mutant.file, mutant.statement, mutant.change, mutant.function)


_NEVER = "No event or outcome gets there, or a type checker would have said so: all classes have an arm above."
_PASSES = "The arm does nothing, as the one at the end does; it is there so that a new event has to be thought about."
_CLAIMABLE = "A run in a status that is open to this event has a due time; the check is there for type checkers."

_ATTEMPTS = "projections/attempts.py"
_FLEET = "projections/fleet.py"
_RUNS = "projections/runs.py"
_DECISIONS = "runlane/decisions.py"
_TIMELINE = "projections/timeline.py"
_NOTHING = "case RunCreated() | RunDeliveryRequested() | RunDispatchReserved() | RunDispatchReservationExpired():"
_CLOSED = (*(f"projections/{name}.py" for name in ("queues", "runs", "schedules", "timeline")), "runlane/decisions.py")

EQUIVALENT: tuple[Equivalent, ...] = (
    *(Equivalent(file, "case unhandled:", "case unhandled left out", _NEVER) for file in _CLOSED),
    *(Equivalent(file, "assert_never(unhandled)", "assert_never(unhandled) left out", _NEVER) for file in _CLOSED),
    *(Equivalent(file, "assert_never(unhandled)", "unhandled -> None", _NEVER) for file in _CLOSED),
    Equivalent(
        "projections/timeline.py", "case _:", "case _ left out", "A function that comes to its end returns None."
    ),
    Equivalent(_ATTEMPTS, _NOTHING, _NOTHING[:-1] + " left out", _PASSES),
    *(
        Equivalent(_ATTEMPTS, _NOTHING, f"pattern {name}() left out", _PASSES)
        for name in ("RunCreated", "RunDeliveryRequested", "RunDispatchReserved", "RunDispatchReservationExpired")
    ),
    Equivalent(_ATTEMPTS, "case RunCancellationRequested():", "case RunCancellationRequested() left out", _PASSES),
    Equivalent(
        _ATTEMPTS,
        "case _:  # another stream's event says nothing about attempts",
        "case _ left out",
        "Where no arm fits, nothing is done either.",
    ),
    Equivalent(
        "projections/differences.py",
        "continue",
        "continue left out",
        "What changed up to the first state is noted then, and told only if it differs from that state in the end: "
        "then it has changed after it, and that event takes the place of the noted one.",
    ),
    Equivalent(
        _FLEET,
        "since = lease.leased_at if lease is not None else run.reservation and run.reservation.reserved_at",
        "run.reservation and run.reservation.reserved_at -> run.reservation.reserved_at",
        "Without a lease there is a reservation: the condition around says so.  Type checkers do not see it.",
    ),
    Equivalent(
        _FLEET,
        "self._hold(KeyKind.CONCURRENCY, run.concurrency_key, run, since or run.updated_at)",
        "since or run.updated_at -> since",
        "There is a lease or a reservation, so since is an instant; the rest is for type checkers.",
    ),
    Equivalent(
        _FLEET,
        "if self._order(thing) >= self._order(self.kept[-1]):",
        "self._order(thing) >= self._order(self.kept[-1]) -> self._order(thing) > self._order(self.kept[-1])",
        "Two things of one order are one thing: every order ends with the id of a run or stream, which comes once.",
    ),
    Equivalent(
        _RUNS,
        "waits = run.due_at is not None and run.due_at > at",
        "run.due_at is not None and run.due_at > at -> run.due_at > at",
        _CLAIMABLE,
    ),
    Equivalent(
        _RUNS,
        "if run.due_at is None or run.due_at > at or event.attempt != run.counters.attempts + 1:",
        "run.due_at is None or run.due_at > at or event.attempt != run.counters.attempts + 1 -> "
        "run.due_at > at or event.attempt != run.counters.attempts + 1",
        _CLAIMABLE,
    ),
    Equivalent(
        _RUNS,
        "if lease is None or lease.session_id.int != session_id.int or lease.attempt != attempt:",
        "lease is None or lease.session_id.int != session_id.int or lease.attempt != attempt -> "
        "lease.session_id.int != session_id.int or lease.attempt != attempt",
        "What is fenced is open only to the two leased statuses, in which every run has a lease.",
    ),
    Equivalent(
        _RUNS,
        "run.cancellation,",
        "run.cancellation -> None",
        "Of a run that is leased now: one that was asked to stop is not open to a lease, so there is nothing to keep.",
        "_leased",
    ),
    *(
        Equivalent(
            _DECISIONS,
            "if run.status not in LEASED or held is None or held.session_id != session_id or held.attempt != attempt:",
            "run.status not in LEASED or held is None or held.session_id != session_id or (held.attempt != attempt) -> "
            f"{one} or held.session_id != session_id or held.attempt != attempt",
            "A run has a lease in the two leased statuses and in no other: either check says what the other does.",
        )
        for one in ("held is None", "run.status not in LEASED")
    ),
    *(
        Equivalent(
            _DECISIONS,
            f"waits = run.status {which} and run.due_at is not None and run.due_at <= now",
            f"run.status {which} and run.due_at is not None and (run.due_at <= now) -> "
            f"run.status {which} and run.due_at <= now",
            "Every run in these statuses has a due time; the check is there for type checkers.",
        )
        for which in ("in WAITING", "is RunStatus.QUEUED")
    ),
)
