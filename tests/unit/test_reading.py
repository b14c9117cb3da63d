"""Cursors and filters: what did not come from the same listing is refused before anything is read."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from runlane import Queue, reading, task
from runlane.errors import ConfigurationInvalid
from runlane.reading import run_filter
from runlane.storage.queries import RunFilter
from tests.unit.lives import RUN_ID

AT = datetime(2026, 1, 1, tzinfo=UTC)
NO_DATABASE: Any = None
ALL = RunFilter()


def listed(
    cursor: Any = None, *, environment: str = "default", wanted: RunFilter = ALL, limit: Any = 10, order: Any = "newest"
):
    return reading.list_runs(NO_DATABASE, environment, wanted, limit, cursor, order)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "garbage", "####", "=", "Zoë", "\ud800", "\x00", str(RUN_ID),
     encoded("null"), encoded("5"), encoded("[]"),
     encoded('["a"]'), encoded('["a","b"]'), encoded('["a","b","c"]'), encoded("[null,null]"), encoded("[1,2]"),
     encoded('{"a":1,"b":2}'), encoded("[" * 2000), 5, b"abc", ["a"]],
)  # fmt: skip
def test_garbage_is_no_cursor(cursor: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"not one that runs\.list returned"):
        listed(cursor)


def test_a_cursor_opens_the_listing_that_made_it() -> None:
    cursor = reading._seal(RUN_ID, "default", ALL, "newest")
    assert reading._open(cursor, "default", ALL, "newest") == RUN_ID
    assert cursor.isascii()


@pytest.mark.parametrize(
    "other",
    [
        {"environment": "other"},
        {"order": "oldest"},
        {"wanted": run_filter(statuses=["failed"])},
        {"wanted": run_filter(tasks=["t"])},
        {"wanted": run_filter(queues=["q"])},
        {"wanted": run_filter(correlation_id="c")},
        {"wanted": run_filter(idempotency_key="k")},
        {"wanted": run_filter(source_run_id=RUN_ID)},
        {"wanted": run_filter(parent_run_id=RUN_ID)},
        {"wanted": run_filter(schedule_id="s")},
        {"wanted": run_filter(created_after=AT)},
        {"wanted": run_filter(created_before=AT)},
    ],
)
def test_a_cursor_of_another_listing_is_refused(other: dict) -> None:
    cursor = reading._seal(RUN_ID, "default", ALL, "newest")
    with pytest.raises(ConfigurationInvalid, match="belongs to another filter or order"):
        listed(cursor, **other)


def test_filters_that_differ_only_in_a_value_do_not_share_cursors() -> None:
    cursor = reading._seal(RUN_ID, "default", run_filter(tasks=["a"]), "newest")
    with pytest.raises(ConfigurationInvalid, match="another filter"):
        listed(cursor, wanted=run_filter(tasks=["b"]))
    with pytest.raises(ConfigurationInvalid, match="another filter"):
        listed(cursor, wanted=run_filter(queues=["a"]))


@pytest.mark.parametrize("limit", [0, -1, 501, 10**9, 1.0, "10", None, True])
def test_a_page_has_one_to_five_hundred_runs(limit: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="limit must be an integer from 1 to 500"):
        listed(limit=limit)


@pytest.mark.parametrize("order", ["", "NEWEST", "up", None, 1])
def test_an_unknown_order_is_refused(order: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="order must be 'newest' or 'oldest'"):
        listed(order=order)


def test_a_filter_takes_names_and_definitions() -> None:
    queue, job = Queue("q"), task("t")(lambda payload: None)
    wanted = run_filter(statuses=["failed", "queued"], tasks=[job, "u"], queues=[queue, "r"], source_run_id=str(RUN_ID))
    assert wanted == RunFilter(("failed", "queued"), ("t", "u"), ("q", "r"), source_run_id=RUN_ID)


def test_a_filter_reads_times_in_utc() -> None:
    given = AT.astimezone(timezone(timedelta(hours=5)))
    assert run_filter(created_after=given, created_before=given) == RunFilter(created_after=AT, created_before=AT)


def test_nothing_asked_is_no_restriction() -> None:
    assert run_filter() == ALL
    assert run_filter(statuses=[], tasks=[]) == RunFilter(statuses=(), tasks=())


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"statuses": ["done"]}, "unknown status 'done'; known are queued"),
        ({"statuses": [None]}, "unknown status None"),
        ({"statuses": "failed"}, "statuses must be a list"),
        ({"tasks": "t"}, "tasks must be a list"),
        ({"queues": 5}, "queues must be a list"),
        ({"tasks": [5]}, "an entry of tasks must be a string"),
        ({"queues": [None]}, "an entry of queues must be a string"),
        ({"correlation_id": 5}, "correlation_id must be a string"),
        ({"idempotency_key": "\x00"}, "idempotency_key must not contain NUL"),
        ({"schedule_id": 5}, "schedule_id must be a string"),
        ({"source_run_id": "abc"}, "a run id must be a UUID"),
        ({"parent_run_id": 5}, "a run id must be a UUID"),
        ({"created_after": datetime(2026, 1, 1)}, "created_after must be timezone-aware"),
        ({"created_before": "2026-01-01"}, "created_before must be a datetime"),
    ],
)
def test_a_bad_filter_is_refused_by_name(options: dict, names: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=names):
        run_filter(**options)
