"""The demo: finishes, resumes after SIGKILL without loss or doubling, and says so only if the replay agrees."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from runlane import Runlane
from runlane.demo import Demo, SourceFile, first_and_last, measure, standard_library, top_level_imports
from runlane.errors import ConfigurationInvalid, NonRetryable


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "runlane", "demo", *arguments]


def demo(folder: Path, *arguments: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Some files to measure: 40 good ones and one that does not decode."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for number in range(40):
        (folder / f"module_{number}.py").write_text(f"import os\nfrom sys import path\nx = {number}\n")
    (folder / "broken.py").write_bytes(b"# -*- coding: utf-8 -*-\n\xff\xfe\n")
    return folder


def test_it_ends_with_the_table_and_an_identical_replay(shared_url: str, sources: Path, tmp_path: Path) -> None:
    done = demo(tmp_path, "--database", shared_url, "--files", str(sources))
    assert done.returncode == 0, done.stderr
    assert "41 new runs, 0 found" in done.stdout
    assert "replay identical" in done.stdout
    assert "1 do not decode: broken.py" in done.stdout
    report = json.loads((tmp_path / "runlane-demo-report.json").read_text())
    assert report["files"] == 40
    assert report["lines"] == 120
    assert report["most_imported"] == {"os": 40, "sys": 40}


def test_a_second_start_makes_no_run_twice(sqlite_url: str, sources: Path, tmp_path: Path) -> None:
    arguments = ("--database", sqlite_url, "--files", str(sources))
    first = demo(tmp_path, *arguments)
    again = demo(tmp_path, *arguments, "--json")
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    facts = json.loads(again.stdout)
    assert facts["identical"] is True
    with Runlane(sqlite_url, environment="demo") as app:
        assert sum(app.runs.count(tasks=["demo.measure"]).values()) == 41
        assert sum(app.runs.count(tasks=["demo.report"]).values()) == 1


def test_killed_in_the_middle_it_finishes_at_the_next_start(shared_url: str, tmp_path: Path) -> None:
    files = tmp_path / "sources"
    files.mkdir()
    # Not too long: nothing else in the process moves while Python parses, heartbeats neither.
    source = Path(json.__file__).read_text() * 8
    for number in range(150):
        (files / f"module_{number}.py").write_text(source)
    arguments = ("--database", shared_url, "--files", str(files), "--concurrency", "4")
    victim = subprocess.Popen(command(*arguments), cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        with Runlane(shared_url, environment="demo") as app:
            _until(lambda: app.runs.count(tasks=["demo.measure"]).get("succeeded", 0) >= 10)
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            done = app.runs.count(tasks=["demo.measure"])
            assert 0 < done["succeeded"] < 150
            again = demo(tmp_path, *arguments)
            assert again.returncode == 0, again.stderr
            assert "replay identical" in again.stdout
            assert app.runs.count(tasks=["demo.measure"]) == {"succeeded": 150}
            kinds = Counter[str]()
            for status_page in _pages(app):
                for run in status_page:
                    kinds.update(type(record.event).__name__ for record in app.runs.events(run.id))
            assert kinds["RunSucceeded"] == 150
            assert kinds["RunCreated"] == 150
    finally:
        victim.kill()
        victim.wait()


def _pages(app: Runlane):
    cursor = None
    while True:
        page = app.runs.list(tasks=["demo.measure"], limit=100, cursor=cursor)
        yield page.data
        if (cursor := page.next_cursor) is None:
            return


def _until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def test_the_standard_library_is_a_thousand_files_and_more() -> None:
    files = standard_library()
    assert len(files) >= 1000
    assert Path(os.__file__).resolve() in {file.resolve() for file in files}


def test_measuring_a_file(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_bytes(
        "# -*- coding: latin-1 -*-\nimport a.b, c\nfrom . import d\nif x:\n    import hidden\n# é".encode("latin-1")
    )
    found = measure(SourceFile(str(file)))
    assert (found["bytes"], found["lines"], found["imports"]) == (file.stat().st_size, 6, [".", "a.b", "c"])
    assert top_level_imports("print 'python 2'") is None


def test_a_file_that_does_not_decode_is_a_failure_without_retries(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_bytes(b"\xff\xff")
    with pytest.raises(NonRetryable, match="does not decode"):
        measure(SourceFile(str(file)))


def test_no_files_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"no \.py file below it"):
        Demo("memory:", tmp_path)
    done = demo(tmp_path, "--files", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_long_histories_are_shown_by_their_ends() -> None:
    assert first_and_last([1, 2, 3], 4) == ([1, 2, 3], (), 0)
    assert first_and_last([1, 2, 3, 4, 5, 6], 4) == ([1, 2], [5, 6], 2)


def test_it_goes_on_and_says_so_where_its_output_has_no_room(sources: Path, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("--files", str(sources)), cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100
        )
    told = "error: the output could not be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)
    assert json.loads((tmp_path / "runlane-demo-report.json").read_text())["files"] == 40


@pytest.mark.parametrize("concurrency", ["0", "-3", "1000000"])
def test_a_concurrency_that_cannot_be_is_refused_before_anything_is_stored(
    concurrency: str, sources: Path, tmp_path: Path
) -> None:
    done = demo(tmp_path, "--files", str(sources), "--concurrency", concurrency)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"concurrency must be an integer from 1 to 10000; got {concurrency}" in done.stderr
    assert list(tmp_path.iterdir()) == [sources]


def test_a_report_that_cannot_be_written_is_told_and_made_at_a_later_start(
    shared_url: str, sources: Path, tmp_path: Path
) -> None:
    arguments = ("--database", shared_url, "--files", str(sources))
    report = tmp_path / "runlane-demo-report.json"
    report.mkdir()
    for options in ((), ("--json",)):
        done = demo(tmp_path, *arguments, *options)
        assert done.returncode == 1, done.stdout
        assert re.fullmatch(r"error: there is no report: its run \S+ failed: .*Is a directory.*\n", done.stderr)
    report.rmdir()
    for created in (3, 3):
        done = demo(tmp_path, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(report.read_text())["files"] == 40
        with Runlane(shared_url, environment="demo") as app:
            assert sum(app.runs.count(tasks=["demo.report"]).values()) == created


def test_a_report_that_is_gone_is_written_again(shared_url: str, sources: Path, tmp_path: Path) -> None:
    arguments = ("--database", shared_url, "--files", str(sources))
    report = tmp_path / "runlane-demo-report.json"
    told = "bytes (runlane-demo-report.json); most imported: os, sys"
    assert told in demo(tmp_path, *arguments).stdout
    facts = json.loads(report.read_text())
    report.unlink()
    again = demo(tmp_path, *arguments)
    assert (again.returncode, again.stderr) == (0, "")
    assert "0 new runs, 41 found" in again.stdout
    assert told in again.stdout
    assert json.loads(report.read_text()) == facts
    report.unlink()
    report.mkdir()
    again = demo(tmp_path, *arguments)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "error: the report cannot be written: " in again.stderr
    assert "runlane-demo-report.json" not in again.stdout
