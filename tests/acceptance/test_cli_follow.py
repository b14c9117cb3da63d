"""Following the log and projecting it on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.acceptance.test_cli import PROGRAM, Shell, shell, sqlite_shell

__all__ = ["shell", "sqlite_shell"]

WITH_PROJECTIONS = PROGRAM.replace("app = runlane", "from runlane.readmodels import *\napp = runlane", 1).replace(
    "wait])\n\ndef", "wait], projections=[TaskHours(), FailureShapes()])\n\ndef"
)


def test_follow_goes_on_where_it_was(shell: Shell) -> None:
    shell("migrate")
    shell("trigger", "emails.welcome", '{"user_id": "bad"}')
    shell("worker", "--drain")
    first = shell.lines("follow", "--once", "--cursor", "start")
    assert [event["type"] for event in first if event["type"].startswith("run.")] == [
        "run.created",
        "run.delivery_requested",
        "run.leased",
        "run.retry_scheduled",
    ]
    assert shell.lines("follow", "--once", "--cursor", first[1]["cursor"]) == first[2:]
    assert shell.lines("follow", "--once") == [], "at the end there is nothing yet"
    chosen = shell("follow", "--once", "--cursor", "start", "--types", "run.leased, run.created").stdout.splitlines()
    assert [line.split()[4] for line in chosen] == ["run.created", "run.leased"]
    assert shell.lines("follow", "--once", "--cursor", "name:mine") == first
    assert shell.lines("follow", "--once", "--cursor", "name:mine") == []
    for wrong, why in ((("--cursor", "x"), "cursor must be"), (("--types", "x"), "no type of event 'x'")):
        done = shell("follow", *wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert why in done.stderr


def test_projections(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    assert "no projections" in shell("projections", "list").stdout
    url = shell.folder / "runlane.db"
    (shell.folder / "shop.py").write_text(WITH_PROJECTIONS.replace("URL", repr(f"sqlite:///{url}")))
    shell("trigger", "emails.welcome", '{"user_id": "bad"}')
    shell("worker", "--drain")
    assert shell.lines("projections", "run", "failures", "--once") == [{"name": "failures", "events": 1}]
    states = {one["name"]: (one["stored_version"], one["behind"]) for one in shell.lines("projections", "list")}
    assert states["failures"] == (1, 0)
    assert states["task_hours"][0] is None
    everything = len(shell.lines("follow", "--once", "--cursor", "start"))
    assert shell("projections", "rebuild", "task_hours").stdout == f"task_hours: {everything} events folded\n"
    assert "task_hours" in shell("projections", "list").stdout
    unknown = shell("projections", "run", "x")
    assert (unknown.returncode, "no projection 'x'" in unknown.stderr) == (2, True)


def test_control_c_ends_it_clean(sqlite_url: str, tmp_path: Path) -> None:
    """A process of its own, told to stop when it has shown what is there."""
    from runlane import Runlane
    from tests.engine.tasks import echo

    with Runlane(sqlite_url, tasks=[echo]) as app:
        app.trigger(echo, 1)
    command = [sys.executable, "-m", "runlane", "--database", sqlite_url, "follow", "--cursor", "start", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert [json.loads(process.stdout.readline())["sequence"] for _ in range(2)] == [1, 2]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
