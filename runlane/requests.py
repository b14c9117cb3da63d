"""From what a caller asks for to a validated request: nothing that could be wrong gets as far as the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, TypedDict, TypeVar
from uuid import UUID

from runlane import jsontext
from runlane.context import current
from runlane.engine.operate import Said
from runlane.engine.trigger import NewRun
from runlane.errors import ConfigurationInvalid
from runlane.events import RunCreated
from runlane.registry import Registry
from runlane.shown import shown, words_of
from runlane.structs import struct
from runlane.tasks import Queue, Task, idempotency_ttl, priority
from runlane.values import (
    APPLICATION,
    Actor,
    Source,
    SourceType,
    checked_actor,
    duration,
    free_text,
    instant,
    new_run_id,
    run_id,
)


class TriggerOptions(TypedDict, total=False):
    """The options of a trigger; each replaces the task's."""

    queue: Queue | None
    idempotency_key: str | None
    idempotency_ttl: str | timedelta | None
    singleton_key: str | None
    concurrency_key: str | None
    priority: int | None
    run_at: datetime | None
    delay: str | timedelta | None
    run_id: UUID | str | None
    correlation_id: str | None
    actor: Actor | None
    trace_carrier: Mapping[str, str] | None
    meta: Mapping[str, Any] | None
    subject: str | None


@struct
class Trigger:
    """One entry of ``trigger_many``: the task, its payload, and the options of ``trigger``."""

    task: Task[..., Any] | str
    payload: Any = None
    queue: Queue | None = None
    idempotency_key: str | None = None
    idempotency_ttl: str | timedelta | None = None
    singleton_key: str | None = None
    concurrency_key: str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    delay: str | timedelta | None = None
    run_id: UUID | str | None = None
    correlation_id: str | None = None
    actor: Actor | None = None
    trace_carrier: Mapping[str, str] | None = None
    meta: Mapping[str, Any] | None = None
    subject: str | None = None


def build(registry: Registry, asked: Trigger, source: SourceType = SourceType.TRIGGER) -> NewRun:
    """The request for a run, with the task's defaults and the parent's context filled in.

    Raises:
        TaskNotFound: the task is not registered.
        PayloadInvalid: the payload does not fit, naming the field.
        ConfigurationInvalid: an option is not valid, naming it.
    """
    task = registry.task(asked.task)
    payload = task.payload.to_json(asked.payload)
    subject = _subject(registry, task, asked.subject, payload)
    parent = current.get()
    if source is SourceType.TRIGGER and parent is None and _is_bare(asked):
        mould = registry.mould(task)
        if mould is not None:
            return _moulded(mould, payload, registry.asks_at_once(mould.queue), subject)
    key = task.key("idempotency_key", asked.idempotency_key, payload)

    if asked.run_at is not None and asked.delay is not None:
        raise ConfigurationInvalid("give run_at or delay, not both")
    correlation_id, trace_carrier = asked.correlation_id, _carrier(asked.trace_carrier)
    if parent is not None:
        correlation_id = parent.run.correlation_id if correlation_id is None else correlation_id
        trace_carrier = parent.run.trace_carrier if trace_carrier is None else trace_carrier
    created = RunCreated(
        task.id,
        registry.queue_of(task, asked.queue),
        payload,
        Source(source, parent_run_id=None if parent is None else parent.run.id),
        task.priority if asked.priority is None else priority(asked.priority),
        None if asked.run_at is None else instant("run_at", asked.run_at),
        key,
        _ttl(task, asked, key),
        task.key("singleton_key", asked.singleton_key, payload),
        task.key("concurrency_key", asked.concurrency_key, payload),
        correlation_id=None if correlation_id is None else free_text("correlation_id", correlation_id),
        trace_carrier=trace_carrier,
        meta=_meta(asked.meta),
    )
    return NewRun(
        new_run_id() if asked.run_id is None else run_id(asked.run_id),
        created,
        actor_of(asked.actor),
        None if asked.delay is None else duration("delay", asked.delay),
        source is not SourceType.RUN_NOW and registry.asks_at_once(created.queue),
        asked.run_id is None,
        subject=subject,
    )


def _subject(registry: Registry, task: Task[..., Any], asked: str | None, payload: Any) -> str | None:
    """Whom the payload is about.

    Raises:
        ConfigurationInvalid: it is no valid name, or there are no keys to erase it by.
    """
    if asked is None and task.subject is None:
        return None
    if not registry.has_subjects:
        raise ConfigurationInvalid(
            "a subject needs a payload codec with keys, such as Runlane(payload_codec=AesGcm(…))"
        )
    return task.key("subject", asked, payload)


def maker(registry: Registry, asked: Task[..., Any] | str) -> Callable[[Any], NewRun] | None:
    """What makes requests for runs of a task from nothing but payloads, all of them alike; None if it has keys, or
    where a parent's context is to be filled in.

    Raises:
        TaskNotFound: the task is not registered.
    """
    task = registry.task(asked)
    mould = registry.mould(task)
    if mould is None or current.get() is not None:
        return None
    to_json, deliver = task.payload.to_json, registry.asks_at_once(mould.queue)
    if task.subject is None:
        return lambda payload: _moulded(mould, to_json(payload), deliver)

    def about(payload: Any) -> NewRun:
        value = to_json(payload)
        return _moulded(mould, value, deliver, _subject(registry, task, None, value))

    return about


def _moulded(mould: RunCreated, payload: Any, deliver: bool, subject: str | None = None) -> NewRun:
    created = RunCreated(mould.task_id, mould.queue, payload, mould.source, mould.priority)
    return NewRun(new_run_id(), created, APPLICATION, deliver=deliver, own_id=True, mould=mould, subject=subject)


T = TypeVar("T")


def each(make: Callable[[T], NewRun], asked: Iterable[T], first: int = 0) -> Iterator[NewRun]:
    """The requests of ``trigger_many``; what is wrong with one names its place, counted from `first`."""
    for index, one in enumerate(asked, first):
        try:
            new = make(one)
        except ConfigurationInvalid as error:
            raise ConfigurationInvalid(f"entry {index}: {error}") from error
        except Exception as error:
            error.add_note(f"in entry {index} of trigger_many")
            raise
        yield new


def _is_bare(asked: Trigger) -> bool:
    """Whether there is nothing but a task and a payload; told one by one, as this is done for every run."""
    return (
        asked.queue is None
        and asked.idempotency_key is None
        and asked.idempotency_ttl is None
        and asked.singleton_key is None
        and asked.concurrency_key is None
        and asked.priority is None
        and asked.run_at is None
        and asked.delay is None
        and asked.run_id is None
        and asked.correlation_id is None
        and asked.actor is None
        and asked.trace_carrier is None
        and asked.meta is None
        and asked.subject is None
    )


def entries(task: Task[..., Any] | str | Iterable[Trigger], payloads: Iterable[Any] | None) -> list[Trigger]:
    """What ``trigger_many`` is asked for, in either of its two forms.

    Raises:
        ConfigurationInvalid: it is neither.
    """
    if isinstance(task, (Task, str)):
        return [Trigger(task, payload) for payload in listed(payloads)]
    if not isinstance(task, Iterable):
        raise ConfigurationInvalid(f"trigger_many takes (task, payloads) or a list of Trigger(…); got {shown(task)}")
    wanted = list(task)
    for asked in wanted:
        if not isinstance(asked, Trigger):
            raise ConfigurationInvalid(f"trigger_many takes Trigger(…) entries; got {shown(asked)}")
    return wanted


def listed(payloads: Iterable[Any] | None) -> list[Any]:
    """The payloads that ``trigger_many`` is given beside a task.

    Raises:
        ConfigurationInvalid: they are no list of payloads.
    """
    if isinstance(payloads, (str, bytes, Mapping)) or not isinstance(payloads, Iterable):
        raise ConfigurationInvalid(f"trigger_many(task, payloads) needs a list of payloads; got {shown(payloads)}")
    return list(payloads)


def said(actor: Actor | None, reason: str | None, meta: Mapping[str, Any] | None = None) -> Said:
    """What comes with an operator's request, checked.

    Raises:
        ConfigurationInvalid: naming the argument that is not valid.
    """
    return Said(actor_of(actor), None if reason is None else free_text("reason", reason), _meta(meta))


def _ttl(task: Task[..., Any], asked: Trigger, key: str | None) -> str | None:
    if key is not None:
        return idempotency_ttl(task.idempotency_ttl if asked.idempotency_ttl is None else asked.idempotency_ttl)
    if asked.idempotency_ttl is not None:
        raise ConfigurationInvalid("an idempotency_ttl needs an idempotency_key")
    return None


def actor_of(actor: Actor | None) -> Actor:
    """Who asks: `actor` if it is valid, the application by default."""
    if actor is None:
        return APPLICATION
    if not isinstance(actor, Actor):
        raise ConfigurationInvalid(f"actor must be an Actor, such as Actor.operator('ann'); got {shown(actor)}")
    return checked_actor(actor)


def _meta(meta: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if meta is None:
        return None
    if not isinstance(meta, Mapping):
        raise ConfigurationInvalid(f"meta must be a mapping; got {type(meta).__name__}")
    try:
        value: dict[str, Any] = jsontext.decode(jsontext.encode(dict(meta), "meta", 65_536))
    except jsontext.JsonInvalid as error:
        raise ConfigurationInvalid(str(error)) from None
    except Exception as error:  # a mapping of the caller's own kind
        raise ConfigurationInvalid(f"meta cannot be read: {words_of(error)}") from error
    return value


def _carrier(carrier: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if carrier is None:
        return None
    if not isinstance(carrier, Mapping):
        raise ConfigurationInvalid(f"trace_carrier must be a mapping of text; got {type(carrier).__name__}")
    try:
        told = dict(carrier)
    except Exception as error:  # a mapping of the caller's own kind
        raise ConfigurationInvalid(f"trace_carrier cannot be read: {words_of(error)}") from error
    return {free_text("a key of trace_carrier", k): free_text(f"trace_carrier[{shown(k)}]", v) for k, v in told.items()}
