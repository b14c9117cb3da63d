"""Completion in a shell: what is offered, asked through click and through a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from runlane.cli import cli, completion
from runlane.cli.program import Program
from tests.acceptance.test_cli import Shell, shell, sqlite_shell
from tests.support import PATIENCE

__all__ = ["shell", "sqlite_shell"]


@pytest.fixture
def offered(sqlite_shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The folder of a program that is named as RUNLANE_APP."""
    monkeypatch.setenv("RUNLANE_APP", "shop:app")
    sys.modules.pop("shop", None)
    return sqlite_shell


def offers(*words: str) -> list[str]:
    """What is offered in place of the last word."""
    asked = ShellComplete(cli, {"obj": Program()}, "runlane", completion.VARIABLE)
    return [item.value for item in asked.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["trigger"]),
        (["runs", "c"], ["cancel", "count"]),
        (["runs", "list", "--singleton"], ["--singleton-key"]),
        (["trigger", ""], ["emails.welcome", "slow.wait", "stock.count"]),
        (["trigger", "st"], ["stock.count"]),
        (["keys", "reset", "em"], ["emails.welcome"]),
        (["runs", "list", "--task", "slow"], ["slow.wait"]),
        (["runs", "count", "--status", "re"], ["released", "retrying"]),
        (["runs", "prune", "--status", "f"], ["failed"]),
        (["worker", "--queue", ""], ["emails", "slow"]),
        (["trigger", "emails.welcome", "--queue", "s"], ["slow"]),
        (["queues", "pause", "e"], ["emails"]),
        (["schedules", "pause", ""], ["stock-hourly"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
    ],
    ids=" ".join,
)
def test_what_is_offered(offered: Shell, words: list[str], expected: list[str]) -> None:
    assert offers(*words) == expected


def test_the_program_may_be_named_on_the_line(offered: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNLANE_APP")
    assert offers("trigger", "") == []
    assert offers("--app", "shop:make", "trigger", "em") == ["emails.welcome"]


def test_a_program_that_prints_or_fails_offers_nothing_and_says_nothing(
    offered: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (offered.folder / "broken.py").write_text("print('noise')\n1 / 0\n")
    monkeypatch.setenv("RUNLANE_APP", "broken:app")
    sys.modules.pop("broken", None)
    assert offers("trigger", "") == []
    assert capsys.readouterr() == ("", "")
    assert not (offered.folder / "runlane.db").exists(), "nothing is opened for a TAB"


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["a", "b"], ["a", "b"]),
        (["--app", "shop", ":", "app", "trigger"], ["--app", "shop:app", "trigger"]),
        (["--database", "sqlite", ":", "///x.db", "runs"], ["--database", "sqlite:///x.db", "runs"]),
        ([], []),
    ],
)
def test_words_that_bash_cut_at_colons_are_put_together(pieces: list[str], words: list[str]) -> None:
    assert completion.joined(pieces) == words


def test_a_script_for_each_shell(sqlite_shell: Shell) -> None:
    for name, mark in (("bash", "complete -o nosort"), ("zsh", "compdef"), ("fish", "complete --no-files")):
        done = sqlite_shell("completion", name)
        assert done.returncode == 0
        assert mark in done.stdout
        assert f"{completion.VARIABLE}={name}_complete" in done.stdout
    assert sqlite_shell("completion", "csh").returncode == 2


BASH = """
eval "$(runlane completion bash)"
try() {
  COMP_WORDS=(runlane "$@"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMPREPLY=()
  _runlane_completion runlane
  echo "${COMPREPLY[*]}"
}
try tri
try --app shop : app trigger e
try runs list --status que
try trigger emails.welcome "'{\\"user_id\\": \\"u1\\"}'" --prio
"""


def test_bash_really_completes(offered: Shell, tmp_path: Path) -> None:
    assert shutil.which("bash"), "these tests need bash"
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "runlane"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m runlane "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH], env=environment, capture_output=True, text=True, timeout=3 * PATIENCE
    )
    assert (done.stderr, done.stdout.splitlines()) == ("", ["trigger", "emails.welcome", "queued", "--priority"])
