"""Storage, keys: one owner per key whoever is faster, retention, and singletons."""

from __future__ import annotations

from datetime import timedelta

import pytest

from runlane.capabilities import Capability
from runlane.decisions import Failed, Succeeded
from runlane.engine import operate
from runlane.engine.operate import Said
from runlane.engine.trigger import Triggered, find_current, trigger
from runlane.errors import RunStateInvalid
from runlane.projections.runs import Run
from runlane.testing.conformance.cases import (
    ENVIRONMENT,
    SECOND,
    TASK,
    StorageCases,
    Store,
    birth,
    needs,
    new,
    together,
)
from runlane.values import APPLICATION, Failure, TriggerOutcome

DAY = timedelta(days=1)
FAILED = Failed(Failure("task_failed", "it failed", False))


def created(done: list[Triggered]) -> list[Run]:
    """The runs that were made, rather than found."""
    return [one.run for one in done if one.outcome is TriggerOutcome.CREATED]


@needs(Capability.ENFORCES_IDEMPOTENCY)
class IdempotencyCases(StorageCases):
    """What ``enforces_idempotency`` promises."""

    def test_a_key_has_one_owner(self, store: Store) -> None:
        first, second = birth(new(idempotency_key="k")), birth(new(idempotency_key="k"))
        assert store.append(first, second) == {second.after.id}, "the first of a batch takes the key, the second loses"
        assert store.history(second.after.id) == [], "a birth that lost its key was written"
        assert store.append(birth(new(idempotency_key="k"))) != set(), "a key was given away twice"

    def test_keys_of_other_tasks_and_environments_are_other_keys(self, store: Store) -> None:
        store.append(birth(new(idempotency_key="k")))
        assert store.append(birth(new(idempotency_key="k", task_id="other"))) == set()
        wanted = new(idempotency_key="k")
        done = store.transact(lambda tx: trigger(tx, "elsewhere", [wanted]))
        assert len(created(done)) == 1, "a key of another environment was taken for this one's"

    def test_of_many_triggers_with_one_key_one_creates(self, store: Store) -> None:
        for n in range(4):
            works = [lambda n=n: store.trigger(new(idempotency_key=f"k{n}"))[0] for _ in range(4)]
            done = together(works)
            assert len(created(done)) == 1, f"{len(created(done))} of 4 triggers with one key made a run"
            assert len({one.run.id for one in done}) == 1, "the others have to be given the run that was made"

    def test_two_batches_with_the_same_keys_do_not_wait_in_a_circle(self, store: Store) -> None:
        keys = [f"k{n}" for n in range(8)]
        works = [
            lambda order=order: store.trigger(*(new(idempotency_key=key) for key in order))
            for order in (keys, keys[::-1], keys[4:] + keys[:4])
        ]
        done = [one for batch in together(works) for one in batch]
        assert len(created(done)) == len(keys), "each key makes exactly one run"

    def test_an_active_owner_keeps_its_key_past_any_time(self, store: Store) -> None:
        owner = store.trigger(new(idempotency_key="k", idempotency_ttl="1s"))[0].run
        store.clock.advance(1000 * DAY)
        found = store.trigger(new(idempotency_key="k"))[0]
        assert (found.outcome, found.run.id) == (TriggerOutcome.REUSED_IDEMPOTENT, owner.id)

    def test_a_succeeded_owner_keeps_its_key_for_its_retention(self, store: Store) -> None:
        owner = store.end(new(idempotency_key="k", idempotency_ttl="2d"), Succeeded(1))
        store.clock.advance(2 * DAY - SECOND)
        found = store.trigger(new(idempotency_key="k"))[0]
        assert found.run == store.run(owner.id), "within its retention the ended owner is returned as it is"
        store.clock.advance(SECOND)
        (next_owner,) = created(store.trigger(new(idempotency_key="k")))
        assert next_owner.id != owner.id
        current = store.read(lambda tx: find_current(tx, ENVIRONMENT, TASK, "k"))
        assert current == store.run(next_owner.id), "the key has to belong to the new run now"

    def test_a_failed_owner_frees_its_key_at_once(self, store: Store) -> None:
        owner = store.end(new(idempotency_key="k"), FAILED)
        (next_owner,) = created(store.trigger(new(idempotency_key="k")))
        assert next_owner.id != owner.id

    def test_a_key_kept_while_active_is_free_at_the_end(self, store: Store) -> None:
        store.end(new(idempotency_key="k", idempotency_ttl="active"))
        assert created(store.trigger(new(idempotency_key="k"))), "its owner has ended"

    def test_a_freed_key_has_one_next_owner(self, store: Store) -> None:
        store.end(new(idempotency_key="k"), FAILED)
        done = together([lambda: store.trigger(new(idempotency_key="k"))[0]] * 4)
        assert len(created(done)) == 1, f"{len(created(done))} runs took over one freed key"

    def test_an_operator_frees_the_key_of_an_ended_run_only(self, store: Store) -> None:
        said = Said(APPLICATION, "again, please")

        def reset() -> bool:
            return store.transact(lambda tx: operate.reset_key(tx, ENVIRONMENT, TASK, "k", said))

        store.trigger(new(idempotency_key="k"))
        with pytest.raises(RunStateInvalid):
            reset()
        (leased,) = store.claim(store.hold())
        store.finish(leased)
        assert reset(), "the key of an ended run within its retention can be freed"
        assert not reset(), "it is free already"
        assert created(store.trigger(new(idempotency_key="k"))), "the key was reset"


@needs(Capability.ENFORCES_SINGLETON)
class SingletonCases(StorageCases):
    """What ``enforces_singleton`` promises."""

    def test_a_singleton_has_one_active_owner(self, store: Store) -> None:
        owner = store.trigger(new(singleton_key="s"))[0].run
        found = store.trigger(new(singleton_key="s"))[0]
        assert (found.outcome, found.run.id) == (TriggerOutcome.REUSED_SINGLETON, owner.id)
        assert created(store.trigger(new(singleton_key="s", task_id="other"))), "another task's key is another key"
        (leased,) = store.claim(store.hold())
        assert not created(store.trigger(new(singleton_key="s"))), "its owner is running"
        store.finish(leased)
        assert created(store.trigger(new(singleton_key="s"))), "its owner has ended"

    def test_of_many_triggers_of_a_singleton_one_creates(self, store: Store) -> None:
        for n in range(4):
            works = [lambda n=n: store.trigger(new(singleton_key=f"s{n}"))[0] for _ in range(4)]
            done = together(works)
            assert len(created(done)) == 1, f"{len(created(done))} of 4 triggers of one singleton made a run"

    @needs(Capability.ENFORCES_IDEMPOTENCY)
    def test_a_singleton_that_loses_gives_its_idempotency_key_back(self, store: Store) -> None:
        store.trigger(new(singleton_key="s"))
        store.trigger(new(singleton_key="s", idempotency_key="k"))
        current = store.read(lambda tx: find_current(tx, ENVIRONMENT, TASK, "k"))
        assert current is None, "a run that was never made owns a key"
