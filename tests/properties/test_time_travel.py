"""What changed in a run, and when, agrees with every legal history."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from runlane import events as e
from runlane.projections import runs
from runlane.projections.differences import diff, flat, same
from runlane.projections.timeline import reason_of, timeline
from tests.strategies import History, histories, json_values


@given(histories(), st.data())
@settings(max_examples=60)
def test_a_difference_is_what_the_two_states_differ_by(history: History, data: st.DataObject) -> None:
    end = data.draw(st.integers(1, len(history.records)))
    begin = data.draw(st.integers(1, end))
    before, after = (flat(runs.replay(history.records[:n])) for n in (begin, end))
    found = diff(history.records[:end], begin)
    assert (found.from_sequence, found.to_sequence) == (begin, end)
    assert (found.from_at, found.to_at) == tuple(history.records[n - 1].occurred_at for n in (begin, end))
    assert {c.field: (c.before, c.after) for c in found.changes} == {
        name: (before[name], after[name]) for name in after if not same(before[name], after[name])
    }
    for change in found.changes:
        # The event named is the last after which the field was another one than before it.
        last, then = (
            flat(runs.replay(history.records[:n]))[change.field] for n in (change.sequence - 1, change.sequence)
        )
        assert begin < change.sequence <= end
        assert not same(last, then)
        assert same(then, change.after)


@given(histories())
@settings(max_examples=60)
def test_nothing_but_the_birth_is_left_out_of_a_difference(history: History) -> None:
    """Whoever knows the birth and the flat fields knows the run."""
    run = runs.replay(history.records)
    told = flat(run)
    left_out = {"id", "environment", "created", "created_at", "sequence", "updated_at", "counters"}
    names = {field.name for field in runs.Run.__attrs_attrs__} - left_out
    assert names == {name.partition(".")[0] for name in told if not name.endswith("_count")}
    assert sum(name.endswith("_count") for name in told) == len(type(run.counters).__attrs_attrs__)


@given(json_values, json_values)
def test_values_are_the_same_where_their_json_is(one: object, other: object) -> None:
    assert same(one, one)
    assert same(one, other) is same(other, one)
    if same(one, other):
        assert one == other
    assert not same([1], [True])
    assert not same({"a": 1}, {"a": 1.0})


@given(histories())
@settings(max_examples=60)
def test_the_gaps_of_a_timeline_add_up(history: History) -> None:
    moments = timeline(history.records)
    assert moments[0].since_last == moments[0].since_start == timedelta(0)
    passed = timedelta(0)
    for moment, record in zip(moments, history.records, strict=True):
        passed += moment.since_last
        assert moment.since_start == passed
        assert moment.actor == record.actor
        assert moment.reason == reason_of(record)


@given(histories())
@settings(max_examples=60)
def test_whoever_cancels_is_named_with_the_reason(history: History) -> None:
    for moment, record in zip(timeline(history.records), history.records, strict=True):
        if isinstance(record.event, e.RunCancellationRequested | e.RunCancelled):
            assert str(record.actor) in moment.text
        if isinstance(record.event, e.RunCancellationRequested) and record.event.reason:
            assert moment.text.endswith(": " + " ".join(record.event.reason.split()))
        assert "\n" not in moment.text
