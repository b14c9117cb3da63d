"""The offline history checker finds every kind of broken promise: one hand-made bad history for each."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.chaos import history
from tests.chaos.history import Effect, Report, check, read_calls, read_effects
from tests.chaos.stories import BROKEN, START, Breaks, acknowledged_and_lost, disguised, sound, stale

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_found_in_a_sound_history() -> None:
    report = check(sound().evidence())
    assert report.findings() == []
    assert report.sound
    assert (report.runs, report.attempts, report.repeated) == (5, 7, 1)
    assert (report.stale_attempted, report.stale_accepted) == (1, [])
    assert report.calls == {"ok": 2, "unknown": 2, "failed": 1}


def test_its_fold_makes_the_row_that_the_specification_describes() -> None:
    (row,) = [row for row in sound().evidence().runs if row["id"] == "lost"]
    told = {
        name: row[name] for name in ("status", "sequence", "attempt_count", "lost_count", "failure_count", "due_at")
    }
    assert told == {
        "status": "succeeded",
        "sequence": 5,
        "attempt_count": 2,
        "lost_count": 1,
        "failure_count": 0,
        "due_at": None,
    }
    assert row["finished_at"] == START + timedelta(seconds=5)


def found_in(breaks: Breaks) -> Report:
    story = sound()
    breaks(story)
    return check(story.evidence())


@pytest.mark.parametrize(("breaks", "name"), BROKEN, ids=[f"{name}-{n}" for n, (_, name) in enumerate(BROKEN)])
def test_a_broken_promise_is_found(breaks: Breaks, name: str) -> None:
    report = found_in(breaks)
    assert not report.sound
    assert report.violations.get(name), report.findings()


@pytest.mark.parametrize("breaks", [stale, disguised])
def test_a_stale_write_that_was_accepted_is_found(breaks: Breaks) -> None:
    report = found_in(breaks)
    assert len(report.stale_accepted) == 1
    assert not report.sound


def test_an_acknowledged_run_that_is_gone_is_found() -> None:
    report = found_in(acknowledged_and_lost)
    assert report.lost == ["gone, acknowledged to c-9"]
    assert not report.sound


def test_rows_that_differ_from_the_log_are_found() -> None:
    for name in ("status", "sequence", "attempt_count", "finished_at", "lease_session_id", "failure", "queue"):
        evidence = sound().evidence()
        evidence.runs[0][name] = "x"  # type: ignore[index]
        report = check(evidence)
        assert [name in difference for difference in report.differences] == [True]
        assert not report.sound


@pytest.mark.parametrize("table", ["runs", "keys", "occurrences"])
def test_a_row_that_is_missing_or_too_many_is_found(table: str) -> None:
    missing = sound().evidence()
    setattr(missing, table, list(getattr(missing, table))[1:])
    assert len(check(missing).differences) == 1
    added = sound().evidence()
    first = dict(getattr(added, table)[0])
    first |= {name: "other" for name in ("id", "key") if name in first}
    getattr(added, table).append(first)
    assert len(check(added).differences) == 1


def test_a_key_that_belongs_to_a_former_owner_is_found() -> None:
    story = sound()
    story.create("heir", idempotency_key="k", idempotency_ttl="30d")
    story.lease("heir", "b", 1)
    story.end("heir", "b", 1)
    evidence = story.evidence()
    assert check(evidence).sound
    evidence.keys = [row | {"run_id": "keyed"} for row in evidence.keys]
    assert len(check(evidence).differences) == 1


def test_a_pruned_run_has_no_row_and_gives_its_key_away() -> None:
    evidence = sound().evidence()
    evidence.runs = [row for row in evidence.runs if row["id"] != "keyed"]
    evidence.keys = []
    assert len(check(evidence).differences) == 2
    evidence.pruned = frozenset({"keyed"})
    assert check(evidence).sound


def test_a_pruned_run_with_a_row_or_a_key_is_found() -> None:
    evidence = sound().evidence()
    evidence.pruned = frozenset({"keyed"})
    told = check(evidence).differences
    assert [difference.split()[0] for difference in told] == ["run", "idempotency"]


def test_runs_may_wait_while_faults_go_on() -> None:
    story = sound()
    story.create("waits")
    assert check(story.evidence(), ended=False).sound


def test_who_died_during_a_call_was_told_nothing(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    lines = [
        {"call": "a-1", "kind": "trigger", "task": "t", "ids": ["x"]},
        {"call": "a-1", "answer": "ok", "runs": ["x"], "outcomes": ["created"]},
        {"call": "a-2", "kind": "trigger", "task": "t", "key": "k"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = read_calls([path, tmp_path / "none"])
    assert (first.answer, first.ids, first.runs) == ("ok", ("x",), ("x",))
    assert (second.answer, second.key) == ("unknown", "k")


def test_effects_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "effects"
    path.write_text("r 1 s started 7 12.5\nr 1 s ended 7 13.5\n")
    assert read_effects([path]) == [Effect("r", 1, "s", True, 7, 12.5), Effect("r", 1, "s", False, 7, 13.5)]


def test_it_shares_no_code_with_what_it_judges() -> None:
    sources = list(Path(history.__file__).parent.glob("*.py"))
    assert len(sources) >= 4
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("runlane", "projections", "sqlalchemy")], (
                source
            )
            assert all(name.startswith("tests.chaos.history") for name in names if name.startswith("tests")), source
    loaded = "import sys, tests.chaos.history; print([name for name in sys.modules if name.startswith('runlane')])"
    said = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
