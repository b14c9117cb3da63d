"""Proofs that a run is among what a checkpoint sealed: they hold without a database, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from attrs import evolve

from runlane import (
    AsyncRunlane,
    ConfigurationInvalid,
    InvariantViolation,
    Runlane,
    RunNotFound,
    RunStateInvalid,
    SettableClock,
    proofs,
)
from runlane.proofs import Proof
from runlane.sealing import check_proof
from tests.engine.tasks import echo
from tests.keys import make_keys
from tests.storage.forging import rewrite, unguard
from tests.support import database_of, execute

DAY = timedelta(days=1)


@pytest.fixture
def app(lane_url: str, clock: SettableClock) -> Iterator[Runlane]:
    with Runlane(lane_url, tasks=[echo], clock=clock) as made:
        yield made


def ended(app: Runlane, number: int = 1) -> list[UUID]:
    return [app.run_now(echo, n).run.id for n in range(number)]


def checked(proof: Proof, folder: Path, **evidence: Any) -> proofs.Checked:
    """The verdict on a proof that goes through a file."""
    file = folder / f"{uuid4()}.json"
    file.write_bytes(proof.dumps())
    assert proofs.read(file) == proof
    return check_proof(file, **evidence)


@pytest.mark.parametrize("others", [0, 1, 2, 4, 7, 70])
def test_every_run_of_a_checkpoint_can_be_proved(lane_url: str, clock: SettableClock, others: int) -> None:
    with Runlane(lane_url, tasks=[echo], clock=clock) as app:
        runs = [result.run.id for result in app.trigger_many(echo, range(others + 1))]
        app.execute_next()
        sealed = app.audit.checkpoint().checkpoint
        for run in runs[:: max(1, len(runs) // 7)]:
            proof = app.audit.prove(run)
            assert proof.checkpoint == sealed
            assert [event.sequence for event in proof.events] == list(range(1, app.runs.get(run).sequence + 1))
            assert proofs.check(proof, {}, ()).holds
            assert len(proof.path) <= others.bit_length()


def test_what_is_proved_are_the_facts_of_the_events(app: Runlane, tmp_path: Path) -> None:
    _, run, _ = ended(app, 3)
    app.audit.checkpoint()
    proof = app.audit.prove(run)
    assert [event.type for event in proof.events] == ["run.created", "run.leased", "run.succeeded"]
    assert orjson.loads(proof.events[0].data)["payload"] == 1
    assert (proof.stream_id, proof.before) == (str(run), "")
    found = checked(proof, tmp_path)
    assert (found.holds, found.signed, found.kept) == (True, None, None)
    two = app.audit.prove(run, 2)
    assert [event.sequence for event in two.events] == [2, 3]
    assert len(two.before) == 64
    assert checked(two, tmp_path).holds


def test_an_event_is_proved_by_the_checkpoint_that_sealed_it(app: Runlane, tmp_path: Path) -> None:
    run = app.trigger(echo, 1).run.id
    app.audit.checkpoint()
    app.execute_next()
    app.audit.checkpoint()
    app.trigger(echo, 2)
    assert app.audit.prove(run, 1).checkpoint.number == 1
    assert [event.sequence for event in app.audit.prove(run, 1).events] == [1, 2]
    assert app.audit.prove(run, 3).checkpoint.number == 2
    whole = app.audit.prove(run)
    assert (whole.checkpoint.number, len(whole.events)) == (2, 4)
    assert all(checked(proof, tmp_path).holds for proof in (whole, *(app.audit.prove(run, n) for n in (1, 2, 3, 4))))


def test_what_no_checkpoint_has_sealed_cannot_be_proved(app: Runlane) -> None:
    run = app.trigger(echo, 1).run.id
    with pytest.raises(RunStateInvalid, match=f"no checkpoint has sealed run {run} yet; make one"):
        app.audit.prove(run)
    app.audit.checkpoint()
    app.execute_next()
    assert len(app.audit.prove(run).events) == 2, "as far as it was sealed"
    with pytest.raises(RunStateInvalid, match=f"no checkpoint has sealed event 3 of run {run} yet"):
        app.audit.prove(run, 3)
    with pytest.raises(ConfigurationInvalid, match=f"sequence is 9, but run {run} has the events 1 to 4"):
        app.audit.prove(run, 9)
    with pytest.raises(ConfigurationInvalid, match="sequence must be"):
        app.audit.prove(run, 0)
    with pytest.raises(RunNotFound):
        app.audit.prove(uuid4())


def test_runs_that_were_pruned_beside_it_take_nothing_away(app: Runlane, clock: SettableClock, tmp_path: Path) -> None:
    ended(app, 3)
    clock.advance(DAY)
    (run,) = ended(app)
    app.audit.checkpoint()
    before = app.audit.prove(run)
    assert app.runs.prune("1h").runs == 3
    app.audit.checkpoint()
    assert app.audit.prove(run) == before
    assert checked(before, tmp_path).holds


def test_a_proof_is_worth_what_is_known_of_its_checkpoint(app: Runlane, tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    _, other = make_keys(tmp_path, "other")
    run, _ = ended(app, 2)
    sealed = app.audit.checkpoint(private).checkpoint
    assert sealed is not None
    file, changed = tmp_path / "1.json", tmp_path / "2.json"
    file.write_bytes(sealed.dumps())
    changed.write_bytes(evolve(sealed, root="00" * 32).dumps())
    proof = app.audit.prove(run)
    found = checked(proof, tmp_path, key=public, checkpoints=[changed, file])
    assert (found.holds, found.signed, found.kept) == (True, True, True)
    found = checked(proof, tmp_path, key=other, checkpoints=[changed])
    assert (found.holds, found.signed, found.kept) == (False, False, False)
    assert len(found.problems) == 2
    elsewhere = evolve(proof, checkpoint=evolve(sealed, from_position=proof.position))
    assert checked(elsewhere, tmp_path).problems == (
        f"position {proof.position} is not in the stretch that checkpoint 1 sealed",
    )
    behind = checked(evolve(proof, before="ab" * 32), tmp_path).problems
    assert behind == ("the digest before its events is missing, or there can be none",)
    forged = evolve(proof, checkpoint=evolve(sealed, leaves=sealed.leaves, number=7))
    assert checked(forged, tmp_path).holds, "the number is not in the tree"
    assert not checked(forged, tmp_path, key=public).holds, "but it is signed"


def every_change(value: Any) -> Iterator[Any]:
    """The same JSON with one value changed, in every place."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from ({**value, name: other} for other in every_change(inner))
            yield {key: kept for key, kept in value.items() if key != name}
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in every_change(inner))
            yield [*value[:place], *value[place + 1 :]]
    elif isinstance(value, int):
        yield from (value + 1, value - 1, str(value))
    elif isinstance(value, str):
        yield from (value + "0", value[1:], "1" + value[1:] if value[:1] != "1" else "2" + value[1:])
    else:
        yield "x"


def test_nothing_else_is_proved(app: Runlane, tmp_path: Path) -> None:
    """Every value of a proof changed on its own: either it is no proof any more, or one that does not hold."""
    runs = ended(app, 5)
    sealed = app.audit.checkpoint().checkpoint
    assert sealed is not None
    kept, file = tmp_path / "kept.json", tmp_path / "proof.json"
    kept.write_bytes(sealed.dumps())
    whole = orjson.loads(app.audit.prove(runs[3], 2).dumps())
    tried = 0
    for values in every_change(whole):
        if values == whole:
            continue
        file.write_bytes(orjson.dumps(values))
        tried += 1
        with suppress(ConfigurationInvalid):
            assert not check_proof(file, checkpoints=[kept]).holds, values
    assert tried > 60


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"proof_version":1}', b'{"proof_version":1,"events":3}'])
def test_what_is_no_proof_is_refused(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "proof.json"
    file.write_bytes(text)
    with pytest.raises(ConfigurationInvalid, match="is no proof"):
        check_proof(file)
    with pytest.raises(ConfigurationInvalid, match="cannot be read"):
        check_proof(tmp_path / "missing.json")
    file.write_bytes(b'{"proof_version":2}')
    with pytest.raises(ConfigurationInvalid, match="has version 2, and this Runlane reads 1"):
        check_proof(file)


def test_of_a_log_that_was_changed_nothing_is_proved(shared_url: str, clock: SettableClock) -> None:
    with Runlane(shared_url, tasks=[echo], clock=clock) as app:
        run, other, gone = ended(app, 3)
        app.audit.checkpoint()
        unguard(app)
        rewrite(app, run, lambda events: setattr(events[0], "actor", "operator:eve"))
        with pytest.raises(InvariantViolation, match="no longer what checkpoint 1 sealed: the events lead to the root"):
            app.audit.prove(other)
        execute(database_of(app), f"delete from {{events}} where stream_id = '{gone}'")
        with pytest.raises(InvariantViolation, match="it has 2 streams there, not 3; see `runlane audit verify`"):
            app.audit.prove(other)


def test_the_async_face(lane_url: str, clock: SettableClock) -> None:
    async def main() -> None:
        async with AsyncRunlane(lane_url, tasks=[echo], clock=clock) as app:
            run = (await app.run_now(echo, 1)).run
            await app.audit.checkpoint()
            assert proofs.check(await app.audit.prove(run.id), {}, ()).holds

    asyncio.run(main())
