"""Definitions: queues, schedules, tasks, and the registry that holds what one runtime knows."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload

from attrs import Attribute, field, frozen

from runlane import crontab
from runlane.cadence import Cadence, Every, Once
from runlane.errors import ConfigurationInvalid
from runlane.payloads import PayloadSchema
from runlane.policy import ONE_ATTEMPT, Retry
from runlane.shown import shown
from runlane.values import duration, identifier, instant

P = ParamSpec("P")
R = TypeVar("R")

#: Priorities are small integers; higher is claimed first.
PRIORITY_RANGE = range(-32768, 32768)
DEFAULT_TTL = "30d"
#: How far occurrences may lie from each other; microseconds of it are kept.
_RAREST = timedelta(days=36_525)
#: For how long a slot may be reserved.
_LONGEST = timedelta(days=365)


def priority(value: object) -> int:
    """`value` as a priority."""
    if type(value) is not int or value not in PRIORITY_RANGE:
        raise ConfigurationInvalid(f"priority must be an integer from -32768 to 32767; got {shown(value)}")
    return value


def idempotency_ttl(value: object) -> str:
    """`value` as stored: ``"active"``, or a duration; default 30 days."""
    if value is None:
        return DEFAULT_TTL
    if isinstance(value, str):
        value = str.__str__(value)
        if value == "active":
            return value
    duration("idempotency_ttl", value)
    if isinstance(value, timedelta):
        return f"{max(1, value // timedelta(milliseconds=1))}ms"
    return str(value)


def _queue_name(value: str) -> str:
    return identifier("queue name", value)


def _concurrency_limit(value: object) -> int | None:
    if value is None or (type(value) is int and 1 <= value < 2**31):
        return value
    raise ConfigurationInvalid(f"concurrency_limit must be an integer of at least 1; got {shown(value)}")


def _schedule_id(value: str) -> str:
    return identifier("schedule id", value)


@frozen
class Queue:
    """A named line of runs; definitions are passed to ``Runlane(queues=…)``.

    Args:
        name: stable and logical, stored with each run.
        default: whether tasks without a queue of their own use it; at most one per runtime.
        concurrency_limit: the most runs of a concurrency key that are executed at once, over all processes; runs
            without a key share the same number.  Each process keeps to the limit of its own definition.
        dispatch_timeout: the age (``"30s"``) at which a slot reserved for a wakeup is given back; needs a limit.

    Raises:
        ConfigurationInvalid: naming the option that is not valid.
    """

    name: str = field(converter=_queue_name)
    default: bool = field(default=False, kw_only=True)
    concurrency_limit: int | None = field(default=None, kw_only=True, converter=_concurrency_limit)
    dispatch_timeout: timedelta | str | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.dispatch_timeout is None:
            return
        if duration(f"dispatch_timeout of queue {self.name}", self.dispatch_timeout) > _LONGEST:
            raise ConfigurationInvalid(f"dispatch_timeout of queue {self.name} must be at most {_LONGEST.days} days")
        if self.concurrency_limit is None:
            raise ConfigurationInvalid(f"queue {self.name} has a dispatch_timeout but no concurrency_limit")


@frozen
class Schedule:
    """When a task runs by itself; give exactly one of `run_at`, `every` and `cron`.

    Args:
        id: stable, unique over the runtime.
        payload: passed to each run; validated when the runtime is built.
        run_at: the aware instant of a single occurrence.
        every: the interval, such as ``"10m"``; occurrences lie at its multiples since the Unix epoch.
        cron: five fields, such as ``"30 2 * * *"``: minute, hour, day of month, month, day of week.
        time_zone: the IANA zone whose clocks `cron` goes by.  A time that they skip fires at the first instant after
            the gap, one that they show twice fires the first time.
        queue: instead of the task's queue.
        enabled: whether it fires at present.

    Raises:
        ConfigurationInvalid: naming the schedule and the field that is not valid.
    """

    id: str = field(converter=_schedule_id)
    payload: Any = field(default=None, kw_only=True)
    run_at: datetime | None = field(default=None, kw_only=True)
    every: timedelta | str | None = field(default=None, kw_only=True)
    cron: str | None = field(default=None, kw_only=True)
    time_zone: str = field(default="UTC", kw_only=True)
    queue: Queue | None = field(default=None, kw_only=True)
    enabled: bool = field(default=True, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if [self.run_at, self.every, self.cron].count(None) != 2:
            raise ConfigurationInvalid(f"schedule {self.id} needs exactly one of run_at, every and cron")
        if self.cron is None and self.time_zone != "UTC":
            raise ConfigurationInvalid(f"schedule {self.id} has a time_zone but no cron; run_at and every need none")
        self.cadence()

    def cadence(self) -> Cadence:
        """The rule by which it fires."""
        if self.cron is not None:
            return crontab.checked(f"schedule {self.id}", self.cron, self.time_zone)
        if self.run_at is not None:
            return Once(instant(f"run_at of schedule {self.id}", self.run_at))
        interval = duration(f"every of schedule {self.id}", self.every)
        if interval < timedelta(seconds=1):
            raise ConfigurationInvalid(f"every of schedule {self.id} must be at least 1s; got {shown(self.every)}")
        if interval > _RAREST:
            raise ConfigurationInvalid(f"every of schedule {self.id} must be at most {_RAREST.days} days")
        return Every(interval)


#: A key of a task: text, or a function of the payload as the handler receives it.
Key = str | Callable[[Any], str] | None


def _queue(_: object, attribute: Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, Queue):
        raise ConfigurationInvalid(f"{attribute.name} must be a Queue definition, not {shown(value)}")


@frozen(eq=False)
class Task(Generic[P, R]):
    """A handler with its payload type and execution policy; immutable, still callable as the plain function."""

    id: str
    function: Callable[P, R]
    payload: PayloadSchema
    arity: int
    is_async: bool
    queue: Queue | None = field(default=None, validator=_queue)
    retry: Retry = ONE_ATTEMPT
    priority: int = 0
    idempotency_key: Key = None
    idempotency_ttl: str | timedelta | None = None
    concurrency_key: Key = None
    schedules: tuple[Schedule, ...] = ()
    singleton_key: Key = None
    timeout: timedelta | None = None
    subject: Key = None

    def key(self, what: str, asked: str | None, payload: Any) -> str | None:
        """The key called `what` of a run with this stored payload: the one asked for, else the task's.

        Raises:
            ConfigurationInvalid: it is no valid key.
        """
        key: Key = getattr(self, what) if asked is None else asked
        if callable(key):
            key = key(self.payload.from_json(payload))
        return None if key is None else identifier(what, key)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.id}>"


@overload
def task(
    id: str,
    *,
    queue: Queue | None = None,
    payload: Any = None,
    retry: Retry | None = None,
    priority: int = 0,
    idempotency_key: Key = None,
    idempotency_ttl: str | timedelta | None = None,
    singleton_key: Key = None,
    concurrency_key: Key = None,
    schedules: Iterable[Schedule] = (),
    timeout: timedelta | str | None = None,
    subject: Key = None,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


@overload
def task(id: Callable[P, R]) -> Task[P, R]: ...


def task(
    id: str | Callable[P, R],
    *,
    queue: Queue | None = None,
    payload: Any = None,
    retry: Retry | None = None,
    priority: int = 0,
    idempotency_key: Key = None,
    idempotency_ttl: str | timedelta | None = None,
    singleton_key: Key = None,
    concurrency_key: Key = None,
    schedules: Iterable[Schedule] = (),
    timeout: timedelta | str | None = None,
    subject: Key = None,
) -> Callable[[Callable[P, R]], Task[P, R]] | Task[P, R]:
    """Make a task of a function ``(payload)`` or ``(payload, context)``, ``def`` or ``async def``.

    Args:
        id: stable, stored with each run; never rename it while runs wait.
        queue: the queue its runs wait in; else the runtime's default.
        payload: the payload type; else the annotation of the first parameter; else any JSON.
        retry: how often it may fail; else one attempt.
        priority: of its runs, -32768 to 32767, higher first.
        idempotency_key: text, or a function of the payload (as the handler receives it).
        idempotency_ttl: how long a finished run keeps its key (``"30d"``), or ``"active"``.
        singleton_key: text, or a function of the payload; at most one active run of the task has it.
        concurrency_key: text, or a function of the payload; on a queue with a limit, runs of each key are counted
            by themselves.
        schedules: when it runs by itself.
        timeout: how long one attempt may last (``"30s"``); else as long as it likes.  An ``async def`` handler is then
            cancelled, a ``def`` one signalled, and the attempt has failed with ``attempt_timeout``, which is retryable
            by the task's policy.
        subject: whom a payload is about, text or a function of the payload: what ``audit.erase`` can erase it by.
            Needs a payload codec with keys.

    Raises:
        ConfigurationInvalid: naming the option that is not valid.
    """
    if callable(id) and not isinstance(id, str):
        return task(getattr(id, "__name__", "task"))(id)
    task_id = identifier("task id", id)
    if retry is not None and not isinstance(retry, Retry):
        raise ConfigurationInvalid(f"retry of task {task_id} must be Retry(…); got {shown(retry)}")
    _check_key(f"idempotency_key of task {task_id}", idempotency_key)
    _check_key(f"singleton_key of task {task_id}", singleton_key)
    _check_key(f"concurrency_key of task {task_id}", concurrency_key)
    _check_key(f"subject of task {task_id}", subject)
    if idempotency_ttl is not None and idempotency_key is None:
        raise ConfigurationInvalid(f"task {task_id} has an idempotency_ttl but no idempotency_key")
    _ttl(idempotency_ttl)
    longest = None if timeout is None else duration(f"timeout of task {task_id}", timeout)

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        caller = sys._getframe(1).f_locals  # where a payload class may be local, as in a test
        parameters, hints = _positional(task_id, function, caller)
        annotated = hints.get(parameters[0], Any) if parameters else type(None)
        return Task(
            task_id,
            function,
            PayloadSchema(annotated if payload is None else payload),
            len(parameters),
            inspect.iscoroutinefunction(function),
            queue,
            retry or ONE_ATTEMPT,
            _priority(priority),
            idempotency_key,
            idempotency_ttl,
            concurrency_key,
            _schedules(task_id, schedules),
            singleton_key,
            longest,
            subject,
        )

    return decorate


# Inside `task` the parameters of the same names hide these.
_priority, _ttl = priority, idempotency_ttl


def _check_key(what: str, key: object) -> None:
    if isinstance(key, str):
        identifier(what, key)
    elif key is not None and not callable(key):
        raise ConfigurationInvalid(f"{what} must be text or a function of the payload; got {shown(key)}")


def _schedules(task_id: str, schedules: object) -> tuple[Schedule, ...]:
    if not isinstance(schedules, Iterable) or isinstance(schedules, str):
        raise ConfigurationInvalid(f"schedules of task {task_id} must be a list of Schedule(…); got {shown(schedules)}")
    found = tuple(schedules)
    for schedule in found:
        if not isinstance(schedule, Schedule):
            raise ConfigurationInvalid(f"schedules of task {task_id} must hold Schedule(…); got {shown(schedule)}")
    return found


def _positional(
    task_id: str, function: Callable[..., Any], names_there: dict[str, Any]
) -> tuple[list[str], Mapping[str, Any]]:
    if not callable(function):
        raise ConfigurationInvalid(f"task {task_id} decorates a function, not {shown(function)}")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = []
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:  # some builtins
        raise ConfigurationInvalid(f"the handler of task {task_id} cannot be inspected: {error}") from error
    for parameter in parameters:
        if parameter.kind in kinds:
            names.append(parameter.name)
        elif parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY:
            raise ConfigurationInvalid(f"the handler of task {task_id} must not require {parameter.name}=")
    if len(names) > 2:
        raise ConfigurationInvalid(f"the handler of task {task_id} takes (payload) or (payload, context); got {names}")
    try:
        hints = typing.get_type_hints(function, localns=names_there)
    except Exception as error:
        raise ConfigurationInvalid(f"the annotations of task {task_id} cannot be resolved: {error}") from error
    return names, hints
