"""What a diagnosis says of itself, and figures as people read them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from runlane import Check, ConfigurationInvalid, Diagnosis, Health, Runlane
from runlane.health import Bound, worst
from runlane.storage.health_sqlite import has_reset_bug, mounted_as
from runlane.storage.spans import counted, percent, size, some, span


def test_the_worst_check_decides() -> None:
    ok, warning, critical = (Check(str(status), status, "found") for status in Health)
    for checks, status, code in (
        ((), Health.OK, 0),
        ((ok, ok), Health.OK, 0),
        ((warning, ok), Health.WARNING, 1),
        ((ok, critical, warning), Health.CRITICAL, 2),
    ):
        found = Diagnosis("a database", "default", checks)
        assert (found.status, found.exit_code) == (status, code)
    assert found.check("warning") is warning
    assert found.check("none") is None
    assert found.of(Health.OK, Health.WARNING) == (ok, warning)
    assert worst() is Health.OK


@pytest.mark.parametrize(
    ("figure", "high", "low"), [(0.0, "ok", "critical"), (5, "warning", "warning"), (9, "critical", "ok")]
)
def test_bounds_belong_to_what_they_bound(figure: float, high: str, low: str) -> None:
    assert Bound(5, 9).judge(figure) == high
    assert Bound(5, 0).judge_low(figure) == low
    assert Bound(5, 9).at_most_warning().judge(figure) == high.replace("critical", "warning")
    assert Bound(None).judge(figure) == "ok"


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("3.6.23", False),
        ("3.7.0", True),
        ("3.40.1", True),
        ("3.44.5", True),
        ("3.44.6", False),
        ("3.45.0", True),
        ("3.50.6", True),
        ("3.50.7", False),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.52.0", False),
        ("4.0.0", False),
    ],
)
def test_versions_of_sqlite_with_the_reset_bug(version: str, affected: bool) -> None:
    assert has_reset_bug(tuple(map(int, version.split(".")))) is affected


def test_the_mount_that_a_folder_is_on() -> None:
    mounts = "\n".join(
        [
            "/dev/vda / ext4 rw 0 0",
            "server:/home /home nfs4 rw 0 0",
            "server:/home2 /home/a\\040b cifs rw 0 0",
            "overlay /srv overlay rw 0 0",
            "/dev/vdb /srv xfs rw 0 0",
            "broken",
        ]
    )
    for folder, kind in (
        ("/", "ext4"),
        ("/home/x", "nfs4"),
        ("/homes", "ext4"),
        ("/home/a b/c", "cifs"),
        ("/srv", "xfs"),
    ):
        assert mounted_as(mounts, folder) == kind, folder
    assert mounted_as("", "/") is None


def test_figures() -> None:
    assert [span(length) for length in (-3, 0.4, 119, timedelta(minutes=2), 7200, 200_000)] == [
        "0 s",
        "0 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]
    assert [size(number) for number in (12, 2048, 3 << 20, 5 << 30, 3 << 42)] == [
        "12 bytes",
        "2 KiB",
        "3 MiB",
        "5.0 GiB",
        "12,288.0 GiB",
    ]
    assert (percent(0.123), counted(1, "run"), counted(20, "run", 20)) == ("12 %", "1 run", "at least 20 runs")
    assert some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_thresholds_have_to_be_thresholds() -> None:
    with Runlane("memory:") as app, pytest.raises(ConfigurationInvalid, match="thresholds must be a Thresholds"):
        app.doctor(thresholds=5)  # type: ignore[arg-type]
