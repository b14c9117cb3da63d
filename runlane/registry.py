"""What one runtime knows: its queues and tasks, checked as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from attrs import field, frozen

from runlane.errors import ConfigurationInvalid, RunlaneError, TaskNotFound
from runlane.events import RunCreated
from runlane.jsontext import dumps
from runlane.shown import shown
from runlane.tasks import Queue, Schedule, Task
from runlane.values import Source, SourceType, duration


@frozen
class Registry:
    """The queues and tasks of one runtime, checked as a whole."""

    queues: Mapping[str, Queue]
    tasks: Mapping[str, Task[..., Any]]
    default_queue: Queue | None
    delivers: bool = False
    has_subjects: bool = False
    #: Whom the payload of each schedule is about, as its task said when it was checked.
    schedule_subjects: dict[str, str | None] = field(factory=dict, init=False, eq=False, repr=False)
    _moulds: dict[str, RunCreated] = field(factory=dict, init=False, eq=False, repr=False)

    @classmethod
    def of(
        cls,
        queues: Iterable[Queue],
        tasks: Iterable[Task[..., Any]],
        delivers: bool = False,
        has_subjects: bool = False,
    ) -> Registry:
        """Check and index the definitions; `delivers` as the lane does, `has_subjects` as the payload codec.

        Raises:
            ConfigurationInvalid: two definitions share a name, a task uses a queue that is not registered, …
        """
        by_name = _unique("queue", queues, Queue, lambda queue: queue.name) or {
            "default": Queue("default", default=True)
        }
        defaults = [queue for queue in by_name.values() if queue.default]
        if len(defaults) > 1:
            raise ConfigurationInvalid(f"at most one queue may be the default: {[queue.name for queue in defaults]}")
        by_id = _unique("task", tasks, Task, lambda task: task.id)
        registry = cls(by_name, by_id, defaults[0] if defaults else None, delivers, has_subjects)
        seen: dict[str, str] = {}
        for task in registry.tasks.values():
            registry.queue_of(task)
            if task.subject is not None and not has_subjects:
                raise ConfigurationInvalid(
                    f"task {task.id} has a subject, which needs a payload codec with keys, such as "
                    "Runlane(payload_codec=AesGcm(…))"
                )
            for schedule in task.schedules:
                if schedule.id in seen:
                    raise ConfigurationInvalid(
                        f"schedule id {schedule.id!r} is used by tasks {seen[schedule.id]} and {task.id}"
                    )
                seen[schedule.id] = task.id
                registry.queue_of(task, schedule.queue)
                registry.schedule_subjects[schedule.id] = _keys_of(task, schedule)["subject"]
        return registry

    def task(self, task: Task[..., Any] | str) -> Task[..., Any]:
        """The registered task.

        Raises:
            TaskNotFound: it is not registered here.
        """
        wanted = task.id if isinstance(task, Task) else task
        known = self.tasks.get(str.__str__(wanted)) if isinstance(wanted, str) else None
        if known is None or (isinstance(task, Task) and known is not task):
            raise TaskNotFound(f"task {shown(wanted)} is not registered; pass it to Runlane(tasks=[…])")
        return known

    def queue_of(self, task: Task[..., Any], chosen: Queue | None = None) -> str:
        """The name of the queue a run goes to: the chosen one, the task's, or the default."""
        queue = chosen if chosen is not None else task.queue or self.default_queue
        if queue is None:
            raise ConfigurationInvalid(f"task {task.id} has no queue and no queue is the default (Queue(default=True))")
        return self.registered(queue)

    def mould(self, task: Task[..., Any]) -> RunCreated | None:
        """What all runs of `task` that are triggered with nothing but a payload have in common, always the same object;
        None if they may differ in more, as each has keys of its own."""
        found = self._moulds.get(task.id)
        if found is None and task.idempotency_key is task.singleton_key is task.concurrency_key is None:
            found = RunCreated(task.id, self.queue_of(task), None, Source(SourceType.TRIGGER), task.priority)
            found = self._moulds.setdefault(task.id, found)  # another thread may have been as quick
        return found

    def asks_at_once(self, queue: str) -> bool:
        """Whether a due run of `queue` asks for its delivery when it is made, rather than once a slot is reserved."""
        return not self.delivers or not self._is_bounded(queue)

    def wakes(self, queue: str) -> bool:
        """Whether a run of `queue` that is queued again needs another wakeup."""
        return self.delivers and not self._is_bounded(queue)

    def _is_bounded(self, queue: str) -> bool:
        return queue in self.queues and self.queues[queue].concurrency_limit is not None

    @property
    def fingerprint(self) -> str:
        """The same for processes whose maintenance would do the same."""
        tasks = sorted(
            [task.id, task.retry.max_lost, sorted(schedule.id for schedule in task.schedules)]
            for task in self.tasks.values()
        )
        queues = sorted(
            [name, queue.concurrency_limit, str(queue.dispatch_timeout)] for name, queue in self.queues.items()
        )
        return hashlib.sha256(dumps([tasks, queues, self.delivers]).encode()).hexdigest()[:32]

    def limits(self) -> dict[str, int]:
        """The bounded queues, each with its limit."""
        limits = {queue.name: queue.concurrency_limit for queue in self.queues.values()}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def dispatch_timeouts(self) -> dict[str, timedelta]:
        """The queues that have one: for how long a reserved slot may wait for its run."""
        timeouts = {queue.name: queue.dispatch_timeout for queue in self.queues.values()}
        return {name: duration("dispatch_timeout", given) for name, given in timeouts.items() if given is not None}

    def registered(self, queue: Queue) -> str:
        """The name of `queue`, if it is registered here."""
        if not isinstance(queue, Queue):
            raise ConfigurationInvalid(f"queue must be a Queue definition, not {shown(queue)}")
        known = self.queues.get(queue.name)
        if known is not queue and known != queue:
            raise ConfigurationInvalid(f"queue {queue.name!r} is not registered; pass it to Runlane(queues=[…])")
        return queue.name


T = TypeVar("T")


def _keys_of(task: Task[..., Any], schedule: Schedule) -> dict[str, str | None]:
    """The keys of the runs that a schedule makes.

    Raises:
        ConfigurationInvalid: the task does not take its payload, or a function of a key does not.
    """
    payload = task.payload.to_json(schedule.payload, f"payload of schedule {schedule.id}")
    keys: dict[str, str | None] = {}
    for what in ("idempotency_key", "singleton_key", "concurrency_key", "subject"):
        try:
            keys[what] = task.key(what, None, payload)
        except Exception as error:
            why = str(error) if isinstance(error, RunlaneError) else f"{type(error).__name__}: {error}"
            raise ConfigurationInvalid(
                f"schedule {schedule.id}: {what} of task {task.id} does not take its payload: {why}"
            ) from error
    return keys


def _unique(what: str, items: Iterable[T], kind: type, name: Callable[[T], str]) -> dict[str, T]:
    found: dict[str, T] = {}
    for item in items:
        if not isinstance(item, kind):
            hint = "; decorate the function with @task(…)" if what == "task" and callable(item) else ""
            raise ConfigurationInvalid(f"{what}s must hold {kind.__name__} definitions, not {shown(item)}{hint}")
        if name(item) in found:
            raise ConfigurationInvalid(f"two {what}s are called {name(item)!r}; each needs a name of its own")
        found[name(item)] = item
    return found
