"""Codecs that fail: of a service that does not answer the runs wait, nothing is half written, and nothing is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest

from runlane import (
    AesGcm,
    CodecContext,
    ConfigurationInvalid,
    Context,
    Fixed,
    PayloadErased,
    PayloadInvalid,
    Retry,
    Runlane,
    RunlaneError,
    RunStatus,
    Schedule,
    Sealed,
    SealedReason,
    SettableClock,
    StorageUnavailable,
    jsontext,
    task,
)
from runlane.events import RunReleased
from runlane.lanes import Lane
from runlane.payload_codec import KeyUnavailable, Wrapped
from tests.engine.tasks import echo
from tests.support import count, database_of, eventually, execute, named

MASTER, OTHER = bytes(range(32)), bytes(range(1, 33))
MINUTE = timedelta(minutes=1)
SECRET = "arn of a key"
AWAY = [ConnectionError(SECRET), StorageUnavailable(SECRET)]
NO_KEY = Sealed(SealedReason.NO_KEY)


class Service:
    """Encrypts as ``AesGcm``; a service wraps its data keys, which fails of the rows of which `away` says so."""

    name = "service"

    def __init__(self, *keys: bytes) -> None:
        self._inner = AesGcm(*(keys or (MASTER,)))
        self.master = self._inner.master
        self.error: Exception | None = None
        self.away: Callable[[str], bool] = lambda subject: True

    def encode(self, plain: bytes, context: CodecContext) -> Mapping[str, Any]:
        return self._inner.encode(plain, context)

    def decode(self, stored: Mapping[str, Any], context: CodecContext) -> bytes:
        return self._inner.decode(stored, context)

    def wrap(self, secret: bytes, row: bytes) -> Wrapped:
        self._ask(row)
        return self._inner.wrap(secret, row)

    def unwrap(self, wrapped: Wrapped, row: bytes) -> bytes:
        self._ask(row)
        return self._inner.unwrap(wrapped, row)

    def _ask(self, row: bytes) -> None:
        if self.error is not None and self.away(json.loads(row)[3]):
            raise self.error


@task("mail", subject=lambda payload: payload["to"])
def mail(payload: Any) -> Any:
    return payload


def at(lane: Lane, codec: Any, *tasks: Any, **options: Any) -> Runlane:
    return Runlane(lane, tasks=tasks or (echo, mail), payload_codec=codec, **options).start()


def stored(app: Runlane) -> tuple[int, int]:
    database = database_of(app)
    keys = execute(database, f"select count(*) from {named(database, 'subject_keys')}")
    return count(database, "events"), int(keys[0][0])


# ------------------------------------------------------------------ keys that cannot be had


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_a_worker_goes_on_when_a_key_service_does_not_answer(
    lane: Lane, clock: SettableClock, error: Exception
) -> None:
    codec = Service()
    with at(lane, Service(), clock=clock) as other, at(lane, codec, clock=clock) as app:
        run = other.trigger(mail, {"to": "ann"}).run
        codec.error = error
        worker = app.worker(poll_interval=0.05, maintenance=False)
        worker.start()
        eventually(lambda: app.runs.get(run.id).status is RunStatus.RELEASED)
        waiting = app.runs.get(run.id)
        assert (waiting.failure_count, waiting.release_count, waiting.payload) == (0, 1, NO_KEY)
        assert waiting.due_at == run.created_at + MINUTE
        (release,) = (one.event for one in app.runs.events(run.id) if isinstance(one.event, RunReleased))
        reason = f"service cannot unwrap the data key: {type(error).__name__}"
        assert release.reason == f"payload_unreadable: {reason}"
        codec.error = None
        assert app.runs.get(run.id).payload == {"to": "ann"}, "that it was away is not remembered"
        clock.advance(MINUTE)
        eventually(lambda: app.runs.get(run.id).status is RunStatus.SUCCEEDED)
        worker.stop()
        assert app.runs.get(run.id).result == {"to": "ann"}


def test_a_worker_goes_on_when_the_key_of_the_environment_cannot_be_made(lane: Lane, clock: SettableClock) -> None:
    with Runlane(lane, tasks=[echo], clock=clock) as plain:
        run = plain.trigger(echo, "from before the codec").run
    codec = Service()
    with at(lane, codec, clock=clock) as app:
        codec.error = ConnectionError(SECRET)
        app.worker("drain").run()
        (release,) = (one.event for one in app.runs.events(run.id) if isinstance(one.event, RunReleased))
        assert release.reason.endswith(": service cannot wrap a data key: ConnectionError")
        codec.error = None
        clock.advance(MINUTE)
        app.worker("drain").run()
        assert app.runs.get(run.id).result == "from before the codec"


@pytest.mark.parametrize("error", AWAY, ids=repr)
@pytest.mark.parametrize("known", [False, True], ids=["wrap", "unwrap"])
@pytest.mark.parametrize("joined", [False, True], ids=["alone", "in a transaction"])
def test_a_trigger_without_its_key_writes_nothing(shared_url: str, error: Exception, known: bool, joined: bool) -> None:
    codec = Service()
    with Runlane(shared_url, tasks=[mail], payload_codec=Service()) as other:
        other.trigger(mail, {"to": "ann"})
        with Runlane(shared_url, tasks=[mail], payload_codec=codec).start() as app:
            before = stored(other)
            payload = {"to": "ann" if known else "bob"}
            codec.error, codec.away = error, bool  # the key of the environment can be had
            what = "unwrap the data key" if known else "wrap a data key"

            def trigger() -> None:
                with database_of(app).engine.begin() if joined else nullcontext() as connection:
                    app.trigger(mail, payload, connection=connection)

            with pytest.raises(KeyUnavailable, match=f"^service cannot {what}: {type(error).__name__}$") as refused:
                trigger()
            assert refused.value.retryable
            assert refused.value.__suppress_context__
            assert stored(other) == before
            codec.error = None
            assert app.trigger(mail, payload).run.payload == payload


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_what_needs_a_key_that_cannot_be_had_says_so(lane: Lane, error: Exception) -> None:
    codec = Service(OTHER, MASTER)
    with at(lane, Service()) as other, at(lane, codec) as app:
        run = other.run_now(mail, {"to": "ann"}).run
        codec.error = error
        assert app.runs.get(run.id).payload == NO_KEY
        assert [one.result for one in app.runs.list().data] == [NO_KEY]
        assert app.runs.events(run.id)[0].event.payload == NO_KEY
        calls: list[Callable[[], object]] = [
            lambda: app.runs.rerun(run.id),
            lambda: app.audit.erase("ann"),
            app.audit.rewrap,
            lambda: at(lane, codec),
        ]
        before = stored(other)
        for call in calls:
            with pytest.raises(KeyUnavailable, match=r"^service cannot unwrap the data key: ") as refused:
                call()
            assert refused.value.retryable
            assert SECRET not in str(refused.value)
        assert stored(other) == before


def timed(id: str, subject: str | None, every: str = "1m") -> Any:
    """A task of one schedule."""
    return task(id, subject=subject, schedules=[Schedule(id, every=every, payload=id)])(lambda payload: payload)


def test_schedules_that_cannot_be_recorded_for_now_hold_up_none_that_are(lane: Lane, clock: SettableClock) -> None:
    with at(lane, Service(), timed("first", "ann"), timed("second", None), clock=clock) as before:
        assert before.tick().schedules_changed == 2
    codec = Service()
    with at(lane, codec, timed("first", "bob", "2m"), timed("second", None), clock=clock) as app:
        clock.advance(MINUTE)
        codec.error, codec.away = StorageUnavailable(SECRET), bool
        report = app.tick()
        assert (report.schedules_changed, report.schedules_fired) == (0, 1)
        assert any(one.startswith("recording the schedules: service cannot") for one in report.errors)
        codec.error = None
        report = app.tick()
        assert report.schedules_changed == 1
        assert report.errors == ()
        assert app.tick().schedules_changed == 0


def test_a_schedule_without_its_key_holds_up_no_other(lane: Lane, clock: SettableClock) -> None:
    codec = Service()
    with at(lane, codec, timed("first", "ann"), timed("second", None), clock=clock) as app:
        assert app.tick().schedules_changed == 2
        clock.advance(MINUTE)
        codec.error, codec.away = StorageUnavailable(SECRET), bool
        report = app.tick()
        assert report.schedules_fired == 1
        assert [SECRET in one for one in report.errors] == [False]
        codec.error = None
        assert app.tick().schedules_fired == 1


@pytest.mark.parametrize("error", [PayloadErased("gone"), KeyUnavailable("not here"), RunlaneError(SECRET)], ids=repr)
def test_what_a_codec_says_of_a_key_is_what_becomes_of_its_runs(
    lane: Lane, clock: SettableClock, error: RunlaneError
) -> None:
    codec = Service()
    with at(lane, Service(), clock=clock) as other, at(lane, codec, clock=clock) as app:
        run = other.trigger(mail, {"to": "ann"}).run
        codec.error = error
        app.worker("drain").run()
        ended = other.runs.get(run.id)
        if isinstance(error, KeyUnavailable):
            assert ended.status is RunStatus.RELEASED
            return
        texts = {PayloadErased: ("payload_erased", "gone")}
        unreadable = ("payload_unreadable", "service cannot unwrap the data key: RunlaneError")
        assert (ended.failure.code, ended.failure.message) == texts.get(type(error), unreadable)
        if type(error) is RunlaneError:
            with pytest.raises(ConfigurationInvalid, match="does not fit"):
                at(lane, codec)


class Nonsense(Service):
    """Its service answers with what is no key."""

    def unwrap(self, wrapped: Wrapped, row: bytes) -> Any:
        return None


def test_an_answer_that_is_no_key_is_none(lane: Lane, clock: SettableClock) -> None:
    with at(lane, Service(), clock=clock) as other, at(lane, Nonsense(), echo, mail, clock=clock) as app:
        run = other.trigger(mail, {"to": "ann"}).run
        app.worker("drain").run()
        assert other.runs.get(run.id).status is RunStatus.RELEASED
        with pytest.raises(KeyUnavailable, match="TypeError"):
            app.trigger(mail, {"to": "ann"})


# ------------------------------------------------------------------ values that cannot be encoded or decoded


class Failing:
    """A codec without keys that raises what it is told to, for one part."""

    name = "failing"

    def __init__(self) -> None:
        self.decoding: dict[str, Exception] = {}
        self.encoding: dict[str, Exception] = {}

    def encode(self, plain: bytes, context: CodecContext) -> Mapping[str, Any]:
        if context.part in self.encoding:
            raise self.encoding[context.part]
        return {"text": plain.decode()}

    def decode(self, stored: Mapping[str, Any], context: CodecContext) -> bytes:
        if context.part in self.decoding:
            raise self.decoding[context.part]
        return str(stored["text"]).encode()


FINAL = [ConfigurationInvalid(SECRET), RunlaneError(SECRET), ValueError(SECRET)]


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_a_codecs_error_while_it_decodes_is_told_by_its_class(lane: Lane, error: Exception) -> None:
    codec = Failing()
    with at(lane, codec, echo) as app:
        run, good = app.trigger(echo, 1).run, app.run_now(echo, 2).run
        codec.decoding["payload"] = error
        assert app.execute_next().id == run.id
        assert {str(one.payload) for one in app.runs.list().data} == {"sealed (unreadable)"}
        assert app.runs.get(good.id).result == 2
        failure = app.runs.get(run.id).failure
        assert (failure.code, failure.retryable) == ("payload_unreadable", False)
        assert failure.message == f"failing cannot decode the payload: {type(error).__name__}"


def test_a_value_that_cannot_be_decoded_for_now_waits(lane: Lane, clock: SettableClock) -> None:
    codec = Failing()
    with at(lane, codec, echo, clock=clock) as app:
        run = app.trigger(echo, 1).run
        codec.decoding["payload"] = StorageUnavailable(SECRET)
        app.worker("drain").run()
        assert [one.payload for one in app.runs.list().data] == [NO_KEY]
        waiting = app.runs.get(run.id)
        assert (waiting.status, waiting.failure_count, waiting.release_count) == (RunStatus.RELEASED, 0, 1)
        assert SECRET not in repr(app.runs.events(run.id))
        codec.decoding.clear()
        clock.advance(MINUTE)
        app.worker("drain").run()
        assert app.runs.get(run.id).result == 1


@pytest.mark.parametrize("error", [*FINAL, StorageUnavailable(SECRET), PayloadErased("gone")], ids=repr)
def test_a_codecs_error_while_it_encodes_refuses_a_trigger(lane: Lane, error: Exception) -> None:
    codec = Failing()
    with at(lane, codec, echo) as app:
        codec.encoding["payload"] = error
        meant: dict[type, tuple[type[RunlaneError], bool]] = {
            StorageUnavailable: (KeyUnavailable, True),
            PayloadErased: (PayloadErased, False),
        }
        kind, retryable = meant.get(type(error), (ConfigurationInvalid, False))
        text = "gone" if kind is PayloadErased else f"failing cannot encode the payload: {type(error).__name__}"
        with pytest.raises(kind, match=f"^{text}$") as refused:
            app.trigger(echo, 1)
        assert refused.value.retryable is retryable
        assert stored(app)[0] == 0


@task("asks", retry=Retry(max_attempts=3, backoff=Fixed("1s"), jitter=0.0))
def asks(payload: Any, context: Context) -> Any:
    return context.release("1s", meta={"asked": True}) if payload == "meta" else payload


@pytest.mark.parametrize("part", ["meta", "result"])
def test_what_cannot_be_encoded_for_now_is_tried_again(lane: Lane, clock: SettableClock, part: str) -> None:
    codec = Failing()
    with at(lane, codec, asks, clock=clock) as app:
        run = app.trigger(asks, part).run
        codec.encoding[part] = StorageUnavailable(SECRET)
        failed = app.execute_next()
        assert failed.status is RunStatus.RETRYING
        assert failed.failure.code == "payload_unreadable"
        assert failed.failure.message == f"failing cannot encode the {part}: StorageUnavailable"
        codec.encoding.clear()
        clock.advance(MINUTE)
        app.worker("drain").run()
        assert app.runs.get(run.id).status in (RunStatus.RELEASED, RunStatus.SUCCEEDED)
        assert SECRET not in repr(app.runs.events(run.id))


@pytest.mark.parametrize("part", ["meta", "result"])
@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_what_can_never_be_encoded_is_not_tried_again(lane: Lane, part: str, error: Exception) -> None:
    codec = Failing()
    with at(lane, codec, asks) as app:
        run = app.trigger(asks, part).run
        codec.encoding[part] = error
        failed = app.execute_next()
        assert (failed.status, failed.failure.code) == (RunStatus.FAILED, "configuration_invalid")
        assert failed.failure.message == f"failing cannot encode the {part}: {type(error).__name__}"
        assert SECRET not in repr(app.runs.events(run.id))


# ------------------------------------------------------------------ how much there may be


@task("says", subject=lambda text: "ann")
def says(text: str, context: Context) -> Any:
    return context.release("1s", meta={"m": text[6:]}) if context.attempt == 1 else text


def test_the_limit_is_that_of_the_plain_value(lane: Lane, clock: SettableClock) -> None:
    text = "x" * (jsontext.MAX_BYTES - 100)
    with at(lane, AesGcm(MASTER), says, clock=clock) as app:
        run = app.trigger(says, text).run
        app.worker("drain").run()
        clock.advance(MINUTE)
        app.worker("drain").run()
        ended = app.runs.get(run.id)
        assert (ended.payload == text, ended.result == text) == (True, True)
        (release,) = (one.event for one in app.runs.events(run.id) if isinstance(one.event, RunReleased))
        assert release.meta == {"m": text[6:]}
        assert app.runs.rerun(run.id).payload == text
        with pytest.raises(
            PayloadInvalid, match=r"^payload is 1,048,577 bytes of JSON; at most 1,048,576 are allowed$"
        ):
            app.trigger(says, "x" * (jsontext.MAX_BYTES - 1))
        assert app.audit.verify().identical


class Wasteful(Failing):
    """Makes too much of everything."""

    def encode(self, plain: bytes, context: CodecContext) -> Mapping[str, Any]:
        return {"text": plain.decode() * 17}


def test_what_a_codec_makes_has_a_limit_too(lane: Lane) -> None:
    with at(lane, Wasteful(), echo) as app:
        app.trigger(echo, "x" * 900_000)
        with pytest.raises(
            ConfigurationInvalid, match=r"^what failing has encoded is more than 16,777,216 bytes of JSON$"
        ):
            app.trigger(echo, "x" * 1_000_000)
