"""``runlane audit export|replay|import``, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runlane.export import FORMATS
from tests.acceptance.test_cli import Shell, shell, sqlite_shell

__all__ = ["shell", "sqlite_shell"]


def test_an_incident_on_a_laptop(shell: Shell) -> None:
    shell.lines("migrate")
    (done,) = shell.lines("trigger", "emails.welcome", '{"user_id": "u1"}')
    shell.lines("trigger", "emails.welcome", '{"user_id": "bad"}', "--idempotency-key", "k1")
    shell.lines("worker", "--drain")
    (told,) = shell.lines("audit", "export", "log.jsonl", "--actor", "ann")
    assert (told["made_by"], told["format"], told["environment"]) == ("operator:ann", "jsonl", "default")
    assert json.loads(Path("log.jsonl.manifest.json").read_bytes()) == told
    (found,) = shell.lines("audit", "replay", "log.jsonl")
    assert (found["clean"], found["events"], found["signed"]) == (True, told["events"], None)
    assert found["by_status"] == {"succeeded": 1, "retrying": 1}
    said = shell("audit", "replay", "log.jsonl", app=None)
    assert (said.returncode, said.stdout.splitlines()[-1][:14]) == (0, "export intact:")
    assert shell("audit", "verify", "log.jsonl", app=None).stdout == said.stdout

    incident = ("--database", "sqlite:///incident.db")
    (imported,) = shell.lines("audit", "import", "log.jsonl", *incident)
    assert (imported["events"], imported["runs"], imported["found"]) == (told["events"], 2, 0)
    assert "were there" in shell("audit", "import", "log.jsonl", *incident).stdout
    assert shell.lines(*incident, "runs", "get", done["run"]["id"]) == shell.lines("runs", "get", done["run"]["id"])
    assert shell(*incident, "audit", "verify").returncode == 0
    for format in FORMATS:
        assert "exported" in shell("audit", "export", f"log.{format}.file", "--format", format, "--since", "1h").stdout


def test_damage_is_told_by_exit_code_1_and_what_cannot_be_checked_by_2(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    shell.lines("trigger", "emails.welcome", '{"user_id": "u1"}')
    shell.lines("audit", "export", "log.jsonl")
    log = Path("log.jsonl")
    log.write_bytes(log.read_bytes().replace(b"u1", b"u2"))
    done = shell("audit", "replay", "log.jsonl")
    assert done.returncode == 1
    assert "is not the event that was exported here" in done.stdout
    assert "3 problems" in done.stdout.splitlines()[-1]
    *problems, told = [json.loads(line) for line in shell("audit", "replay", "log.jsonl", "--json").stdout.splitlines()]
    assert (told["problems"], told["clean"], problems[0]["sequence"]) == (3, False, 1)
    again = shell("audit", "verify", "log.jsonl")
    assert (again.returncode, again.stdout) == (1, done.stdout)
    done = shell("audit", "import", "log.jsonl", "--database", "sqlite:///incident.db")
    assert (done.returncode, "is damaged, and nothing was imported" in done.stderr) == (1, True)
    assert not Path("incident.db").exists()
    for arguments in (
        ("replay", "none.jsonl"),
        ("verify", "none.jsonl"),
        ("import", "none.jsonl", "--database", "sqlite:///x.db"),
    ):
        done = shell("audit", *arguments)
        assert (done.returncode, "cannot be read" in done.stderr) == (2, True)
    assert not Path("x.db").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("export", "log.jsonl"), "exists already"),
        (("export", "other", "--format", "xml"), "xml"),
        (("export", "other", "--key", "none.pem"), "the key none.pem cannot be read"),
        (("export", "none/other"), "is no folder"),
        (("verify", "log.jsonl", "--since", "1h"), "of an export everything is checked"),
        (("verify", "log.jsonl", "--processes", "2"), "of an export everything is checked"),
        (("import", "log.jsonl"), "say where to: --database"),
        (("import", "log.jsonl", "--app", "shop:app", "--database", "sqlite:///x.db"), "leave out --app"),
        (("import", "log.jsonl", "--environment", "x", "--database", "sqlite:///x.db"), "'default', not 'x'"),
    ],
)
def test_wrong_usage_is_one_line(sqlite_shell: Shell, arguments: tuple[str, ...], told: str) -> None:
    sqlite_shell.lines("audit", "export", "log.jsonl")
    done = sqlite_shell("audit", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_pruned_can_be_archived_first(shell: Shell) -> None:
    shell.lines("migrate")
    for n in range(3):
        shell.lines("trigger", "emails.welcome", f'{{"user_id": "u{n}"}}')
    shell.lines("worker", "--drain")
    Path("old").mkdir()
    old = ("runs", "prune", "--older-than", "1ms")
    (done,) = shell.lines(*old, "--archive", "old", "--limit", "2", "--reason", "as agreed")
    (path,) = done["archives"]
    assert (done["runs"], "archive" in done, shell("audit", "replay", path, app=None).returncode) == (2, False, 0)
    assert "kept in 1 archive in old" in shell(*old, "--archive", "old").stdout
    kept, _, told = shell.lines("audit", "archives", "old")
    assert (kept["path"], kept["runs"], kept["actor"], kept["problems"]) == (path, 2, "operator:cli", [])
    assert told == {"archives": 2, "intact": True, "unarchived_runs": 0, "untold": []}
    assert shell("audit", "archives", path).stdout.startswith("archives intact: 1 archive, 2 runs")
    Path(path).write_bytes(b"")
    found = shell("audit", "archives", "old")
    assert (found.returncode, "1 archive not as the log tells" in found.stdout) == (1, True)
    found = shell("audit", "archives", path)
    assert (found.returncode, "1 archive not as the log tells" in found.stdout) == (1, True)
    Path("strange").write_text("no archive")
    found = shell("audit", "archives", "strange")
    assert (found.returncode, found.stdout.startswith("no archive of this log: 0 archives")) == (1, True)
    assert "the log does not tell of strange" in found.stdout
    assert shell("audit", "archives", "nowhere").returncode == 2
    refused = shell(*old, "--archive", "nowhere")
    assert (refused.returncode, refused.stderr) == (2, "error: archive nowhere is no folder; make it first\n")


def test_roles_are_for_postgresql(sqlite_shell: Shell) -> None:
    for options, told in (
        (("--roles",), "roles are made on PostgreSQL only"),
        (("--role-prefix", "shop"), "--role-prefix needs --roles"),
    ):
        refused = sqlite_shell("migrate", *options)
        assert (refused.returncode, refused.stderr.startswith(f"error: {told}")) == (2, True)
