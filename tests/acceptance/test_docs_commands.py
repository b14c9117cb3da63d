"""The commands that the documentation shows are executed too, on the program that docs/deployment.md shows.

Nothing is faked but one thing: a worker that would go on until it is stopped drains instead.  ``runlane dev`` is left
out, as test_dev.py runs it.
"""

from __future__ import annotations

import importlib
import logging
import re
import shlex
import sys
from pathlib import Path

import pytest

from runlane.cli import main
from tests.acceptance.test_docs import PAGES, ROOT, programs

CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: The runs that the commands name: one that waits, and one that has failed.
WAITING, FAILED = "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f", "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e60"


def blocks() -> list[tuple[str, list[list[str]]]]:
    """Each page's blocks of commands, as a shell would take them apart; only those of ``runlane``."""
    found = []
    for page in PAGES:
        for number, block in enumerate(CONSOLE.findall(page.read_text("utf-8"))):
            lines = [shlex.split(line[2:], comments=True) for line in block.splitlines() if line.startswith("$ ")]
            commands = [words[1:] for words in lines if words[0] == "runlane" and words[-1] != "dev"]
            if commands:
                found.append((f"{page.name}-{number}", commands))
    return found


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the documented program, and the runs that the commands speak of."""
    program = programs(ROOT / "docs" / "deployment.md", continuations=False)[0]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "jobs.py").write_text(program, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("RUNLANE_APP", "shop.jobs:app")
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # the command line's own; pytest listens already
    forget()
    app = importlib.import_module("shop.jobs").app
    with app:
        app.trigger("billing.invoice", "bad-1", run_id=FAILED)
        assert app.execute_next().status == "failed"
        app.run_now("billing.invoice", "order-2", idempotency_key="order-2")
        app.trigger("billing.invoice", "order-1", run_id=WAITING)
    forget()


def forget() -> None:
    """Let the next command import the program anew, as a process of its own would."""
    for module in ("shop.jobs", "shop"):
        sys.modules.pop(module, None)


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("commands", [pytest.param(commands, id=name) for name, commands in blocks()])
def test_documented_commands_work(commands: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands:
        forget()
        with pytest.raises(SystemExit) as ended:
            main([*words, "--drain"] if "worker" in words else words)
        told = capsys.readouterr()
        assert (ended.value.code, told.err) == (0, ""), f"runlane {shlex.join(words)}"
        assert told.out


def test_the_pages_that_show_commands_are_found() -> None:
    assert {"README.md", "deployment.md", "local-development.md", "operators.md"} <= {
        name.rpartition("-")[0] for name, _ in blocks()
    }
