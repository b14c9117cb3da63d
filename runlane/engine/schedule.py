"""Schedules: registering what is deployed, making runs of due occurrences, and what operators ask in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from uuid import UUID

from attrs import evolve, frozen

from runlane import jsontext, schedule_decisions
from runlane.cadence import Once
from runlane.engine.trigger import NewRun, Triggered, sealed, trigger
from runlane.errors import ConflictKind, PayloadErased, ScheduleNotFound, StorageConflict
from runlane.events import RunCreated, ScheduleEvent, ScheduleResumed
from runlane.payload_codec import CodecContext, Part, is_sealed
from runlane.projections.runs import Run
from runlane.projections.schedules import ScheduleState
from runlane.registry import Registry
from runlane.schedule_decisions import ScheduleDefinition
from runlane.storage import log, schedules, streams
from runlane.storage.transaction import Transaction
from runlane.tasks import Task, idempotency_ttl
from runlane.values import Actor, ActorType, Source, SourceType
from runlane.vault import PLAIN, Vault

#: From a schedule as it is, or none, to what happens to it.
Decide = Callable[[ScheduleState | None], Sequence[ScheduleEvent]]


def definitions(registry: Registry) -> list[ScheduleDefinition]:
    """What the registered tasks say about schedules."""
    return [
        ScheduleDefinition(
            schedule.id,
            task.id,
            registry.queue_of(task, schedule.queue),
            schedule.cadence(),
            task.payload.to_json(schedule.payload, f"payload of schedule {schedule.id}"),
            schedule.enabled,
            registry.schedule_subjects[schedule.id],
        )
        for task in registry.tasks.values()
        for schedule in task.schedules
    ]


def deploy(
    tx: Transaction, environment: str, wanted: Sequence[ScheduleDefinition], tasks: Sequence[str], vault: Vault = PLAIN
) -> int:
    """Record new and changed definitions, and withdraw those that `tasks` have no longer; how many changed."""
    known = {state.schedule_id: state for state in schedules.schedules_of(tx, environment)}
    now = tx.now()

    def settle(schedule_id: str, decide: Decide) -> int:
        state = known.get(schedule_id)
        events = decide(state)
        if not events or _move(tx, environment, schedule_id, state, events, now):
            return len(events)
        # Fired, paused or registered by somebody else since it was read: decided again, now that it stands still.
        state = schedules.lock_schedule(tx, schedule_decisions.schedule_stream(environment, schedule_id))
        return int(_move(tx, environment, schedule_id, state, decide(state), now))

    decide_for: dict[str, Decide] = {
        state.schedule_id: _withdraw for state in known.values() if state.task_id in tasks and not state.removed
    }
    for definition in wanted:
        decide_for[definition.schedule_id] = partial(_deploy, tx, environment, definition, now, vault)
    # One order for every version of the program, so that two deployed at once cannot wait for each other in a circle.
    return sum(settle(schedule_id, decide_for[schedule_id]) for schedule_id in sorted(decide_for))


def _deploy(
    tx: Transaction,
    environment: str,
    definition: ScheduleDefinition,
    now: datetime,
    vault: Vault,
    state: ScheduleState | None,
) -> Sequence[ScheduleEvent]:
    definition = _stored(tx, environment, definition, vault, state)
    events = schedule_decisions.deploy(state, definition, now)
    if events and state is not None and isinstance(definition.cadence, Once):
        spent = _is_spent(tx, state, definition.cadence.at)
        events = schedule_decisions.deploy(state, definition, now, spent=spent)
    return events


def _is_spent(tx: Transaction, state: ScheduleState, at: datetime) -> bool:
    """Whether the occurrence at this time has fired, or an operator's resume has skipped it."""
    if schedules.has_fired(tx, state.environment, state.schedule_id, at):
        return True
    with closing(streams.read_newest(tx, state.stream_id, (ScheduleResumed,))) as resumed:
        return any(isinstance(one.event, ScheduleResumed) and one.event.skipped_until == at for one in resumed)


def _stored(
    tx: Transaction, environment: str, definition: ScheduleDefinition, vault: Vault, state: ScheduleState | None
) -> ScheduleDefinition:
    """The definition with its payload as it is stored: as it stands there already, if that says the same."""
    if vault.codec is None or (definition.payload is None and definition.subject is None):
        return definition
    if state is not None and state.task_id == definition.task_id and is_sealed(state.payload):
        try:
            plain = vault.open_in(tx, state.payload, vault.about_schedule(state))
        except PayloadErased:
            pass  # it is about somebody who was erased, and is defined still: under a new key
        else:
            # As JSON, in which 1, 1.0 and true are different values.
            if jsontext.dumps(plain) == jsontext.dumps(definition.payload):
                return evolve(definition, payload=state.payload)
    stream = schedule_decisions.schedule_stream(environment, definition.schedule_id)
    key = vault.keys_for([definition.subject], tx)[definition.subject]
    about = CodecContext(environment, stream, definition.task_id, Part.PAYLOAD, definition.subject, key)
    return evolve(definition, payload=vault.seal(definition.payload, about))


def _withdraw(state: ScheduleState | None) -> Sequence[ScheduleEvent]:
    return () if state is None else schedule_decisions.withdraw(state)


@frozen
class Fired:
    """What firing schedules came to: the runs, and the streams of the schedules that have to be fired by themselves."""

    runs: Sequence[Run]
    left: Sequence[UUID] = ()


def fire(tx: Transaction, registry: Registry, new_ids: Mapping[UUID, UUID], vault: Vault = PLAIN) -> Fired:
    """Make the runs of due schedules, of each for its latest occurrence.

    What is not due, and what another maintainer has, is passed over.  Of several schedules those are left that could
    hold up the others: whose runs have keys, which somebody may hold, and whose run cannot be made.

    Args:
        new_ids: the schedules, by their streams, and the id of the run that each makes.

    Raises:
        StorageConflict: one of them was moved without its lock.
    """
    wanted: list[NewRun] = []
    due: list[ScheduleState] = []
    left: list[UUID] = []
    locked = schedules.lock_schedules(tx, list(new_ids))
    now = tx.now()
    for state in locked:
        try:
            new = _due_run(tx, state, registry, new_ids[state.stream_id], now, vault)
        except Exception:
            if len(new_ids) == 1:
                raise
            left.append(state.stream_id)
            continue
        if new is not None and len(new_ids) > 1 and _has_keys(new):
            left.append(state.stream_id)
        elif new is not None:
            wanted.append(new)
            due.append(state)
    if not due:
        return Fired((), left)
    changes, runs = [], [triggered.run for triggered in trigger(tx, due[0].environment, wanted)]
    for state, run in zip(due, runs, strict=True):
        # Decided again with the run that the task's key may have led to.
        events = schedule_decisions.fire(state, run.id, now)
        actor = Actor(ActorType.SCHEDULE, state.schedule_id)
        changes.append(
            schedule_decisions.move_schedule(state.environment, state.schedule_id, state, events, now, actor)
        )
    if not log.append_schedules(tx, changes):
        raise StorageConflict("a schedule was moved by somebody else", kind=ConflictKind.SCHEDULE_OCCURRENCE)
    return Fired(runs, left)


def _due_run(
    tx: Transaction, state: ScheduleState, registry: Registry, new_id: UUID, now: datetime, vault: Vault
) -> NewRun | None:
    """The run of the schedule's latest occurrence; None if it is not due."""
    events = schedule_decisions.fire(state, new_id, now)
    if not events:
        return None
    task, deliver = registry.task(state.task_id), registry.asks_at_once(state.queue)
    plain = evolve(state, payload=vault.open_in(tx, state.payload, vault.about_schedule(state)))
    new = _occurrence(plain, task, new_id, events[0].scheduled_for, deliver)
    return sealed(vault, state.environment, [new], tx)[0]


def _has_keys(new: NewRun) -> bool:
    return new.created.idempotency_key is not None or new.created.singleton_key is not None


def find(tx: Transaction, environment: str, schedule_id: str) -> ScheduleState:
    """The schedule with this id.

    Raises:
        ScheduleNotFound: none was ever registered.
    """
    state = schedules.get_schedule(tx, schedule_decisions.schedule_stream(environment, schedule_id))
    return _found(state, environment, schedule_id)


def pause(tx: Transaction, environment: str, schedule_id: str, actor: Actor, reason: str | None) -> ScheduleState:
    """Stop a schedule until it is resumed; the schedule as it is then."""
    state = _locked(tx, environment, schedule_id)
    return _moved(tx, state, schedule_decisions.pause(state, reason), actor)


def resume(tx: Transaction, environment: str, schedule_id: str, actor: Actor, reason: str | None) -> ScheduleState:
    """Let a paused schedule go on after now; the schedule as it is then."""
    state = _locked(tx, environment, schedule_id)
    return _moved(tx, state, schedule_decisions.resume(state, reason, tx.now()), actor)


def trigger_now(
    tx: Transaction,
    environment: str,
    schedule_id: str,
    registry: Registry,
    new_id: UUID,
    actor: Actor,
    parent: Run | None,
    vault: Vault,
) -> Triggered:
    """Make a run of a schedule out of turn, or find the owner of its task's key; `parent` is the run that asks."""
    state = _locked(tx, environment, schedule_id)
    schedule_decisions.fires_by_hand(state)
    task = registry.task(state.task_id)
    state = evolve(state, payload=vault.open_in(tx, state.payload, vault.about_schedule(state)))
    task.payload.from_json(state.payload, f"payload of schedule {schedule_id}")
    wanted = _occurrence(state, task, new_id, None, registry.asks_at_once(state.queue))
    created = wanted.created
    if parent is not None:
        created = evolve(
            created,
            source=evolve(created.source, parent_run_id=parent.id),
            correlation_id=parent.correlation_id,
            trace_carrier=parent.trace_carrier,
        )
    wanted = evolve(wanted, created=created, actor=actor)
    return trigger(tx, environment, sealed(vault, environment, [wanted], tx))[0]


def _found(state: ScheduleState | None, environment: str, schedule_id: str) -> ScheduleState:
    if state is None:
        raise ScheduleNotFound(
            f"no schedule has the id {schedule_id!r} in environment {environment!r}; "
            "the first tick of a worker registers those of its tasks"
        )
    return state


def _locked(tx: Transaction, environment: str, schedule_id: str) -> ScheduleState:
    state = schedules.lock_schedule(tx, schedule_decisions.schedule_stream(environment, schedule_id))
    return _found(state, environment, schedule_id)


def _moved(tx: Transaction, state: ScheduleState, events: Sequence[ScheduleEvent], actor: Actor) -> ScheduleState:
    if not events:
        return state
    change = schedule_decisions.move_schedule(state.environment, state.schedule_id, state, events, tx.now(), actor)
    if not log.append_schedule(tx, change):
        raise StorageConflict(f"schedule {state.schedule_id} was moved by somebody else", kind=ConflictKind.SEQUENCE)
    return change.after


def _occurrence(
    state: ScheduleState, task: Task[..., object], new_id: UUID, scheduled_for: datetime | None, deliver: bool
) -> NewRun:
    """A run of the occurrence at `scheduled_for`, or of none."""
    key = task.key("idempotency_key", None, state.payload)
    occurrence = None
    if scheduled_for is not None:
        occurrence = schedule_decisions.occurrence_id(state.environment, state.schedule_id, scheduled_for)
    created = RunCreated(
        task.id,
        state.queue,
        state.payload,
        Source(SourceType.SCHEDULE, None, None, state.schedule_id, occurrence, scheduled_for),
        task.priority,
        idempotency_key=key,
        idempotency_ttl=None if key is None else idempotency_ttl(task.idempotency_ttl),
        singleton_key=task.key("singleton_key", None, state.payload),
        concurrency_key=task.key("concurrency_key", None, state.payload),
    )
    subject = task.key("subject", None, state.payload)
    return NewRun(new_id, created, Actor(ActorType.SCHEDULE, state.schedule_id), deliver=deliver, subject=subject)


def _move(
    tx: Transaction,
    environment: str,
    schedule_id: str,
    state: ScheduleState | None,
    events: Sequence[ScheduleEvent],
    now: datetime,
) -> int:
    if not events:
        return 0
    actor = Actor(ActorType.SCHEDULE, schedule_id)
    change = schedule_decisions.move_schedule(environment, schedule_id, state, events, now, actor)
    return int(log.append_schedule(tx, change))
