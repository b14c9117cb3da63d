"""The definitions of one runtime, checked as a whole."""

from __future__ import annotations

from typing import Any

import pytest

from runlane import Queue, Schedule, task
from runlane.errors import ConfigurationInvalid, PayloadInvalid, RunlaneError, TaskNotFound
from runlane.registry import Registry
from runlane.tasks import Task

EMAILS = Queue("emails", default=True)
REPORTS = Queue("reports")


def made(id: str, **options: Any) -> Task:
    def handler(payload: Any) -> None:
        """Does nothing."""

    return task(id, **options)(handler)


def test_definitions_are_found_by_name() -> None:
    welcome = made("emails.welcome")
    registry = Registry.of([EMAILS, REPORTS], [welcome])
    assert registry.task("emails.welcome") is registry.task(welcome) is welcome
    assert registry.queues == {"emails": EMAILS, "reports": REPORTS}
    assert registry.default_queue is EMAILS


def test_without_queues_there_is_a_default_one() -> None:
    registry = Registry.of([], [made("t")])
    assert registry.queue_of(registry.task("t")) == "default"


def test_a_run_goes_to_the_chosen_queue_else_the_tasks_else_the_default() -> None:
    plain, own = made("plain"), made("own", queue=REPORTS)
    registry = Registry.of([EMAILS, REPORTS], [plain, own])
    assert registry.queue_of(plain) == "emails"
    assert registry.queue_of(own) == "reports"
    assert registry.queue_of(own, EMAILS) == "emails"


def test_an_equal_definition_of_a_queue_is_the_same_queue() -> None:
    registry = Registry.of([EMAILS, REPORTS], [made("t", queue=Queue("reports"))])
    assert registry.queue_of(registry.task("t")) == "reports"


def scheduled(id: str, schedule: str, **options: Any) -> Task:
    return made(id, schedules=[Schedule(schedule, every="1m", **options)])


@pytest.mark.parametrize(
    ("queues", "tasks", "names"),
    [
        ([EMAILS], [made("t"), made("t")], "two tasks are called 't'"),
        ([EMAILS, Queue("emails")], [], "two queues are called 'emails'"),
        ([EMAILS, Queue("b", default=True)], [], r"at most one queue may be the default: \['emails', 'b'\]"),
        ([EMAILS], [made("t", queue=REPORTS)], "queue 'reports' is not registered"),
        ([EMAILS, REPORTS], [made("t", queue=Queue("reports", default=True))], "queue 'reports' is not registered"),
        ([REPORTS], [made("t")], "task t has no queue and no queue is the default"),
        ([EMAILS], [scheduled("a", "nightly"), scheduled("b", "nightly")], "'nightly' is used by tasks a and b"),
        ([EMAILS], [scheduled("a", "nightly", queue=REPORTS)], "queue 'reports' is not registered"),
        ([EMAILS], [scheduled("a", "nightly", queue="emails")], "queue must be a Queue definition"),
        (["emails"], [], "queues must hold Queue definitions, not 'emails'"),
        ([EMAILS], ["t"], "tasks must hold Task definitions, not 't'"),
        ([EMAILS], [print], r"tasks must hold Task definitions.*decorate the function with @task"),
        ([EMAILS], [EMAILS], "tasks must hold Task definitions"),
    ],
)
def test_definitions_that_do_not_fit_together_are_refused_by_name(queues: list, tasks: list, names: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=names):
        Registry.of(queues, tasks)


def test_one_task_with_one_schedule_id_twice_is_refused() -> None:
    twice = made("t", schedules=[Schedule("nightly", every="1m"), Schedule("nightly", every="2m")])
    with pytest.raises(ConfigurationInvalid, match="'nightly' is used by tasks t and t"):
        Registry.of([EMAILS], [twice])


@pytest.mark.parametrize("payload", [None, "five", {"a": 1}])
def test_the_payload_of_a_schedule_is_checked_with_the_definitions(payload: Any) -> None:
    def handler(payload: int) -> None:
        """Wants a number."""

    wrong = task("t", schedules=[Schedule("nightly", every="1m", payload=payload)])(handler)
    with pytest.raises(PayloadInvalid, match="payload of schedule nightly does not fit int"):
        Registry.of([EMAILS], [wrong])


@pytest.mark.parametrize("wanted", ["other", "", None, 5])
def test_an_unknown_task_is_refused_by_name(wanted: Any) -> None:
    with pytest.raises(TaskNotFound, match=f"task {wanted!r} is not registered"):
        Registry.of([EMAILS], [made("t")]).task(wanted)


def test_another_task_of_the_same_name_is_not_the_registered_one() -> None:
    with pytest.raises(TaskNotFound, match="task 't' is not registered"):
        Registry.of([EMAILS], [made("t")]).task(made("t"))


@pytest.mark.parametrize("queue", [REPORTS, Queue("emails"), "emails"])
def test_a_queue_that_is_not_registered_is_refused(queue: Any) -> None:
    registry = Registry.of([EMAILS], [made("t")])
    with pytest.raises(RunlaneError, match="queue"):
        registry.queue_of(registry.task("t"), queue)
