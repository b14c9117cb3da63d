"""``runlane audit checkpoint|prove|check-proof`` and what ``audit verify`` says of checkpoints, as typed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.test_cli import Shell, shell, sqlite_shell
from tests.keys import make_keys

__all__ = ["shell", "sqlite_shell"]


def test_evidence_from_the_checkpoint_to_the_check_of_a_proof(shell: Shell) -> None:
    shell.lines("migrate")
    assert "the log is empty" in shell("audit", "checkpoint").stdout
    make_keys(Path())
    (done,) = shell.lines("trigger", "emails.welcome", '{"user_id": "u1"}')
    run = done["run"]["id"]
    assert f"no checkpoint has sealed run {run} yet" in shell("audit", "prove", run).stderr
    shell.lines("worker", "--drain")
    (made,) = shell.lines("audit", "checkpoint", "--sign", "audit.pem", "--out", "1.json", "--actor", "ann")
    assert made["new"]
    assert json.loads(Path("1.json").read_bytes()) == made["checkpoint"]
    said = shell("audit", "checkpoint", "--sign", "audit.pem", "--out", "again.json").stdout
    assert said.startswith("nothing new: the last one is checkpoint 1: positions 1 to ")
    assert said.rstrip().endswith(", signed")
    assert Path("again.json").read_bytes() == Path("1.json").read_bytes()

    evidence = ("--key", "audit.pub", "--checkpoint", "1.json")
    (verified,) = shell.lines("audit", "verify", *evidence)
    assert (verified["differences"], verified["checkpoints"]) == (0, 1)
    assert "1 checkpoint" in shell("audit", "verify", *evidence).stdout

    said = shell("audit", "prove", run, "--out", "proof.json").stdout
    assert said.startswith("wrote proof.json: 4 events, by checkpoint 1")
    assert shell("audit", "prove", run).stdout == Path("proof.json").read_text()
    (told,) = shell.lines("audit", "prove", run, "--event", "2", "--out", "two.json")
    assert told == {"path": "two.json", "events": 3, "checkpoint": 1}
    said = shell("audit", "check-proof", "proof.json", *evidence, app=None).stdout
    assert said.rstrip().endswith("by checkpoint 1 of environment default, which is signed and kept elsewhere")
    assert "not checked itself" in shell("audit", "check-proof", "proof.json", app=None).stdout
    (checked,) = shell.lines("audit", "check-proof", "two.json", *evidence)
    assert (checked["run"], checked["from"], checked["to"], checked["holds"]) == (run, 2, 4, True)

    shell.lines("runs", "prune", "--older-than", "1ms", "--reason", "as agreed")
    shell.lines("trigger", "emails.welcome", '{"user_id": "u2"}')
    assert shell("audit", "checkpoint", "--sign", "audit.pem").returncode == 0
    (verified,) = shell.lines("audit", "verify", *evidence)
    assert (verified["differences"], verified["checkpoints"]) == (0, 2)


def test_what_is_wrong_is_told_by_exit_code_1(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    (done,) = shell.lines("trigger", "emails.welcome", '{"user_id": "u1"}')
    run = done["run"]["id"]
    shell.lines("audit", "checkpoint", "--out", "1.json")
    shell.lines("audit", "prove", run, "--out", "proof.json")
    (database,) = Path().glob("*.db")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("drop trigger events_refuse_delete")
        connection.execute("delete from events")
        connection.execute("delete from runs")
    assert shell("audit", "verify").returncode == 0
    done = shell("audit", "verify", "--checkpoint", "1.json")
    assert (done.returncode, "checkpoint 1" in done.stdout, "1 difference" in done.stdout) == (1, True, True)
    assert shell("audit", "check-proof", "proof.json", "--checkpoint", "1.json").returncode == 0, "it is still proved"
    proof = Path("proof.json")
    proof.write_bytes(proof.read_bytes().replace(b"u1", b"u2"))
    done = shell("audit", "check-proof", "proof.json", "--checkpoint", "1.json")
    assert (done.returncode, "NOT proved" in done.stdout) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("checkpoint", "--out", "there.json"), "there.json exists already"),
        (("checkpoint", "--sign", "none.pem"), "none.pem"),
        (("checkpoint", "--sign", "there.json"), "is no unencrypted private key"),
        (("checkpoint", "--timeout", "-1"), "--timeout"),
        (("verify", "--checkpoint", "none.json"), "none.json"),
        (("verify", "--checkpoint", "there.json"), "is no checkpoint"),
        (("verify", "--key", "there.json"), "is no public key"),
        (("verify", "--run", "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f", "--key", "there.pub"), "of the whole log"),
        (("prove", "x"), "x"),
        (("prove", "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f", "--event", "0"), "--event"),
        (("check-proof", "none.json"), "none.json"),
        (("check-proof", "there.json"), "is no proof"),
    ],
)
def test_bad_input_is_one_clear_line(sqlite_shell: Shell, arguments: tuple[str, ...], told: str) -> None:
    Path("there.json").write_text("{}")
    make_keys(Path(), "there")
    done = sqlite_shell("audit", *arguments)
    assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
