"""How the program is found and loaded, and what is said where that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.acceptance.test_cli import Shell, sqlite_shell

__all__ = ["sqlite_shell"]

BROKEN = """
import sys, runlane

def lacks_setting():
    raise KeyError("conf")

def wants_more(region):
    raise AssertionError("nobody gives a region")

def leaves():
    sys.exit(5)

def cannot_reach():
    return runlane.Runlane("postgresql://nobody@127.0.0.1:1/none").start()
"""


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("lacks_setting", 2, "--app broken:lacks_setting: calling lacks_setting failed: KeyError: 'conf'"),
        ("wants_more", 2, "calling wants_more failed: TypeError: wants_more() missing 1 required"),
        ("leaves", 2, "calling leaves failed: SystemExit: 5"),
        ("cannot_reach", 1, "cannot be reached"),
    ],
)
def test_a_factory_that_fails_is_named(sqlite_shell: Shell, path: str, code: int, says: str) -> None:
    (sqlite_shell.folder / "broken.py").write_text(BROKEN)
    done = sqlite_shell("tick", app=f"broken:{path}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert says in done.stderr


def test_a_module_that_ends_the_process_is_named(sqlite_shell: Shell) -> None:
    (sqlite_shell.folder / "broken.py").write_text("import sys\nsys.exit(5)\n")
    done = sqlite_shell("tick", app="broken:app")
    assert (done.returncode, done.stderr) == (2, "error: --app broken:app: importing broken failed: SystemExit: 5\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[tool]\nrunlane = "shop:app"\n', "[tool.runlane] of"),
        ("[tool]\nrunlane = [1]\n", "[tool.runlane] of"),
        ("tool = 3\n", "[tool.runlane] of"),
        ("[tool.runlane]\napp = 3\n", "app under [tool.runlane] of"),
        ("[tool.runlane\n", "cannot be read"),
    ],
)
def test_a_pyproject_that_says_something_else_is_named(sqlite_shell: Shell, text: str, says: str) -> None:
    (sqlite_shell.folder / "pyproject.toml").write_text(text)
    done = sqlite_shell("tick", app=None)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr
    assert "pyproject.toml" in done.stderr


def test_the_program_of_a_pyproject_further_up_is_found_beside_it(
    sqlite_shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sqlite_shell.folder / "pyproject.toml").write_text('[tool.runlane]\napp = "shop:app"\n')
    below = sqlite_shell.folder / "reports" / "daily"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    (below / "shop.py").write_text("raise AssertionError('of another program')")
    for here in (str(sqlite_shell.folder), str(Path.cwd()), ""):
        while here in sys.path:
            sys.path.remove(here)
    done = sqlite_shell("tick", app=None)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_payload_from_a_standard_input_that_is_closed(sqlite_shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    done = sqlite_shell("trigger", "emails.welcome", "-")
    assert (done.returncode, done.stderr) == (1, "error: the payload cannot be read: standard input is closed\n")
