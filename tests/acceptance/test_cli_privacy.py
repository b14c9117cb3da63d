"""Encrypted payloads on the command line: shown to who has the key, and erased."""

from __future__ import annotations

from tests.acceptance.test_cli import Shell, shell

__all__ = ["shell"]


def encrypted(shell: Shell) -> None:
    """Have the program encrypt its payloads."""
    program = shell.folder / "shop.py"
    text, tasks = program.read_text(), "tasks=[send_welcome, count_stock, wait]"
    assert tasks in text
    program.write_text(text.replace(tasks, f"{tasks}, payload_codec=runlane.AesGcm(b'k' * 32)"))


def test_erase_a_subject(shell: Shell) -> None:
    encrypted(shell)
    shell("migrate")
    (made,) = shell.lines("trigger", "emails.welcome", '{"user_id": "u1"}', "--subject", "u1")
    run = made["run"]["id"]
    assert made["run"]["payload"] == {"user_id": "u1"}
    assert '{"user_id":"u1"}' in shell("runs", "get", run).stdout
    stranger = shell("runs", "get", run, "--database", database_of(shell), app=None).stdout
    assert "sealed (its key is not here)" in stranger
    (done,) = shell.lines("audit", "erase", "--subject", "u1", "--reason", "ticket 4711", "--actor", "ann")
    assert done["keys"] == 1
    assert "nothing left to erase" in shell("audit", "erase", "--subject", "u1").stdout
    told = shell("runs", "get", run).stdout
    assert "erased" in told
    (shown,) = shell.lines("runs", "get", run)
    assert shown["payload"] == {"$runlane": "sealed", "reason": "erased"}
    assert shell.lines("runs", "events", run)[0]["data"]["payload"] == shown["payload"]
    assert shell("audit", "timeline", run).returncode == shell("audit", "verify").returncode == 0
    (seen,) = (line for line in shell.lines("audit", "who", "--actor", "ann") if "subject_erased" in str(line))
    assert "ticket 4711" in str(seen)
    shell("worker", "--drain")
    assert "payload_erased" in shell("runs", "get", run).stdout
    refused = shell("audit", "fixture", run)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "cannot be read: erased" in refused.stderr


def database_of(shell: Shell) -> str:
    program = (shell.folder / "shop.py").read_text()
    return next(part for part in program.split("'") if part.startswith(("sqlite:", "postgresql:")))


def test_what_cannot_be_erased_is_one_clear_line(shell: Shell) -> None:
    shell("migrate")
    refused = shell("audit", "erase", "--subject", "u1")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "needs a payload codec with keys" in refused.stderr
    encrypted(shell)
    unknown = shell("audit", "erase", "--subject", "u1")
    assert unknown.returncode == 1
    assert "nothing was ever encrypted for this subject" in unknown.stderr


def test_rewrap(shell: Shell) -> None:
    encrypted(shell)
    shell("migrate")
    shell("trigger", "emails.welcome", '{"user_id": "u1"}', "--subject", "u1")
    assert shell("audit", "rewrap").stdout == "wrapped anew: 0 data keys\n"
    program = shell.folder / "shop.py"
    program.write_text(program.read_text().replace("AesGcm(b'k' * 32)", "AesGcm(b'n' * 32, b'k' * 32)"))
    assert shell.lines("audit", "rewrap") == [{"rewrapped": 2}]
