"""Encrypted payloads: nothing plain is stored, what is stored belongs where it is, and what is erased is gone."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from runlane import (
    AesGcm,
    AsyncRunlane,
    CodecContext,
    ConfigurationInvalid,
    Context,
    Fixed,
    PayloadErased,
    PayloadInvalid,
    PayloadUnreadable,
    Queue,
    Retry,
    Runlane,
    RunStatus,
    Schedule,
    Sealed,
    SealedReason,
    SettableClock,
    StorageUnavailable,
    SubjectNotFound,
    Trigger,
    datakeys,
    task,
)
from runlane.datakeys import KEY_TTL, DataKeys
from runlane.events import RunCreated, RunReleased, SubjectErased
from runlane.lanes import Lane
from runlane.payload_codec import Part
from runlane.storage.database import Database
from runlane.testing import running_run, succeeded_run
from runlane.vault import Vault
from runlane.wakeup import Wakeup
from tests.engine.tasks import echo, echo_async, nothing
from tests.support import START, at_once, database_of, execute, named, raw

Make = Callable[..., Runlane]
MASTER, OTHER = bytes(range(32)), bytes(range(1, 33))
CANARY = "a canary in a cage"
MAIN = Queue("main", default=True)
MINUTE = timedelta(minutes=1)
REASON = "asked for it"


@task("mail", subject=lambda payload: payload["to"])
def mail(payload: Any) -> Any:
    return {"sent": payload}


@task("again", retry=Retry(max_attempts=3, backoff=Fixed("1s")))
def again(payload: Any, context: Context) -> Any:
    if context.attempt < 3:
        raise RuntimeError("not yet")
    return payload


@task("wait")
def wait(payload: Any, context: Context) -> Any:
    return context.release("1s", meta={"state": payload}) if context.attempt == 1 else payload


@task("told")
def told(payload: Any, context: Context) -> Any:
    return {"payload": context.run.payload, "same": context.run.payload == payload}


TASKS = [echo, echo_async, nothing, mail, again, wait, told]


@pytest.fixture
def app(lane: Lane) -> Iterator[Runlane]:
    with at(lane) as made:
        yield made


def at(lane: Lane, *keys: bytes, tasks: Any = TASKS, **options: Any) -> Runlane:
    return Runlane(lane, tasks=tasks, payload_codec=AesGcm(*(keys or (MASTER,))), **options)


def stored(app: Runlane) -> str:
    """Everything that the tables hold, as text."""
    tables = ("events", "runs", "schedules", "idempotency_keys", "outbox", "queues", "sessions", "subject_keys")
    database = database_of(app)
    with raw(database) as connection:
        found = [connection.exec_driver_sql(f"select * from {named(database, table)}").all() for table in tables]
    return repr(found)


def data_of(app: Runlane, run_id: UUID, sequence: int = 1) -> dict[str, Any]:
    """The stored data of an event."""
    statement = f"select data from {{events}} where stream_id = '{run_id}' and sequence = {sequence}"
    found = execute(database_of(app), statement)[0][0]
    return json.loads(found) if isinstance(found, str) else found


def rewrite(app: Runlane, run_id: UUID, data: Mapping[str, Any], sequence: int = 1) -> None:
    """Change a stored event, as somebody who owns the database can."""
    database = database_of(app)
    events = named(database, "events")
    with raw(database) as connection:
        if database.schema is None:
            guard = connection.exec_driver_sql(
                "select sql from sqlite_master where name = 'events_refuse_update'"
            ).scalar_one()
            connection.exec_driver_sql("drop trigger events_refuse_update")
        else:
            connection.exec_driver_sql(f"alter table {events} disable trigger events_append_only")
        text = json.dumps(data).replace("'", "''")
        connection.exec_driver_sql(
            f"update {events} set data = '{text}' where stream_id = '{run_id}' and sequence = {sequence}".replace(
                "%", "%%"
            )
        )
        if database.schema is None:
            connection.exec_driver_sql(guard)
        else:
            connection.exec_driver_sql(f"alter table {events} enable always trigger events_append_only")


# ------------------------------------------------------------------ round trips


def test_what_is_stored_says_nothing_and_what_is_read_says_all(app: Runlane) -> None:
    payload = {"name": CANARY, "n": [1, None, 2.5]}
    made = app.trigger(told, payload).run
    assert made.payload == payload
    assert app.execute_next().result == {"payload": payload, "same": True}
    ended = app.runs.get(made.id)
    assert (ended.payload, ended.result["payload"]) == (payload, payload)
    assert app.runs.get(made.id, at_sequence=1).payload == payload
    assert [run.payload for run in app.runs.list().data] == [payload]
    first, *_, last = app.runs.events(made.id)
    assert (first.event.payload, last.event.result) == (payload, ended.result)
    assert CANARY not in stored(app)
    assert set(data_of(app, made.id)["payload"]) == {"$runlane", "key", "v", "nonce", "data"}
    assert app.audit.verify().identical


def test_every_way_to_a_run_encodes(app: Runlane) -> None:
    runs = [
        app.trigger(echo, [CANARY, 1]).run,
        app.trigger(echo, [CANARY, 2], idempotency_key="k").run,
        app.trigger(echo, [CANARY, 3], singleton_key="s").run,
        app.trigger(echo, [CANARY, 4], delay="1h").run,
        *(one.run for one in app.trigger_many(echo, [[CANARY, 5], [CANARY, 6]])),
        *(one.run for one in app.trigger_many([Trigger(echo, [CANARY, 7], priority=3)])),
        app.run_now(echo, [CANARY, 8]).run,
        app.trigger(echo_async, [CANARY, 9]).run,
    ]
    assert app.trigger(echo, [CANARY, 0], idempotency_key="k").run.payload == [CANARY, 2]
    assert app.trigger(echo, [CANARY, 0], singleton_key="s").run.payload == [CANARY, 3]
    assert app.runs.find_active(echo, singleton_key="s").payload == [CANARY, 3]
    assert app.runs.find_current(echo, "k").payload == [CANARY, 2]
    app.worker("drain").run()
    assert [run.payload for run in runs] == [[CANARY, n] for n in range(1, 10)]
    ended = [app.runs.get(run.id) for run in runs if run.id != runs[3].id]
    assert all(run.payload == run.result for run in ended)
    assert app.runs.cancel(runs[3].id).payload == [CANARY, 4]
    assert CANARY not in stored(app)
    assert app.audit.verify().identical


def test_many_runs_go_in_one_statement_with_a_codec_too(app: Runlane) -> None:
    payloads = [{"to": f"{n % 3}@example.org", "text": CANARY} for n in range(600)]
    done = app.trigger_many(mail, payloads)
    assert [one.run.payload for one in done] == payloads
    assert [app.runs.get(done[n].run.id).payload for n in (0, 299, 599)] == [payloads[n] for n in (0, 299, 599)]
    keys = execute(database_of(app), f"select count(*) from {named(database_of(app), 'subject_keys')}")[0][0]
    assert keys == 4
    assert CANARY not in stored(app)


def test_retries_and_releases_keep_what_they_need(lane: Lane, clock: SettableClock) -> None:
    with at(lane, clock=clock) as app:
        failing, waiting = app.trigger(again, CANARY).run, app.trigger(wait, CANARY).run
        for _ in range(3):
            app.worker("drain").run()
            clock.advance(timedelta(seconds=2))
        assert app.runs.get(failing.id).result == CANARY
        assert app.runs.get(waiting.id).result == CANARY
        (release,) = (e.event for e in app.runs.events(waiting.id) if isinstance(e.event, RunReleased))
        assert release.meta == {"state": CANARY}
        assert CANARY not in stored(app)


def test_a_rerun_is_encoded_for_itself_and_about_the_same_subject(app: Runlane) -> None:
    first = app.run_now(echo, CANARY, subject="ann").run
    second = app.runs.rerun(first.id)
    assert second.payload == CANARY
    one, two = (data_of(app, run.id)["payload"] for run in (first, second))
    assert one["key"] == two["key"]
    assert one["data"] != two["data"]
    assert app.execute_next().result == CANARY
    app.audit.erase("ann")
    with pytest.raises(PayloadErased):
        app.runs.rerun(first.id)


def test_schedules_are_encoded_and_change_only_when_they_do(lane: Lane, clock: SettableClock) -> None:
    def scheduled(payload: Any) -> Any:
        return task("timed", schedules=[Schedule("s", every="1m", payload=payload)])(lambda payload: payload)

    with at(lane, clock=clock, tasks=[scheduled([CANARY])]) as app:
        assert app.tick().schedules_changed == 1
        assert app.schedules.get("s").payload == [CANARY]
        assert [state.payload for state in app.schedules.list()] == [[CANARY]]
        assert app.schedules.pause("s").payload == app.schedules.resume("s").payload == [CANARY]
        clock.advance(MINUTE)
        assert app.tick().schedules_fired == 1
        assert app.schedules.trigger("s").run.payload == [CANARY]
        app.worker("drain").run()
        assert [run.result for run in app.runs.list().data] == [[CANARY]] * 2
        assert CANARY not in stored(app)
    with at(lane, clock=clock, tasks=[scheduled([CANARY])]) as app:
        assert app.tick().schedules_changed == 0
    with at(lane, clock=clock, tasks=[scheduled([CANARY, 2])]) as app:
        assert app.tick().schedules_changed == 1
        assert app.schedules.get("s").payload == [CANARY, 2]
        assert app.audit.verify().identical


def test_a_delivery_is_executed(lane: Lane, clock: SettableClock) -> None:
    with at(lane, clock=clock) as app:
        run = app.trigger(echo, CANARY).run
        wakeup = Wakeup("default", run.id, run.queue, START)
        assert app.execute_delivery(wakeup).run.result == CANARY
        assert app.execute_delivery(wakeup).run.payload == CANARY


def test_the_awaitable_face(shared_url: str) -> None:
    async def main() -> None:
        async with AsyncRunlane(shared_url, tasks=TASKS, payload_codec=AesGcm(MASTER)) as app:
            done = await asyncio.gather(*(app.trigger(echo_async, [CANARY, n]) for n in range(20)))
            assert [one.run.payload for one in done] == [[CANARY, n] for n in range(20)]
            made = (await app.trigger(mail, {"to": "ann"})).run
            await app.worker("drain").run()
            assert (await app.runs.get(made.id)).result == {"sent": {"to": "ann"}}
            assert (await app.audit.erase("ann")).keys == 1
            assert str((await app.runs.get(made.id)).payload) == "erased"
            assert await app.audit.rewrap() == 0

    asyncio.run(main())


def test_in_a_callers_transaction_keys_come_and_go_with_it(shared_url: str) -> None:
    with Runlane(shared_url, tasks=TASKS, payload_codec=AesGcm(MASTER)) as app:
        with database_of(app).engine.connect() as connection:
            run = app.trigger(mail, {"to": "ann"}, connection=connection).run
            assert run.payload == {"to": "ann"}
            assert app.trigger(mail, {"to": "ann"}, connection=connection).run.payload == {"to": "ann"}
            connection.rollback()
        kept = app.trigger(mail, {"to": "ann"}).run  # the key that was rolled back is not used again
        with at(Lane(Database(shared_url))) as other:
            assert other.runs.get(kept.id).payload == {"to": "ann"}
        with database_of(app).engine.begin() as connection:
            made = app.trigger(mail, {"to": "bob"}, connection=connection).run
        assert app.runs.get(made.id).payload == {"to": "bob"}


def test_runs_from_before_the_codec_go_on(lane: Lane) -> None:
    with Runlane(lane, tasks=[echo]) as plain:
        run = plain.trigger(echo, "from before").run
    with at(lane) as app:
        assert app.execute_next().result == "from before"
        assert app.runs.rerun(run.id).payload == "from before"
        assert "$runlane" in data_of(app, run.id, 4)["result"]


def test_runs_that_the_test_kit_makes(lane: Lane, clock: SettableClock) -> None:
    with at(lane, clock=clock) as app:
        done = succeeded_run(app, mail, {"to": CANARY}, result=[CANARY])
        again, lost = succeeded_run(app, nothing, result=CANARY), running_run(app, echo, CANARY)
        assert (done.payload, done.result, again.result, lost.payload) == ({"to": CANARY}, [CANARY], CANARY, CANARY)
        assert [app.runs.get(run.id).result for run in (done, again)] == [[CANARY], CANARY]
        assert CANARY not in stored(app)
        app.audit.erase(CANARY)
        assert str(app.runs.get(done.id).result) == "erased"


def test_what_changed_is_told_in_plain(app: Runlane) -> None:
    run = app.run_now(echo, CANARY).run
    assert [change.after for change in app.audit.diff(run.id).changes if change.field == "result"] == [CANARY]
    assert len(app.audit.timeline(run.id)) == 3


# ------------------------------------------------------------------ refusals


def test_a_ciphertext_that_was_moved_is_refused(app: Runlane) -> None:
    """Of two runs of one task, each with the other's payload; and one with the payload of another task."""
    runs = [app.trigger(echo, n).run for n in range(2)] + [app.trigger(nothing).run]
    one, two, three = (data_of(app, run.id) for run in runs)
    rewrite(app, runs[0].id, {**one, "payload": two["payload"]})
    rewrite(app, runs[2].id, {**three, "payload": one["payload"]})
    assert app.runs.get(runs[0].id).payload == Sealed(SealedReason.UNREADABLE)
    app.worker("drain").run()
    for run in (runs[0], runs[2]):
        ended = app.runs.get(run.id)
        assert (ended.status, ended.failure.code, ended.failure.retryable) == ("failed", "payload_unreadable", False)
        with pytest.raises(PayloadUnreadable, match="was not encrypted for"):
            app.runs.rerun(run.id)
    assert app.runs.get(runs[1].id).status == "succeeded"
    assert not app.audit.verify().identical


@pytest.mark.parametrize("field", ["nonce", "data", "v", "key"])
def test_a_ciphertext_that_was_changed_is_refused(app: Runlane, field: str) -> None:
    run = app.trigger(echo, "x").run
    data = data_of(app, run.id)
    broken = {"nonce": "AAAAAAAAAAAAAAAA", "data": "%&", "v": 2, "key": "no id"}[field]
    rewrite(app, run.id, {**data, "payload": {**data["payload"], field: broken}})
    assert app.execute_next().failure.code == "payload_unreadable"


def test_without_a_codec_one_may_look_but_not_work(lane: Lane) -> None:
    with at(lane) as app:
        run = app.trigger(echo, CANARY).run
    with Runlane(lane, tasks=[echo]) as plain:
        assert str(plain.runs.get(run.id).payload) == "sealed (its key is not here)"
        assert plain.audit.verify().identical
        for call in workings(plain, run.id):
            with pytest.raises(ConfigurationInvalid, match="encrypted payloads: pass Runlane"):
                call()
        assert plain.runs.get(run.id).attempt_count == 0


def workings(app: Runlane, run_id: UUID) -> list[Callable[[], object]]:
    """Everything for which a process has to write payloads or results."""

    def joined() -> None:
        with database_of(app).engine.begin() as connection:
            app.trigger(echo, 1, connection=connection)

    return [
        joined,
        lambda: app.trigger(echo, 1),
        lambda: app.trigger(echo, 1, singleton_key="s"),
        lambda: app.trigger_many(echo, [1] * 300),
        lambda: app.run_now(echo, 1),
        app.execute_next,
        app.worker,
        app.tick,
        lambda: app.runs.rerun(run_id),
    ]


@pytest.mark.parametrize("number", range(10))
def test_who_began_before_the_first_key_was_made_looks_again(
    lane: Lane, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datakeys, "_LOOK", 0.0)
    with Runlane(lane, tasks=[echo]) as plain:
        worker, run = plain.worker("drain"), plain.trigger(echo, 1).run
        with at(lane) as app:
            app.trigger(echo, CANARY)
        calls = [worker.run, *workings(plain, run.id)]
        with pytest.raises(ConfigurationInvalid, match="encrypted payloads: pass Runlane"):
            calls[number]()
        assert plain.runs.get(run.id).attempt_count == 0
        assert len(plain.runs.list().data) == 2


def test_an_event_loop_does_not_wait_for_that_look(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datakeys, "_LOOK", 0.0)

    async def trigger() -> None:
        async with AsyncRunlane(lane, tasks=[echo]) as plain:
            await plain.trigger(echo, 1)
            with at(lane) as app:
                app.trigger(echo, CANARY)
            here, looked = threading.get_ident(), []
            looks = DataKeys.look_again
            monkeypatch.setattr(
                DataKeys, "look_again", lambda keys, tx=None: (looked.append(threading.get_ident()), looks(keys, tx))
            )
            with pytest.raises(ConfigurationInvalid, match="encrypted payloads: pass Runlane"):
                await plain.trigger(echo, 1)
            assert looked
            assert here not in looked

    asyncio.run(trigger())


def test_another_master_key_is_refused_at_the_start(lane: Lane) -> None:
    with at(lane) as app:
        app.trigger(echo, CANARY)
    with pytest.raises(ConfigurationInvalid, match="wrapped by master key"):
        at(lane, OTHER).start()
    with at(lane, OTHER, MASTER) as app:
        assert app.execute_next().result == CANARY


def test_a_key_that_is_not_here_burns_no_attempt(lane: Lane, clock: SettableClock) -> None:
    """A newer process wraps by a master key that this one has not got yet: its runs wait for who has."""
    newer, older = at(lane, OTHER, MASTER, clock=clock), at(lane, clock=clock)
    with older, newer:
        older.trigger(echo, 1)
        run = newer.trigger(echo, CANARY, subject="ann").run
        older.worker("drain").run()
        waiting = older.runs.get(run.id)
        assert (waiting.status, waiting.failure_count, waiting.release_count) == (RunStatus.RELEASED, 0, 1)
        assert waiting.payload == Sealed(SealedReason.NO_KEY)
        (release,) = (e.event for e in older.runs.events(run.id) if isinstance(e.event, RunReleased))
        assert release.reason.startswith("payload_unreadable: the data key is wrapped by master key")
        clock.advance(MINUTE)
        newer.worker("drain").run()
        assert newer.runs.get(run.id).result == CANARY


@task("marked")
def marked() -> Any:
    return {"$runlane": 1}


def test_nothing_of_an_application_looks_like_an_envelope(app: Runlane) -> None:
    with pytest.raises(PayloadInvalid, match="reserved"):
        app.trigger(echo, {"$runlane": "aes-gcm"})
    with Runlane("memory:", tasks=[marked]) as plain:
        assert plain.run_now(marked).run.failure.message.startswith("result has the key '$runlane'")


def test_a_subject_needs_keys() -> None:
    with Runlane("memory:", tasks=[echo]) as plain:
        with pytest.raises(ConfigurationInvalid, match="a subject needs a payload codec"):
            plain.trigger(echo, 1, subject="ann")
    with pytest.raises(ConfigurationInvalid, match="task mail has a subject"):
        Runlane("memory:", tasks=[mail])


# ------------------------------------------------------------------ erasure


def test_what_is_erased_is_gone_and_the_log_stays_valid(app: Runlane) -> None:
    ended = app.run_now(mail, {"to": "ann", "text": CANARY}).run
    waiting = app.trigger(mail, {"to": "ann"}).run
    other = app.trigger(mail, {"to": "bob"}).run
    done = app.audit.erase("ann", reason=REASON)
    assert done.keys == 1
    assert app.audit.erase("ann") == type(done)(done.fingerprint, 0, done.erased_at)
    for run in (ended, waiting):
        assert app.runs.get(run.id).payload == Sealed(SealedReason.ERASED)
    assert str(app.runs.get(ended.id).result) == "erased"
    created = app.runs.events(ended.id)[0].event
    assert isinstance(created, RunCreated)
    assert created.payload == Sealed(SealedReason.ERASED)
    app.worker("drain").run()
    failed = app.runs.get(waiting.id)
    assert (failed.status, failed.failure.code, failed.failure.retryable) == ("failed", "payload_erased", False)
    assert app.runs.get(other.id).result == {"sent": {"to": "bob"}}
    assert app.audit.verify().identical
    told = [record for batch in app.follow(types=[SubjectErased], poll=None) for record in batch]
    assert [record.event for record in told] == [SubjectErased(done.fingerprint, 1, REASON)]
    assert "ann" not in done.fingerprint
    assert "ann" not in stored(app).replace("Runlane", "")


def test_a_subject_can_come_back_under_a_new_key(app: Runlane) -> None:
    old = app.trigger(mail, {"to": "ann"}).run
    app.audit.erase("ann")
    new = app.trigger(mail, {"to": "ann"}).run
    assert app.runs.get(new.id).payload == {"to": "ann"}
    assert str(app.runs.get(old.id).payload) == "erased"
    assert app.audit.erase("ann").keys == 1
    assert str(app.runs.get(new.id).payload) == "erased"


def test_a_subject_that_nobody_knows(app: Runlane, lane: Lane) -> None:
    for subject in ("ann", "bob"):
        with pytest.raises(SubjectNotFound):
            app.audit.erase(subject)
        app.trigger(mail, {"to": "somebody"})
    with pytest.raises(ConfigurationInvalid, match="subject"):
        app.audit.erase("a:b")
    with Runlane("memory:") as plain, pytest.raises(ConfigurationInvalid, match="needs a payload codec with keys"):
        plain.audit.erase("ann")


def test_an_attempt_under_way_ends_although_its_subject_is_erased(app: Runlane, lane: Lane) -> None:
    @task("erases")
    def erases(payload: Any) -> Any:
        app_inside.audit.erase("ann")
        return payload

    with at(lane, tasks=[erases]) as app_inside:
        run = app_inside.run_now(erases, CANARY, subject="ann").run
        assert (run.status, str(run.result)) == ("succeeded", "erased")
    assert CANARY not in stored(app)


def test_another_process_knows_a_key_for_a_minute_at_most(lane: Lane) -> None:
    now = 0.0
    with at(lane) as app:
        run = app.trigger(mail, {"to": "ann"}).run
        elsewhere = Vault(lane.database, "default", AesGcm(MASTER), timer=lambda: now)
        Vault._all.discard(elsewhere)
        sealed = data_of(app, run.id)["payload"]
        context = elsewhere.about(run, Part.PAYLOAD)
        assert elsewhere.open(sealed, context) == {"to": "ann"}
        app.audit.erase("ann")
        now = KEY_TTL - 1
        assert elsewhere.open(sealed, context) == {"to": "ann"}
        now = KEY_TTL + 1
        with pytest.raises(PayloadErased):
            elsewhere.open(sealed, context)


def test_what_a_process_remembers_is_bounded_and_passes() -> None:
    kept: dict[int, tuple[float, str]] = {}
    for n in range(datakeys._MOST_KEYS + 500):
        datakeys._remember(kept, {n: "key"}, 0.0)
    assert len(kept) == datakeys._MOST_KEYS
    assert 499 not in kept
    for n in range(datakeys._MOST_KEYS // 10):
        datakeys._remember(kept, {-n: "key"}, KEY_TTL)
    assert set(kept) == {-n for n in range(datakeys._MOST_KEYS // 10)}


def test_many_at_once_make_one_key(lane: Lane) -> None:
    apps = [at(lane).start() for _ in range(4)]
    runs = at_once([lambda app=app: app.trigger(mail, {"to": "ann"}).run for app in apps])
    for app in apps:
        assert [app.runs.get(run.id).payload for run in runs] == [{"to": "ann"}] * 4
    assert len({data_of(apps[0], run.id)["payload"]["key"] for run in runs}) == 1
    for app in apps:
        app._inline.close()


def test_master_keys_are_rotated(lane: Lane) -> None:
    with at(lane) as app:
        runs = [app.trigger(mail, {"to": f"{n}"}).run for n in range(3)]
        app.audit.erase("0")
    with at(lane, OTHER, MASTER) as app:
        assert app.audit.rewrap() == 3
        assert app.audit.rewrap() == 0
    with at(lane, OTHER) as app:
        assert [app.runs.get(run.id).payload for run in runs[1:]] == [{"to": "1"}, {"to": "2"}]
        assert str(app.runs.get(runs[0].id).payload) == "erased"
        assert app.audit.erase("1").keys == 1


def test_a_schedule_about_somebody_who_was_erased_waits_for_its_next_deployment(
    lane: Lane, clock: SettableClock
) -> None:
    def timed(id: str, name: str) -> Any:
        return task(id, subject=name, schedules=[Schedule(id, every="1m", payload=name)])(lambda payload: payload)

    tasks = [timed("first", "ann"), timed("second", "bob")]
    with at(lane, clock=clock, tasks=tasks) as app:
        app.tick()
        app.audit.erase("ann")
        assert [str(state.payload) for state in app.schedules.list()] == ["erased", "bob"]
        clock.advance(MINUTE)
        report = app.tick()
        assert (report.schedules_fired, len(report.errors)) == (1, 1)
        assert "subject was erased" in report.errors[0]
    with at(lane, clock=clock, tasks=tasks) as app:
        report = app.tick()
        assert (report.schedules_changed, report.schedules_fired) == (1, 1)
        assert [run.payload for run in app.runs.list().data] == ["ann", "bob"]


def test_a_subject_that_cannot_be_said_later_spoils_no_tick(lane: Lane, clock: SettableClock) -> None:
    broken: list[str] = []

    def subject(payload: Any) -> str:
        if broken:
            raise KeyError("user")
        return "ann"

    bad = task("bad", subject=subject, schedules=[Schedule("bad", every="1m", payload="x")])(lambda payload: payload)
    good = task("good", schedules=[Schedule("good", every="1m", payload="y")])(lambda payload: payload)
    with at(lane, clock=clock, tasks=[bad, good]) as app:
        broken.append("from now on")
        assert app.tick().schedules_changed == 2
        clock.advance(MINUTE)
        report = app.tick()
        assert (report.schedules_fired, len(report.errors)) == (1, 1)
        assert app.execute_next().task_id == "good"


# ------------------------------------------------------------------ other codecs


class Reversing:
    """A codec of somebody's own, without keys."""

    name = "reversing"

    def encode(self, plain: bytes, context: CodecContext) -> Mapping[str, Any]:
        return {"text": plain.decode()[::-1], "of": str(context.run_id)}

    def decode(self, stored: Mapping[str, Any], context: CodecContext) -> bytes:
        if stored["of"] != str(context.run_id):
            raise ValueError("a text that should not be told")
        return str(stored["text"])[::-1].encode()


def test_a_codec_of_ones_own(lane: Lane) -> None:
    with Runlane(lane, tasks=[echo], payload_codec=Reversing()) as app:
        runs = [app.trigger(echo, [CANARY, n]).run for n in range(2)]
        assert data_of(app, runs[0].id)["payload"] == {
            "$runlane": "reversing",
            "text": f'["{CANARY}",0]'[::-1],
            "of": str(runs[0].id),
        }
        rewrite(app, runs[1].id, data_of(app, runs[0].id))
        app.worker("drain").run()
        assert app.runs.get(runs[0].id).result == [CANARY, 0]
        failure = app.runs.get(runs[1].id).failure
        assert (failure.code, failure.message) == (
            "payload_unreadable",
            "reversing cannot decode the payload: ValueError",
        )
        with pytest.raises(ConfigurationInvalid, match="codec with keys"):
            app.trigger(echo, 1, subject="ann")
    with at(lane) as app:
        assert app.runs.get(runs[0].id).payload == Sealed(SealedReason.NO_KEY)


class Clumsy(Reversing):
    """Fails, and says too much."""

    name = "clumsy"

    def encode(self, plain: bytes, context: CodecContext) -> Mapping[str, Any]:
        raise ValueError(plain.decode())


def test_what_a_codec_says_when_it_fails_is_not_told() -> None:
    with Runlane("memory:", tasks=[echo, nothing], payload_codec=Clumsy()) as app:
        with pytest.raises(ConfigurationInvalid, match=r"^clumsy cannot encode the payload: ValueError$") as refused:
            app.trigger(echo, CANARY)
    assert refused.value.__cause__ is None


def test_a_commit_counts_although_the_keys_cannot_be_read_afterwards(sqlite_url: str) -> None:
    with Runlane(sqlite_url, tasks=TASKS, payload_codec=AesGcm(MASTER)) as app:
        first = app.run_now(mail, {"to": "ann"}).run
    with Runlane(sqlite_url, tasks=TASKS, payload_codec=AesGcm(MASTER)) as app:
        engine, commits = database_of(app).engine, []
        event.listen(engine, "commit", commits.append)

        @event.listens_for(engine, "before_cursor_execute")
        def strike(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if commits and "subject_keys" in statement:
                raise OperationalError(statement, {}, sqlite3.OperationalError("disk I/O error"))

        again = app.runs.rerun(first.id)
        assert commits
        assert again.payload == Sealed(SealedReason.NO_KEY)
        with pytest.raises(StorageUnavailable):
            app.runs.get(first.id)
        event.remove(engine, "before_cursor_execute", strike)
        assert app.runs.get(again.id).payload == {"to": "ann"}
        assert len(app.runs.list(source_run_id=first.id).data) == 1


@pytest.mark.parametrize("codec", [AesGcm, object(), "aes", type("C", (), {"name": "", "encode": 1, "decode": 1})()])
def test_what_is_no_codec_is_refused(codec: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="payload_codec"):
        Runlane("memory:", payload_codec=codec)
