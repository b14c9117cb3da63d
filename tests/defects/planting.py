"""Planting a defect in a copy of the project, and asking its test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from attrs import frozen

from tests.defects.defect import Defect

ROOT = Path(__file__).parents[2]
_COPIED = ("runlane", "projections", "tests", "schema.sql", "pyproject.toml")
#: No single test takes longer; seconds.
_PATIENCE = 110


@frozen
class Verdict:
    """What the test said: whether the defect was noticed by a failure of its, and the test's own words."""

    killed: bool
    said: str


def plant(defect: Defect, folder: Path) -> None:
    """Copy the project into `folder`, with the defect.

    Raises:
        ValueError: the sound line is not there exactly once.
    """
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
        else:
            shutil.copy2(source, folder / name)
    place = folder / defect.file
    place.write_text(spoilt(defect), "utf-8")


def spoilt(defect: Defect) -> str:
    """The text of the defect's file, with the defect.

    Raises:
        ValueError: the sound line is not there exactly once.
    """
    text = (ROOT / defect.file).read_text("utf-8")
    if text.count(defect.sound) != 1 or "\n" in defect.sound + defect.broken:
        raise ValueError(
            f"{defect.file} has {text.count(defect.sound)} times {defect.sound!r}, and should have it once"
        )
    return text.replace(defect.sound, defect.broken)


class Asking:
    """Runs the tests of planted defects; `postgres` is the URL of a server that is running already."""

    def __init__(self, nursery: subprocess.Popen[str]) -> None:
        self._nursery = nursery

    def ask(self, defect: Defect, folder: Path, postgres: str | None = None) -> Verdict:
        """Run the test of a defect planted in `folder`."""
        report, words = folder / "report.xml", folder / "words.txt"
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--junitxml={report}"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is imported already
        question = {
            "folder": str(folder),
            "words": str(words),
            "arguments": [*options, defect.test],
            "environment": {"PYTHONPATH": str(folder)} | ({"RUNLANE_TEST_POSTGRES": postgres} if postgres else {}),
            "without": [str(ROOT)],
            "patience": _PATIENCE,
        }
        code = self._say(json.dumps(question))
        # A test that cannot be collected, or a fixture that fails, is an error there and no failure.
        failed = report.exists() and ElementTree.parse(report).getroot().findall(".//testcase/failure")
        return Verdict(code == "1" and bool(failed), f"exit code {code}\n{words.read_text('utf-8')[-5000:]}")

    def _say(self, line: str) -> str:
        pipes: tuple[IO[str] | None, IO[str] | None] = (self._nursery.stdin, self._nursery.stdout)
        assert pipes[0] is not None
        assert pipes[1] is not None
        pipes[0].write(line + "\n")
        pipes[0].flush()
        return pipes[1].readline().strip()


@contextmanager
def asking() -> Iterator[Asking]:
    """Something to ask with, for many questions one after the other."""
    # Away from the project, or its packages would be found before those of the copies.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", str(Path(__file__).with_name("nursery.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", env=environment
    ) as nursery:
        try:
            yield Asking(nursery)
        finally:
            assert nursery.stdin is not None
            nursery.stdin.close()
