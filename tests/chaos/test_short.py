"""The short form of the chaos: a few seconds of faults on each database, and the same judges as the long one has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from attrs import evolve

from tests import bouncer
from tests.chaos.episode import Plan, Verdict, on_postgres, on_sqlite, told
from tests.chaos.nursery import ROOT
from tests.chaos.server import OwnPostgres
from tests.chaos.tally import ADDED, add_up

ON_A_FILE = ("worker_kill", "worker_pause", "worker_stop", "client_kill")
ON_A_SERVER = (*ON_A_FILE, "backend_terminate", "backend_kill", "postmaster_kill", "proxy_cut")
POOLED = bouncer.BINARY is not None
BEHIND_A_POOLER = ("pgbouncer_kill", "pgbouncer_pause") if POOLED else ()
#: Each of these at least once, and then at random; a machine that is busy may take its time to end what is left.  Kills
#: are few, so that who stands still comes to say what it has done, and most have no clock of their own to stop them.
PLAN = Plan(
    seconds=12,
    seed=11,
    workers=3,
    clients=2,
    rate=8,
    least=30,
    migrators=4,
    recovery=180,
    blind=0.8,
    faults={"worker_kill": 0.25, "worker_pause": 1.0, "client_kill": 0.1},
)


@pytest.mark.timeout(420)
def test_killed_and_paused_processes_on_a_file_break_no_promise(tmp_path: Path) -> None:
    verdict = on_sqlite(tmp_path, evolve(PLAN, only=ON_A_FILE))
    check(verdict, ON_A_FILE)


@pytest.mark.timeout(420)
def test_killed_servers_and_cut_connections_break_no_promise(tmp_path: Path) -> None:
    """Where PgBouncer is installed, a third of the processes are behind it, and it is killed and halted too."""
    faults = ON_A_SERVER + BEHIND_A_POOLER
    server = OwnPostgres(tmp_path / "server", fsync=False)
    try:
        verdict = on_postgres(tmp_path, evolve(PLAN, only=faults, pgbouncer=POOLED), server, "chaos")
    finally:
        server.close()
    check(verdict, faults)
    assert not POOLED or verdict.ways["by_pgbouncer"]
    assert verdict.clocks["ahead"] >= 1
    assert verdict.clocks["behind"] >= 1


def check(verdict: Verdict, faults: Sequence[str]) -> None:
    """Every promise was kept, and put to the test."""
    assert verdict.sound, told(verdict)
    assert verdict.audit.startswith("replay identical")
    assert [kind for kind in faults if not verdict.faults[kind]] == []
    assert verdict.report.calls["ok"] >= PLAN.least
    assert verdict.report.attempts > 0


def test_nobody_outlives_who_started_the_chaos(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--database", "sqlite", "--workers", "2", "--clients", "1"]
    driver = subprocess.Popen(
        command, cwd=ROOT, env={**_environment(), "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: len(_of_session_under(driver.pid)) >= 4, "the nursery, two workers and a client are there")
        everybody = _of_session_under(driver.pid)
    finally:
        driver.kill()
        driver.wait()
    until(lambda: not [pid for pid in everybody if _is_alive(pid)], "they are gone")


def test_sittings_add_up() -> None:
    line = {
        "database": "sqlite",
        "sound": True,
        "seconds": 60.0,
        "faults": {"worker_kill": 3},
        "calls": {"ok": 5},
        "violations": {},
        "recovery_seconds": 2.5,
        **dict.fromkeys(ADDED, 1),
    }
    broken = line | {"sound": False, "recovery_seconds": None, "violations": {"gap": 2}, "faults": {"worker_pause": 1}}
    sums = add_up([line, broken, line | {"database": "postgres"}])
    assert sums.keys() == {"sqlite", "postgres"}
    assert (sums["sqlite"]["episodes"], sums["sqlite"]["unsound"], sums["sqlite"]["runs"]) == (2, 1, 2)
    assert sums["sqlite"]["faults"] == {"worker_kill": 3, "worker_pause": 1}
    assert sums["sqlite"]["violations"] == {"gap": 2}
    assert sums["sqlite"]["slowest_recovery"] == 60.0


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 40
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def _of_session_under(driver: int) -> set[int]:
    """The nursery of a driver, and its children."""
    parents = {pid: parent for pid, parent, _ in _processes()}
    nurseries = {pid for pid, parent in parents.items() if parent == driver}
    return nurseries | {pid for pid, parent in parents.items() if parent in nurseries}


def _processes() -> list[tuple[int, int, str]]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # it has just ended
            continue
        state, parent = text.rpartition(")")[2].split()[:2]
        found.append((int(stat.parent.name), int(parent), state))
    return found


def _is_alive(pid: int) -> bool:
    return any(pid == other and state != "Z" for other, _, state in _processes())
