"""What must hold at the end of an episode: of the log, of what clients were told, and of what handlers did."""

from __future__ import annotations

import hashlib
from uuid import UUID

from runlane import Runlane
from runlane.events import RunLeased, RunSucceeded
from runlane.lanes import Lane
from tests.simulation.cast import ENVIRONMENT, QUEUES, TASKS
from tests.simulation.world import World
from tests.stateful.invariants import HISTORIES, Stored, invariant_6_what_is_stored_is_the_fold_of_the_log


def auditor(world: World) -> Runlane:
    """A process of nobody's, to look with."""
    lane = Lane(world.database)
    return Runlane(lane, queues=QUEUES, tasks=TASKS, environment=ENVIRONMENT, clock=world.clock)


def judge(world: World) -> None:
    """Everything.

    Raises:
        AssertionError: naming what does not hold.
    """
    world.look()
    if world.kernel.error is not None:
        raise world.kernel.error
    stored = Stored.of(auditor(world))
    for invariant in HISTORIES:
        if invariant is not invariant_6_what_is_stored_is_the_fold_of_the_log:  # which counts the events of runs alone
            invariant(stored)
    assert stored.verification.differences == (), "invariant 6: stored state equals the fold of the log"
    assert stored.verification.events == sum(world.follower.counts.values())
    assert set(stored.runs) == set(world.follower.folds), "invariant 1: no accepted run is lost"
    clients_were_told_the_truth(world)
    effects_are_in_the_log(world)
    world.tally["executions"] += len(world.effects)
    world.tally["executions repeated"] += len(world.effects) - len({effect.run_id for effect in world.effects})


def clients_were_told_the_truth(world: World) -> None:
    """What was acknowledged is there, what failed is not, and nothing was made twice."""
    folds, gone = world.follower.folds, world.pruned
    for record in world.records:
        world.tally[f"told {record.told or 'nothing'}"] += 1
        if record.told == "ok":
            for id in record.ids:
                if id not in folds and id not in gone:
                    world.tally["acknowledged runs lost"] += 1
                    raise AssertionError(f"invariant 1: run {id} was acknowledged and is not there")
        if record.told == "failed":
            there = [id for id in record.own if id in folds or id in gone]
            assert not there, f"{record.name} is said to have failed, but made {there}"
        for token in record.tokens:
            made = world.made.get(token, [])
            may_repeat = record.name == "trigger_by_key" or any(id in gone for id in made)  # once the owner has ended
            assert len(made) <= 1 or may_repeat, f"{record.name} was asked for once and made {made}"
    for id in world.cancelled:
        if id in folds and id not in gone:  # one that was pruned, and made again, has another life
            assert folds[id].status != "succeeded", "invariant 12: a cancellation turned into success"
            assert folds[id].is_terminal or folds[id].cancellation is not None, "invariant 12: a cancellation was lost"


def effects_are_in_the_log(world: World) -> None:
    """Each execution had its lease, and each success is of the execution that had the lease then."""
    leases = {
        (id, record.event.attempt): record.event.session_id
        for id, history in world.follower.histories.items()
        for record in history
        if isinstance(record.event, RunLeased)
    }
    for effect in world.effects:
        # Of a run that was pruned, and made again by who had not heard that it was there, the first history is gone.
        if effect.run_id in world.follower.folds and effect.run_id not in world.pruned:
            lease = leases.get((effect.run_id, effect.attempt))
            assert lease == effect.session_id, f"{effect} had no lease"
    for id, history in world.follower.histories.items():
        event = history[-1].event
        if isinstance(event, RunSucceeded):
            effect = world.effects[event.result["token"]]
            assert (effect.run_id, effect.attempt, effect.session_id) == (id, event.attempt, event.session_id), (
                f"invariant 3: run {id} has the result of {effect}, and not of attempt {event.attempt}"
            )


def unsettled(world: World) -> list[str]:
    """What has not come to an end, though nothing is in its way any more."""
    rows = world.reader._execute("select run_id, status, attempts from outbox where environment = ?", (ENVIRONMENT,))
    found = [
        f"run {id} is {run.status} in its attempt {run.attempt_count}, due {run.due_at}"
        for id, run in world.follower.folds.items()
        if not run.is_terminal
    ]
    found += [
        f"the wakeup of run {id} is {status} after {attempts} tries"
        for id, status, attempts in rows.fetchall()
        if status not in ("published", "dead_lettered")
    ]
    found += [f"client {n} has an operation without an answer" for n, line in world.lines.items() if line]
    for process in world.processes:
        worker = process.worker
        if process.alive and worker is not None and (held := worker._exchange.held()):
            found.append(f"worker {process.name} holds {held}")
    return found


def digest(world: World) -> str:
    """Of the whole log: what happened, when, and by whom."""
    found = hashlib.sha256()
    for row in world.reader.after(0):
        found.update(repr(row).encode())
    return found.hexdigest()


def active(world: World) -> list[UUID]:
    """The runs that have not ended."""
    return [id for id, run in world.follower.folds.items() if not run.is_terminal]
