"""Cron rules: what they name, where clocks change, and what is no rule at all."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from runlane import cadence, crontab
from runlane.cadence import Cron
from runlane.errors import ConfigurationInvalid
from tests.cron import occurrences

TICK = timedelta(microseconds=1)
QUARTERLY, HOURLY, NIGHTLY, MIDNIGHT = "*/15 * * * *", "0 * * * *", "30 2 * * *", "0 0 * * *"


def local(expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next occurrences as the zone's clocks show them, from a wall time of the zone on."""
    begin = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = islice(occurrences(Cron(expression, zone), begin), count)
    return [at.astimezone(ZoneInfo(zone)).strftime("%d %H:%M %z") for at in found]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        (NIGHTLY, "2026-01-02T02:29", ["02 02:30 +0000", "03 02:30 +0000"]),
        (NIGHTLY, "2026-01-02T02:30", ["03 02:30 +0000", "04 02:30 +0000"]),
        (NIGHTLY, "2026-01-02T02:29:59.999999", ["02 02:30 +0000"]),
        (QUARTERLY, "2026-01-02T23:44:01", ["02 23:45 +0000", "03 00:00 +0000"]),
        ("0 9-17/4 * * mon-fri", "2026-01-02T16:00", ["02 17:00 +0000", "05 09:00 +0000"]),
        ("0 12 l * *", "2026-01-02", ["31 12:00 +0000", "28 12:00 +0000", "31 12:00 +0000"]),
        ("0 12 * * fri#2", "2026-01-02", ["09 12:00 +0000", "13 12:00 +0000"]),
        ("0 0 13 * 5", "2026-01-02T00:00", ["09 00:00 +0000", "13 00:00 +0000", "16 00:00 +0000"]),
        ("59 23 31 12 *", "2026-12-31T23:58", ["31 23:59 +0000", "31 23:59 +0000"]),
    ],
)
def test_what_an_expression_names(expression: str, after: str, expected: list[str]) -> None:
    assert local(expression, "UTC", after, len(expected)) == expected


def test_the_rarest_days_are_found() -> None:
    begin = datetime(2096, 2, 29, tzinfo=UTC)
    assert cadence.next_after(Cron("0 0 29 2 *", "UTC"), begin) == datetime(2104, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # Forward from 02:00 to 03:00.
        (NIGHTLY, "Europe/Berlin", "2026-03-28", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
        ("0 3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["29 03:00 +0200", "30 03:00 +0200"]),
        ("30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["29 03:00 +0200", "29 03:30 +0200", "30 02:30 +0200"]),
        ("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["29 03:00 +0200", "30 02:00 +0200"]),
        (QUARTERLY, "Europe/Berlin", "2026-03-29T01:30", ["29 01:45 +0100", "29 03:00 +0200", "29 03:15 +0200"]),
        (HOURLY, "Europe/Berlin", "2026-03-29T00:30", ["29 01:00 +0100", "29 03:00 +0200", "29 04:00 +0200"]),
        # Back from 03:00 to 02:00.
        (NIGHTLY, "Europe/Berlin", "2026-10-24", ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]),
        (QUARTERLY, "Europe/Berlin", "2026-10-25T02:15", ["25 02:30 +0200", "25 02:45 +0200", "25 03:00 +0100"]),
        (HOURLY, "Europe/Berlin", "2026-10-25T01:30", ["25 02:00 +0200", "25 03:00 +0100", "25 04:00 +0100"]),
        # Midnight is skipped, or comes twice.
        (MIDNIGHT, "America/Sao_Paulo", "2018-11-03", ["04 01:00 -0200", "05 00:00 -0200"]),
        (MIDNIGHT, "America/Havana", "2026-10-31", ["01 00:00 -0400", "02 00:00 -0500"]),
        # Half an hour; two hours; a zone whose summer is the standard.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["04 02:30 +1100", "05 02:15 +1100"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["05 01:45 +1100", "06 01:45 +1030"]),
        ("30 1,2 * * *", "Antarctica/Troll", "2026-03-28T12:00", ["29 03:00 +0200", "30 01:30 +0200"]),
        (HOURLY, "Antarctica/Troll", "2026-10-25T00:30", ["25 01:00 +0200", "25 02:00 +0200", "25 03:00 +0000"]),
        (NIGHTLY, "Africa/Casablanca", "2026-02-14T12:00", ["15 02:30 +0100", "16 02:30 +0000"]),
        (NIGHTLY, "Africa/Casablanca", "2026-03-21T12:00", ["22 03:00 +0100", "23 02:30 +0100"]),
        # The day that Samoa had not.
        (NIGHTLY, "Pacific/Apia", "2011-12-29", ["29 02:30 -1000", "31 00:00 +1400", "31 02:30 +1400"]),
        (MIDNIGHT, "Pacific/Apia", "2011-12-28T12:00", ["29 00:00 -1000", "31 00:00 +1400", "01 00:00 +1400"]),
        ("0 12 30 * *", "Pacific/Apia", "2011-12-01", ["31 00:00 +1400", "30 12:00 +1400"]),
        (HOURLY, "Pacific/Apia", "2011-12-29T22:30", ["29 23:00 -1000", "31 00:00 +1400", "31 01:00 +1400"]),
        # The day that Kwajalein had twice.
        ("0 18 * * *", "Pacific/Kwajalein", "1969-09-29T12:00", ["29 18:00 +1100", "30 18:00 +1100", "01 18:00 -1200"]),
    ],
)
def test_where_clocks_change(expression: str, zone: str, after: str, expected: list[str]) -> None:
    assert local(expression, zone, after, len(expected)) == expected


def test_a_moment_within_the_repeated_hour_has_its_next_behind_it() -> None:
    rule, again = Cron(QUARTERLY, "Europe/Berlin"), datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10, the second time
    assert cadence.next_after(rule, again) == datetime(2026, 10, 25, 2, tzinfo=UTC)
    first = datetime(2026, 10, 25, 0, 15, tzinfo=UTC)
    assert cadence.latest_due(rule, first, again) == (datetime(2026, 10, 25, 0, 45, tzinfo=UTC), 2)


def test_at_the_end_of_the_calendar_there_is_no_next() -> None:
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
        assert cadence.next_after(Cron("* * * * *", zone), datetime.max.replace(tzinfo=UTC)) is None
        assert cadence.next_after(Cron("0 0 29 2 *", zone), datetime(9998, 1, 1, tzinfo=UTC)) is None


def test_ten_years_of_minutes_are_counted_exactly_and_at_once() -> None:
    rule, first = Cron("* * * * *", "Europe/Berlin"), datetime(2025, 1, 1, tzinfo=UTC)
    begun = time.process_time()
    latest, behind = cadence.latest_due(rule, first, first + timedelta(days=3650, seconds=59))
    assert time.process_time() - begun < 2
    assert latest == first + timedelta(days=3650)
    assert behind == 3650 * 1440 - 10 * 60  # each of ten repeated hours fires once


def test_an_instant_decided_under_older_rules_of_the_zone_still_counts() -> None:
    rule, decided = Cron(NIGHTLY, "UTC"), datetime(2026, 1, 2, 1, 30, tzinfo=UTC)
    assert cadence.latest_due(rule, decided, decided + timedelta(minutes=5)) == (decided, 0)
    assert cadence.latest_due(rule, decided, decided + timedelta(hours=1)) == (decided + timedelta(hours=1), 1)


def test_the_stored_form_of_a_rule() -> None:
    rule = Cron(NIGHTLY, "Europe/Berlin")
    assert cadence.to_json(rule) == {"cron": NIGHTLY, "time_zone": "Europe/Berlin"}
    assert cadence.from_json(cadence.to_json(rule)) == rule


def test_a_rule_first_seen_now_begins_after_now() -> None:
    begin = datetime(2026, 1, 2, 2, 30, tzinfo=UTC)
    assert cadence.first_at(Cron(NIGHTLY, "UTC"), begin) == begin + timedelta(days=1)
    assert cadence.first_at(Cron(NIGHTLY, "UTC"), begin - TICK) == begin


def test_an_expression_has_one_normal_form() -> None:
    assert crontab.checked("it", "  30\t2 * *  * ", "UTC") == Cron(NIGHTLY, "UTC")


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "five fields .* got 0"),
        ("30 2 * *", "five fields .* got 4"),
        ("0 30 2 * * *", "five fields .* got 6"),
        ("@daily", "five fields .* got 1"),
        (None, "must be text"),
        (5, "must be text"),
        ("60 * * * *", "cannot be understood"),
        ("* 24 * * *", "cannot be understood"),
        ("*/0 * * * *", "cannot be understood"),
        ("a b c d e", "cannot be understood"),
        ("R R * * *", "cannot be understood"),
        ("r(0-5) * * * *", "cannot be understood"),
        ("H H * * *", "cannot be understood"),
        ("+5 * * * *", "cannot be understood"),
        ("٣ * * * *", "cannot be understood"),
        ("0 0 30 2 *", "names no day"),
        ("0 0 31 2,4,6,9,11 *", "names no day"),
    ],
)
def test_what_is_no_expression(expression: object, says: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=f"^cron of it .*{says}"):
        crontab.checked("it", expression, "UTC")


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "Nowhere/Land",
        "America",
        "../etc/passwd",
        "/etc/localtime",
        "localtime",
        "right/UTC",
        "posix/UTC",
        "UTC\x00",
        "x" * 300,
        "zone.tab",
        None,
        2,
        UTC,
    ],
)
def test_what_is_no_zone(zone: object) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"^time_zone of it must be an IANA name"):
        crontab.checked("it", NIGHTLY, zone)
