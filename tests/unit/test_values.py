"""Identifiers, texts, durations, instants and actors at the edge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from uuid import UUID

import pytest

from runlane import values
from runlane.errors import ConfigurationInvalid
from runlane.values import Actor, ActorType, RunStatus, SourceType, TriggerOutcome


@pytest.mark.parametrize("name", ["a", "a" * 255, "emails.welcome", "a b", "Zoë \U0001f680", "-", "é" * 255])
def test_identifiers_are_opaque_text(name: str) -> None:
    assert values.identifier("task id", name) == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "1 to 255 characters; it has 0"),
        ("a" * 256, "1 to 255 characters; it has 256"),
        ("a:b", "not contain ':'"),
        (":", "not contain ':'"),
        ("a\nb", "control characters"),
        ("a\n", "control characters"),
        ("\x00", "control characters"),
        ("\x7f", "control characters"),
        ("\x85", "control characters"),
        ("\ud800", "lone surrogates"),
        (None, "be a string, not NoneType"),
        (5, "be a string, not int"),
        (b"a", "be a string, not bytes"),
    ],
)
def test_what_is_no_identifier_is_refused_by_name(name: object, reason: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=f"^task id must .*{reason}"):
        values.identifier("task id", name)


@pytest.mark.parametrize("text", ["", "x" * 4096, "a:b\nc", "\x01", "Zoë"])
def test_free_text_may_hold_almost_anything(text: str) -> None:
    assert values.free_text("reason", text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [("x" * 4097, "at most 4096"), ("a\x00", "NUL"), ("\udfff", "lone surrogates"), (None, "string"), (1, "string")],
)
def test_free_text_that_cannot_be_stored_is_refused(text: object, reason: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=f"^reason must .*{reason}"):
        values.free_text("reason", text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1ms", timedelta(milliseconds=1)),
        ("500ms", timedelta(milliseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("10m", timedelta(minutes=10)),
        ("2h", timedelta(hours=2)),
        ("30d", timedelta(days=30)),
        (timedelta(microseconds=1), timedelta(microseconds=1)),
        (timedelta(hours=1, seconds=1), timedelta(hours=1, seconds=1)),
    ],
)
def test_durations(value: object, expected: timedelta) -> None:
    assert values.duration("delay", value) == expected


@pytest.mark.parametrize(
    "value",
    ["", "0s", "-1s", "+1s", "1", "s", "1.5s", "1 s", " 1s", "1s ", "1s\n", "1S", "1w", "1us", "01s", "1m30s", "١s",
     "inf", "999999999999d", "9" * 30 + "d", 30, 1.5, None, True, timedelta(0), timedelta(seconds=-1), b"1s"],
)  # fmt: skip
def test_what_is_no_positive_duration_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"^delay "):
        values.duration("delay", value)


def test_instants_are_brought_to_utc() -> None:
    given = datetime(2026, 1, 2, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    made = values.instant("run_at", given)
    assert made == given
    assert (made.tzinfo, made.day, made.hour) == (UTC, 1, 23)


class Nowhere(tzinfo):
    """A zone that does not know its offset."""

    def utcoffset(self, at: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (datetime(2026, 1, 1), "timezone-aware"),
        (datetime(2026, 1, 1, tzinfo=Nowhere()), "timezone-aware"),
        ("2026-01-01T00:00:00Z", "datetime, not str"),
        (1_700_000_000, "datetime, not int"),
        (None, "datetime, not NoneType"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-2))), "out of range"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=2))), "out of range"),
    ],
)
def test_what_is_no_aware_instant_is_refused_by_name(value: object, reason: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=f"^run_at .*{reason}"):
        values.instant("run_at", value)


def test_times_beyond_the_calendar_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationInvalid, match=r"^delay reaches beyond the year 9999"):
        values.later(datetime(9999, 12, 31, tzinfo=UTC), timedelta(days=1))


def test_run_ids_are_uuids_or_their_text() -> None:
    made = UUID("019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f")
    assert values.run_id(made) is made
    assert values.run_id("019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f") == made
    assert values.run_id("019C8F3E7A527B8E9D540C1B2A3D4E5F") == made


@pytest.mark.parametrize("value", ["", "abc", "019c8f3e-7a52-7b8e-9d54", 5, None, b"019c8f3e7a527b8e9d540c1b2a3d4e5f"])
def test_what_is_no_run_id_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationInvalid, match="a run id must be a UUID"):
        values.run_id(value)


def test_new_run_ids_are_uuid7_and_sort_by_time() -> None:
    made = [values.new_run_id() for _ in range(200)]
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}
    assert len(set(made)) == 200
    assert made == sorted(made)


def test_actors_are_stored_as_kind_and_id() -> None:
    assert str(Actor.operator("ann")) == Actor.operator("ann").text == "operator:ann"
    assert Actor.application("shop") == Actor(ActorType.APPLICATION, "shop")


@pytest.mark.parametrize("make", [Actor.operator, Actor.application])
@pytest.mark.parametrize("name", ["", "a:b", "\n", None])
def test_actor_ids_are_identifiers(make, name: object) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"^actor id "):
        make(name)


def test_the_stored_values_of_enumerations_are_those_of_the_contract() -> None:
    assert {*RunStatus} == {
        "queued", "scheduled", "running", "released", "retrying", "cancellation_requested",
        "succeeded", "failed", "cancelled",
    }  # fmt: skip
    assert {*SourceType} == {"trigger", "run_now", "schedule", "rerun", "manual_retry"}
    assert {*ActorType} == {"system", "worker", "schedule", "operator", "application"}
    assert {*TriggerOutcome} == {"created", "reused_idempotent", "reused_singleton"}
