"""Histories made by hand for the checker: a sound one, and one for each promise that it breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import evolve

from tests.chaos.history import Call, Effect, Event, Evidence, Promised, Report
from tests.chaos.history.lives import live
from tests.chaos.history.promises import row_of

START = datetime(2026, 1, 1, tzinfo=UTC)


class Story:
    """A history in the making, an event a second unless said otherwise; rows are made of it in the end."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.effects: list[Effect] = []
        self.calls: list[Call] = []
        self.promised = Promised({"bounded": 1}, {"hourly": 1.0})
        self._sequences = Counter[str]()

    def tell(self, stream: str, type_: str, after: float = 1.0, **data: Any) -> None:
        """The next event of a stream, so many seconds after the last one of all."""
        self._sequences[stream] += 1
        at = (self.events[-1].at if self.events else START) + timedelta(seconds=after)
        self.events.append(Event(len(self.events) + 1, stream, self._sequences[stream], type_, at, data))

    def create(self, run: str, queue: str = "plain", **data: Any) -> None:
        self.tell(run, "run.created", task_id="work", queue=queue, **data)

    def lease(self, run: str, session: str, attempt: int) -> None:
        self.tell(run, "run.leased", session_id=session, worker_id=session, attempt=attempt)
        self.effects.append(Effect(run, attempt, session, True, 1, self.events[-1].at.timestamp()))

    def end(self, run: str, session: str, attempt: int, how: str = "run.succeeded", **data: Any) -> None:
        self.effects.append(Effect(run, attempt, session, False, 1, self.events[-1].at.timestamp() + 0.5))
        self.tell(run, how, session_id=session, attempt=attempt, **data)

    def evidence(self) -> Evidence:
        """Everything, with the tables as they should be."""
        made = Evidence(self.events, effects=self.effects, calls=self.calls, promised=self.promised)
        lives = live(self.events, Report())
        made.runs = [{"id": life.id, **row_of(life)} for life in lives.values()]
        keyed = [life for life in lives.values() if life.data.get("idempotency_key")]
        made.keys = [{"task_id": "work", "key": one.data["idempotency_key"], "run_id": one.id} for one in keyed]
        made.schedules = [{"stream_id": "s", "schedule_id": "hourly"}]
        made.occurrences = [
            {
                "schedule_id": "hourly",
                "scheduled_for": datetime.fromisoformat(event.data["scheduled_for"]),
                "id": event.data["occurrence_id"],
                "run_id": event.data["run_id"],
            }
            for event in self.events
            if event.type == "schedule.fired"
        ]
        return made


def sound() -> Story:
    """A bit of everything, as it should be."""
    story = Story()
    story.create("lost", correlation_id="c-1")
    story.lease("lost", "a", 1)
    story.tell("lost", "run.lease_expired", session_id="a", attempt=1)
    story.effects.append(Effect("lost", 1, "a", False, 1, story.events[-1].at.timestamp() + 0.1))  # it slept
    story.lease("lost", "b", 2)
    story.end("lost", "b", 2, result={"token": ["b", 2]})
    story.create("keyed", correlation_id="c-2", idempotency_key="k", idempotency_ttl="30d")
    story.lease("keyed", "b", 1)
    story.tell("keyed", "run.cancellation_requested")
    story.end("keyed", "b", 1, "run.failed", failure={"code": "task_failed"})
    for run in ("single-1", "single-2"):
        story.create(run, "bounded", singleton_key="only", concurrency_key="x")
        story.lease(run, "b", 1)
        story.end(run, "b", 1)
    story.tell("s", "schedule.registered", next_at=moment(30))
    story.tell("s", "schedule.fired", 40, **occurrence("o-1", 33, 34, collapsed=3, collapsed_from=moment(30)))
    story.create("fired-o-1", source={"occurrence_id": "o-1"})
    story.lease("fired-o-1", "b", 1)
    story.end("fired-o-1", "b", 1, "run.released", run_at=(story.events[-1].at + timedelta(seconds=2)).isoformat())
    story.tell("fired-o-1", "run.delivery_requested", 3)
    story.lease("fired-o-1", "b", 2)
    story.end("fired-o-1", "b", 2)
    story.calls = [
        Call("c-1", "trigger", "ok", 1, (), ("lost",), ("created",)),
        Call("c-2", "trigger", "unknown", 1, ("keyed",)),
        Call("c-3", "trigger", "failed", 1, ("never",), why="away"),
        Call("c-4", "bulk", "unknown", 5),
        Call("c-5", "cancel", "ok", runs=("keyed",)),
    ]
    return story


def moment(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat()


def occurrence(name: str, at: float, following: float, **more: Any) -> dict[str, Any]:
    return {
        "occurrence_id": name,
        "scheduled_for": moment(at),
        "run_id": f"fired-{name}",
        "next_at": moment(following),
        **more,
    }


Breaks = Callable[[Story], None]


def without(story: Story, type_: str) -> None:
    """Lose the first event of a type."""
    del story.events[next(place for place, event in enumerate(story.events) if event.type == type_)]


def ends_twice(story: Story) -> None:
    story.tell("lost", "run.cancelled")


def stale(story: Story) -> None:
    """The one that slept has its way, in the middle of the other one's attempt."""
    story.create("stale")
    story.lease("stale", "a", 1)
    story.tell("stale", "run.lease_expired", session_id="a", attempt=1)
    story.lease("stale", "b", 2)
    story.end("stale", "a", 1)


def disguised(story: Story) -> None:
    """What the old attempt came to is stored under the name of the new one."""
    story.create("stale")
    story.lease("stale", "b", 1)
    story.end("stale", "b", 1, result={"token": ["a", 1]})


def leased_again(story: Story) -> None:
    story.create("twice")
    story.lease("twice", "a", 1)
    story.lease("twice", "b", 2)
    story.end("twice", "b", 2)


def attempt_left_out(story: Story) -> None:
    story.create("skips")
    story.lease("skips", "a", 3)
    story.end("skips", "a", 3)


def too_early(story: Story) -> None:
    story.create("early", run_at=moment(10_000))
    story.lease("early", "a", 1)
    story.end("early", "a", 1)


def back_in_time(story: Story) -> None:
    story.create("back")
    story.tell("back", "run.cancelled", -0.5)


def not_ended(story: Story) -> None:
    story.create("waits")


def foreign_recovery(story: Story) -> None:
    story.create("foreign")
    story.lease("foreign", "a", 1)
    story.tell("foreign", "run.lease_expired", session_id="z", attempt=1)
    story.lease("foreign", "b", 2)
    story.end("foreign", "b", 2)


def two_keepers(story: Story) -> None:
    for run in ("keeper", "thief"):
        story.create(run, idempotency_key="kept", idempotency_ttl="30d")
        story.lease(run, "b", 1)
        story.end(run, "b", 1)


def two_active_owners(story: Story) -> None:
    for run in ("owner", "rival"):
        story.create(run, idempotency_key="both", idempotency_ttl="active")
        story.lease(run, "b", 1)
    for run in ("owner", "rival"):
        story.end(run, "b", 1)


def two_singles(story: Story) -> None:
    for run in ("one", "another"):
        story.create(run, singleton_key="alone")
        story.lease(run, "b", 1)
    for run in ("one", "another"):
        story.end(run, "b", 1)


def over_the_limit(story: Story) -> None:
    for run in ("first", "second"):
        story.create(run, "bounded", concurrency_key="y")
        story.lease(run, "b", 1)
    for run in ("first", "second"):
        story.end(run, "b", 1)


def reserved_over_the_limit(story: Story) -> None:
    for run in ("first", "second"):
        story.create(run, "bounded", concurrency_key="y")
        story.tell(run, "run.dispatch_reserved")
    for run in ("first", "second"):
        story.tell(run, "run.cancelled")


def fires(story: Story, name: str, at: float, **more: Any) -> None:
    story.tell("s", "schedule.fired", **occurrence(name, at, at + 1, **more))
    story.create(f"fired-{name}", source={"occurrence_id": name})
    story.tell(f"fired-{name}", "run.cancelled")


def fires_again(story: Story) -> None:
    fires(story, "o-2", 33)


def leaves_one_out(story: Story) -> None:
    fires(story, "o-2", 36)


def miscounts(story: Story) -> None:
    fires(story, "o-2", 37, collapsed=1, collapsed_from=moment(34))


def fires_without_a_run(story: Story) -> None:
    story.tell("s", "schedule.fired", **occurrence("o-2", 34, 35))


def run_of_no_occurrence(story: Story) -> None:
    story.create("unfired", source={"occurrence_id": "o-9"})
    story.tell("unfired", "run.cancelled")


def fires_early(story: Story) -> None:
    fires(story, "o-2", 9_034, collapsed=9_000, collapsed_from=moment(34))


def executed_without_a_lease(story: Story) -> None:
    story.effects.append(Effect("lost", 7, "q", True, 1, START.timestamp() + 100))


def executed_before_the_lease(story: Story) -> None:
    story.effects[0] = evolve(story.effects[0], at=START.timestamp() - 5)


def executed_twice(story: Story) -> None:
    story.effects.append(story.effects[0])


def succeeded_unexecuted(story: Story) -> None:
    story.effects = [effect for effect in story.effects if effect.run != "lost" or effect.attempt != 2]


def acknowledged_and_lost(story: Story) -> None:
    story.calls.append(Call("c-9", "trigger", "ok", 1, (), ("gone",), ("created",)))


def refused_and_written(story: Story) -> None:
    story.calls[0] = evolve(story.calls[0], answer="failed", runs=(), outcomes=())


def written_twice(story: Story) -> None:
    for run in ("once", "again"):
        story.create(run, correlation_id="c-9")
        story.tell(run, "run.cancelled")
    story.calls.append(Call("c-9", "trigger", "unknown"))


def half_a_batch(story: Story) -> None:
    story.create("half", correlation_id="c-4")
    story.tell("half", "run.cancelled")


def of_another_id(story: Story) -> None:
    story.calls[1] = evolve(story.calls[1], ids=("another",))


def nobody_asked(story: Story) -> None:
    story.create("ghost", correlation_id="c-99")
    story.tell("ghost", "run.cancelled")


def told_of_another(story: Story) -> None:
    story.calls[0] = evolve(story.calls[0], runs=("single-1",))


def cancelled_in_vain(story: Story) -> None:
    story.calls.append(Call("c-9", "cancel", "ok", runs=("lost",)))


BROKEN: list[tuple[Breaks, str]] = [
    (lambda story: without(story, "run.lease_expired"), "gap"),
    (lambda story: without(story, "run.created"), "gap"),
    (ends_twice, "illegal_step"),
    (leased_again, "two_leases"),
    (attempt_left_out, "attempt_order"),
    (too_early, "early"),
    (back_in_time, "time_backwards"),
    (not_ended, "left_hanging"),
    (foreign_recovery, "foreign_recovery"),
    (two_keepers, "idempotency"),
    (two_active_owners, "idempotency"),
    (two_singles, "singleton"),
    (over_the_limit, "limit"),
    (reserved_over_the_limit, "limit"),
    (fires_again, "occurrence"),
    (leaves_one_out, "occurrence"),
    (miscounts, "occurrence"),
    (fires_without_a_run, "occurrence"),
    (run_of_no_occurrence, "occurrence"),
    (fires_early, "early"),
    (executed_without_a_lease, "unclaimed_effect"),
    (executed_before_the_lease, "unclaimed_effect"),
    (executed_twice, "executed_twice"),
    (succeeded_unexecuted, "success_without_effect"),
    (refused_and_written, "refused_but_written"),
    (written_twice, "written_twice"),
    (of_another_id, "written_twice"),
    (half_a_batch, "torn_batch"),
    (nobody_asked, "nobody_asked"),
    (told_of_another, "false_answer"),
    (cancelled_in_vain, "cancellation_lost"),
]
