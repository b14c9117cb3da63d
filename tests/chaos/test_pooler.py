"""The faults of PgBouncer do what they are called: halted it lets nobody begin, killed it cuts everybody off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.bouncer import needs_pgbouncer
from tests.chaos.pooler import OwnBouncer
from tests.chaos.server import OwnPostgres
from tests.support import PATIENCE, eventually

pytestmark = needs_pgbouncer


@pytest.fixture
def pooler(tmp_path: Path) -> Iterator[OwnBouncer]:
    server = OwnPostgres(tmp_path / "server", fsync=False)
    try:
        server.start()
        server.execute("create database made")
        pooler = OwnBouncer(tmp_path / "pgbouncer", server, "made")
        yield pooler
        pooler.close()
    finally:
        server.close()


def test_a_halted_one_lets_transactions_end_and_begin_no_more(pooler: OwnBouncer) -> None:
    with psycopg.connect(pooler.url, prepare_threshold=None) as first, psycopg.connect(pooler.url) as second:
        first.execute("select 1")  # its transaction is open
        assert pooler.pause()
        assert not pooler.pause()
        got = threading.Event()

        def begin() -> None:
            second.execute("select 1")
            got.set()

        waiting = threading.Thread(target=begin)
        waiting.start()
        first.execute("select 2")
        first.commit()
        eventually(lambda: any(pool["cl_waiting"] for pool in pooler.bouncer.asked("show pools")), "who has to wait")
        assert not got.is_set()
        pooler.resume()
        assert got.wait(PATIENCE)
        waiting.join()


def test_a_killed_one_cuts_everybody_off_and_comes_back(pooler: OwnBouncer) -> None:
    with psycopg.connect(pooler.url) as connection:
        connection.execute("select 1")
        assert pooler.pause()
        pooler.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    pooler.start()
    with psycopg.connect(pooler.url) as connection:
        assert connection.execute("show enable_seqscan").fetchone() == ("off",), "as the documentation asks for"
    assert pooler.pause(), "it has not stayed halted"
    pooler.start()
