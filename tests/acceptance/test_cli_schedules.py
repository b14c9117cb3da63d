"""``runlane schedules`` as its users meet it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runlane.cadence import Every
from runlane.cli.show import cadence_text
from tests.acceptance.test_cli import PROGRAM, Shell

SCHEDULES = """
@task("report.build", schedules=[
    Schedule("nightly", cron="30 2 * * *", time_zone="Europe/Berlin", payload={"full": True}),
    Schedule("often", every="10m"),
    Schedule("off", cron="0 0 1 1 *", enabled=False),
    Schedule("launch", run_at=__import__("datetime").datetime(2020, 1, 1, tzinfo=__import__("datetime").UTC)),
])
def build(payload: dict | None) -> None:
    pass

app = runlane.Runlane(URL, queues=[emails], tasks=[build])
"""


@pytest.fixture
def shell(
    tmp_path: Path, shared_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    return made(tmp_path, shared_url, monkeypatch, capsys)


@pytest.fixture
def sqlite_shell(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    return made(tmp_path, sqlite_url, monkeypatch, capsys)


def made(folder: Path, url: str, patch: pytest.MonkeyPatch, streams: pytest.CaptureFixture[str]) -> Shell:
    shell = Shell(folder, url, patch, streams)
    (folder / "shop.py").write_text((PROGRAM + SCHEDULES).replace("URL", repr(url)))
    assert shell("migrate").returncode == 0
    assert shell("tick").returncode == 0
    return shell


@pytest.mark.parametrize(
    ("interval", "told"),
    [
        (timedelta(seconds=1), "every 1 s"),
        (timedelta(seconds=1.25), "every 1.25 s"),
        (timedelta(seconds=59, microseconds=123456), "every 59.123456 s"),
        (timedelta(minutes=10), "every 10 min"),
        (timedelta(seconds=3661), "every 1 h 1 min 1 s"),
        (timedelta(seconds=90061.5), "every 1 d 1 h 1 min 1.5 s"),
        (timedelta(days=7), "every 7 d"),
    ],
)
def test_an_interval_is_told_exactly(interval: timedelta, told: str) -> None:
    assert cadence_text(Every(interval)) == told


def one(shell: Shell, *arguments: str) -> Any:
    (line,) = shell.lines("schedules", *arguments)
    return line


def test_the_whole_road(shell: Shell) -> None:
    bare = shell.lines("schedules")
    assert bare == shell.lines("schedules", "list")
    assert [row["id"] for row in bare] == ["launch", "nightly", "off", "often"]
    nightly = bare[1]
    assert nightly["cadence"] == {"cron": "30 2 * * *", "time_zone": "Europe/Berlin"}

    paused = one(shell, "pause", "often", "--reason", "maintenance", "--actor", "ann")
    assert (paused["id"], paused["paused"]) == ("often", True)
    assert one(shell, "pause", "often")["paused"]
    assert not one(shell, "resume", "often")["paused"]

    ran = one(shell, "trigger", "nightly", "--actor", "ann")
    assert (ran["outcome"], ran["run"]["payload"], ran["run"]["source"]["schedule_id"]) == (
        "created",
        {"full": True},
        "nightly",
    )
    assert shell.lines("runs", "events", ran["run"]["id"])[0]["actor"] == "operator:ann"

    got = one(shell, "get", "launch")
    (told,) = got["occurrences"]
    (run,) = shell.lines("runs", "list", "--schedule", "launch")
    assert (told["outcome"], told["run_id"], told["scheduled_for"]) == ("fired", run["id"], "2020-01-01T00:00:00+00:00")
    assert one(shell, "get", "nightly")["occurrences"] == []

    times = shell.lines("schedules", "preview", "nightly", "-n", "3")
    assert [time["local"][10:16] for time in times] == ["T02:30"] * 3 or _in_spring(times)
    instants = [datetime.fromisoformat(time["at"]) for time in times]
    assert datetime.now(UTC) < instants[0] <= datetime.now(UTC) + timedelta(hours=26)
    assert instants[0].isoformat() == nightly["next_at"]
    assert shell.lines("audit", "verify")[-1]["differences"] == 0


def _in_spring(times: list[dict[str, str]]) -> bool:
    """Once a year the clocks of Berlin skip 02:30."""
    return any(time["local"][5:7] == "03" and time["local"][10:16] == "T03:00" for time in times)


def test_tables_are_for_people(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    listed = shell("schedules").stdout
    assert listed == shell("schedules", "list").stdout
    lines = {line.split()[0]: line for line in listed.splitlines()}
    assert lines["ID"].split() == ["ID", "TASK", "CADENCE", "STATE", "NEXT", "LAST", "FIRED"]
    assert "cron 30 2 * * * (Europe/Berlin)" in lines["nightly"]
    assert "every 10 min" in lines["often"]
    assert "once at 2020-01-01 00:00:00Z" in lines["launch"]
    assert "disabled" in lines["off"]

    assert shell("schedules", "pause", "often", "--reason", "night").stdout == "often is paused\n"
    assert "paused" in shell("schedules", "list").stdout
    assert shell("schedules", "resume", "often").stdout.startswith("often is active; next at 20")
    assert "created  queued" in shell("schedules", "trigger", "often").stdout

    got = shell("schedules", "get", "launch").stdout
    assert "once at 2020-01-01 00:00:00Z" in got
    assert "fired" in got.split("SCHEDULED FOR")[1]
    assert "SCHEDULED FOR" not in shell("schedules", "get", "nightly").stdout

    previewed = shell("schedules", "preview", "nightly", "--count", "2").stdout.splitlines()
    assert previewed[0].split() == ["AT", "LOCAL", "TIME"]
    assert len(previewed) == 3
    assert all(line.endswith(" Europe/Berlin") for line in previewed[1:])
    assert shell("schedules", "preview", "launch").stdout == "launch does not fire again\n"


def test_a_bare_database_is_enough_to_look_and_to_pause(sqlite_shell: Shell, sqlite_url: str) -> None:
    named = ("--database", sqlite_url)
    assert "nightly" in sqlite_shell(*named, "schedules", app=None).stdout
    assert sqlite_shell(*named, "schedules", "pause", "nightly", app=None).stdout == "nightly is paused\n"
    done = sqlite_shell(*named, "schedules", "trigger", "nightly", app=None)
    assert (done.returncode, done.stderr.count("give --app module:name")) == (2, 1)


def test_options_may_stand_before_the_group_behind_it_and_behind_the_command(sqlite_shell: Shell) -> None:
    for arguments in (
        ("--json", "schedules", "get", "often"),
        ("schedules", "--json", "get", "often"),
        ("schedules", "get", "often", "--json"),
    ):
        assert json.loads(sqlite_shell(*arguments).stdout)["id"] == "often"
    assert len(sqlite_shell("schedules", "--json").stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["get", "nope"], 1, "no schedule has the id 'nope'"),
        (["pause", "nope"], 1, "no schedule has the id 'nope'"),
        (["trigger", "off"], 1, "schedule off is disabled"),
        (["preview", "off"], 1, "schedule off is disabled"),
        (["preview", "often", "-n", "0"], 2, "count must be an integer from 1 to 1000"),
        (["get", "often", "--limit", "501"], 2, "limit must be an integer from 1 to 500"),
        (["pause", "often", "--actor", "a:b"], 2, "must not contain ':'"),
        (["get"], 2, "Missing argument 'SCHEDULE'"),
        (["nope"], 2, "No such command 'nope'"),
    ],
)
def test_mistakes_get_one_clear_line(sqlite_shell: Shell, arguments: list[str], code: int, says: str) -> None:
    done = sqlite_shell("schedules", *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_removed_schedule_is_still_listed(sqlite_shell: Shell) -> None:
    shop = sqlite_shell.folder / "shop.py"
    shop.write_text(shop.read_text().replace('Schedule("often", every="10m"),', ""))
    sqlite_shell("tick")
    assert "removed" in sqlite_shell("schedules", "get", "often").stdout
    done = sqlite_shell("schedules", "resume", "often")
    assert (done.returncode, "schedule often is removed" in done.stderr) == (1, True)
