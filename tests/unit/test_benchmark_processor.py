"""CPU time of process trees, and of the server behind a database."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.processor import Shares, server_of, used_by
from runlane import Runlane, sqlite_lane

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")

_SPIN = "import time\nwhile time.process_time() < 0.2: pass"


def test_a_child_counts_while_it_lives_and_when_it_has_ended() -> None:
    before = used_by({os.getpid()})
    with subprocess.Popen([sys.executable, "-c", _SPIN + "\nprint(flush=True)\ninput()"], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert used_by({os.getpid()}) - before >= 0.17
        assert used_by({child.pid}) >= 0.17
        child.communicate(b"\n")
    assert used_by({os.getpid()}) - before >= 0.17


def test_others_do_not_count() -> None:
    shares = Shares(os.getppid())
    before = used_by({os.getpid()})
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as child:
        alone = Shares(child.pid)
        while used_by({os.getpid()}) - before < 0.1:
            time.process_time()
        assert (alone.server_s() or 0.0) < 0.1
        child.communicate(b"\n")
    assert (shares.server_s() or 0.0) >= 0.08


def test_sqlite_has_no_server(tmp_path: Path) -> None:
    with Runlane(sqlite_lane(f"sqlite:///{tmp_path}/runs.db")) as app:
        assert server_of(app) is None
    assert Shares(None).per_run(10) == {}
