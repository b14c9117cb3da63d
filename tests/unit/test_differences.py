"""What changed between two events of a run."""

from __future__ import annotations

import pytest
from attrs import evolve

from runlane import events as e
from runlane.projections.differences import FieldChange, diff, flat, same
from runlane.values import Actor
from tests.unit.lives import (
    BROKEN,
    CREATED,
    HOUR,
    LATER,
    LEASED,
    OTHER_SESSION,
    RUN_ID,
    SESSION,
    T0,
    history,
    record,
    run_in,
)

RETRIED = e.RunRetryScheduled(SESSION, 1, BROKEN, LATER, 0, 0)
AGAIN = e.RunLeased(OTHER_SESSION, "w2", 2)
LIFE = [
    *history(CREATED, LEASED),
    record(3, RETRIED, T0 + HOUR),
    record(4, AGAIN, LATER),
    record(5, e.RunSucceeded(OTHER_SESSION, 2, [1]), LATER + HOUR),
]


def test_a_difference_names_both_ends() -> None:
    found = diff(LIFE[:4], 2)
    assert (found.run_id, found.from_sequence, found.to_sequence) == (RUN_ID, 2, 4)
    assert (found.from_at, found.to_at) == (T0, LATER)


def test_each_change_has_its_values_and_the_event_that_made_it_last() -> None:
    changes = {change.field: change for change in diff(LIFE, 2).changes}
    assert changes["status"] == FieldChange("status", "running", "succeeded", 5)
    assert changes["attempt_count"] == FieldChange("attempt_count", 1, 2, 4)
    assert changes["retry_count"] == FieldChange("retry_count", 0, 1, 3)
    assert changes["lease.worker_id"] == FieldChange("lease.worker_id", "w1", None, 5)
    assert changes["result"] == FieldChange("result", None, [1], 5)
    assert changes["finished_at"] == FieldChange("finished_at", None, LATER + HOUR, 5)
    assert "started_at" not in changes


def test_what_is_as_it_was_in_the_end_has_not_changed() -> None:
    fields = {change.field for change in diff(LIFE[:4], 2).changes}
    assert "status" not in fields
    assert {"lease.session_id", "lease.worker_id", "lease.attempt", "lease.leased_at"} <= fields


def test_between_an_event_and_itself_nothing_changes() -> None:
    for n in (1, 3, 5):
        assert diff(LIFE[:n], n).changes == ()


@pytest.mark.parametrize("sequence", [0, 6, -1])
def test_an_event_that_is_not_there_is_refused(sequence: int) -> None:
    with pytest.raises(ValueError, match=f"no event {sequence}"):
        diff(LIFE, sequence)


def test_a_run_without_events_has_no_states() -> None:
    with pytest.raises(ValueError, match="without events"):
        diff([], 1)


def test_a_state_is_told_field_by_field() -> None:
    told = flat(run_in("cancellation_requested"))
    assert (told["status"], told["attempt_count"], told["due_at"]) == ("cancellation_requested", 1, None)
    assert (told["lease.session_id"], told["lease.worker_id"], told["lease.attempt"]) == (SESSION, "w1", 1)
    assert (told["cancellation.reason"], told["cancellation.actor"]) == ("enough", "system:runlane")
    assert (told["failure.code"], told["reservation.reserved_at"]) == (None, None)
    assert flat(run_in("failed"))["failure.message"] == "it broke"


def test_the_fields_that_events_may_change() -> None:
    plain = (
        "status due_at run_at started_at finished_at attempt_count failure_count retry_count release_count lost_count"
    )
    assert [name for name in flat(run_in("queued")) if "." not in name] == [*plain.split(), "result"]
    groups = [name.partition(".")[0] for name in flat(run_in("queued")) if "." in name]
    assert list(dict.fromkeys(groups)) == ["lease", "failure", "reservation", "cancellation"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, 1, True),
        (1, 2, False),
        (1, 1.0, False),
        (1, True, False),
        (None, None, True),
        (None, 0, False),
        ("a", "a", True),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, False),
        ({}, [], False),
        ([], {}, False),
        ({}, None, False),
        ([1, 2], [1, 2], True),
        ([1, 2], [1, 2.0], False),
        ([1, 2], [1], False),
        ([1], [1, 2], False),
        ([1], None, False),
        (None, [1], False),
        ([{"a": [1]}], [{"a": [True]}], False),
        ([{"a": [1]}], [{"a": [1]}], True),
    ],
)
def test_values_are_compared_as_json(one: object, other: object, expected: bool) -> None:
    assert same(one, other) is expected


def test_an_actor_is_told_by_its_text() -> None:
    asked = evolve(record(3, e.RunCancellationRequested("enough")), actor=Actor.operator("ann"))
    changes = {change.field: change.after for change in diff([*LIFE[:2], asked], 2).changes}
    assert changes["cancellation.actor"] == "operator:ann"
