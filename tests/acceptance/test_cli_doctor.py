"""``runlane doctor`` as people and monitors meet it: the table, JSON, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from runlane import Runlane, SettableClock
from runlane.cli import main
from runlane.storage import health_work, sessions
from tests.support import database_of, execute, postgres_url, reused_postgres

__all__ = ["postgres_url", "reused_postgres"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return int(ended.value.code or 0), told.out, told.err

    return call


@pytest.fixture
def app(sqlite_url: str) -> Iterator[Runlane]:
    with Runlane(sqlite_url) as made:
        yield made


def test_all_is_well(run: Run, app: Runlane, sqlite_url: str) -> None:
    code, out, err = run("--database", sqlite_url, "doctor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["STATUS", "CHECK", "FOUND"]
    assert all(line.startswith("ok ") for line in lines[1:-1])
    assert lines[-1].endswith("runlane.db, environment default: 16 ok")


def test_a_warning_then_something_critical(run: Run, app: Runlane, sqlite_url: str) -> None:
    execute(database_of(app), "drop index runs_ready")
    code, out, _ = run("doctor", "--database", sqlite_url)
    assert code == 1
    first, advice = out.splitlines()[1:3]
    assert first.split() == ["warning", "schema", "missing:", "index", "runs.runs_ready"]
    assert advice.strip().startswith("→ find out who did that")
    assert out.splitlines()[-1].endswith(": 1 warning, 15 ok")
    execute(database_of(app), "drop trigger events_refuse_update")
    code, out, _ = run("doctor", "--database", sqlite_url)
    assert code == 2
    assert out.splitlines()[1].startswith("critical  schema")


def test_one_line_of_json_for_each_check(run: Run, app: Runlane, sqlite_url: str) -> None:
    code, out, _ = run("doctor", "--database", sqlite_url, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [one["name"] for one in found] == [check.name for check in app.doctor().checks]
    assert all(set(one) == {"name", "status", "found", "advice", "values"} for one in found)
    assert {one["status"] for one in found} == {"ok"}
    assert next(one for one in found if one["name"] == "disk")["values"]["free"] > 0


def test_everything_of_a_diagnosis_is_json(run: Run, postgres_url: str) -> None:
    def vanish(tx: Any) -> None:
        sessions.open_session(tx, uuid4(), "default", "gone", tx.now(), tx.now())

    with Runlane(postgres_url) as app:
        database_of(app).transact(vanish, SettableClock())
    code, out, _ = run("doctor", "--database", postgres_url, "--json")
    found = {one["name"]: one for one in map(json.loads, out.splitlines())}
    assert code == 2  # the tests' server does without fsync
    assert found["settings"]["status"] == "critical"
    assert found["workers"]["values"]["oldest"] > 86_400


def test_another_environment(run: Run, app: Runlane, sqlite_url: str) -> None:
    _, out, _ = run("--database", sqlite_url, "--environment", "other", "doctor")
    assert "this is environment other" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--database", "sqlite:///none.db"), "is not there"),
        (("--database", "postgresql://127.0.0.1:9/x"), "cannot be reached"),
        (("--database", "mysql://u:secret@h/x"), "unknown database"),
        (("--database", "sqlite:///empty.db"), "is not migrated"),
        (("--app", "nothing:app"), "there is no module"),
        ((), "say what to work on"),
    ],
)
def test_nothing_to_look_at(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNLANE_APP", raising=False)
    (tmp_path / "empty.db").touch()
    code, out, err = run(*arguments, "doctor")
    assert (code, out) == (3, "")
    assert err.startswith("error: could not be looked at: ")
    assert said in err
    assert "secret" not in err
    assert not (tmp_path / "none.db").exists()


def test_a_wrong_option_is_wrong_usage(run: Run, sqlite_url: str) -> None:
    code, _, err = run("doctor", "--database", sqlite_url, "--quick")
    assert (code, "No such option" in err) == (2, True)


def test_a_narrow_terminal(run: Run, app: Runlane, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(database_of(app), "drop index runs_ready")
    monkeypatch.setattr("runlane.cli.show._WIDE", 60)
    code, out, _ = run("doctor", "--database", sqlite_url)
    assert code == 1
    lines = out.splitlines()[:-1]
    assert max(map(len, lines)) <= 60
    assert "".join(" ".join(lines).split()).lower().count("createindexruns_readyonruns") == 1  # folded, not cut


def test_the_clock_of_a_check_may_be_wrong(run: Run, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = health_work.system_clock
    monkeypatch.setattr(health_work, "system_clock", lambda: right() + timedelta(minutes=5))
    _, out, _ = run("doctor", "--database", postgres_url)
    assert "s ahead of the database's" in out
