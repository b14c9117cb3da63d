"""A real PgBouncer before the tests' server; ``RUNLANE_TEST_PGBOUNCER`` names a binary that is not on the path."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.chaos.nursery import die_with_parent
from tests.support import eventually

#: Debian has it where only root's path leads.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
BINARY = os.environ.get("RUNLANE_TEST_PGBOUNCER") or shutil.which("pgbouncer", path=_PATH)
needs_pgbouncer = pytest.mark.skipif(BINARY is None, reason="pgbouncer is not installed")


@cache
def version() -> tuple[int, ...]:
    """Which release the binary is; (0,) if there is none."""
    if BINARY is None:
        return (0,)
    told = subprocess.run([BINARY, "--version"], check=True, capture_output=True, text=True, timeout=10).stdout
    found = re.search(r"(\d+)\.(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2])


class Bouncer:
    """One PgBouncer that runs: how clients reach it, and what it says of itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def url(self, database: str, **query: str) -> str:
        """A database of the server behind it, by its URL there or by its name."""
        name = make_url(database).database if "://" in database else database
        made = make_url(f"postgresql://postgres@/{name}").update_query_dict({"host": str(self._folder), "port": "6432"})
        return made.update_query_dict(query).render_as_string(hide_password=False)

    def asked(self, statement: str) -> list[dict[str, Any]]:
        """What its console answers."""
        with psycopg.connect(self.url("pgbouncer"), autocommit=True) as connection:
            done = connection.execute(statement.encode())
            names = [column.name for column in done.description or ()]
            return [dict(zip(names, row, strict=True)) for row in (done.fetchall() if names else ())]


@contextmanager
def bouncer(server_url: str, *, host: str | None = None, port: int | None = None, **settings: Any) -> Iterator[Bouncer]:
    """A PgBouncer before the server of this URL.

    Args:
        host, port: another way to that server.
        settings: of pgbouncer.ini, in transaction mode with three connections to the server unless they say otherwise.
    """
    assert BINARY is not None
    server = make_url(server_url)
    place = server.host or str(server.query.get("host", "localhost"))
    behind = {"host": host or place, "port": port or server.port or 5432, "user": server.username or "postgres"}
    if server.password:
        behind["password"] = server.password
    with tempfile.TemporaryDirectory(prefix="runlane-pgb-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        own = {
            "pool_mode": "transaction",
            "default_pool_size": 3,
            "max_client_conn": 200,
            "query_wait_timeout": 30,
            "ignore_startup_parameters": "options",
            "auth_type": "any",
            "admin_users": "postgres",
            "listen_addr": "",
            "listen_port": 6432,
            "unix_socket_dir": folder,
            "logfile": folder / "pgbouncer.log",
        }
        lines = [f"{name} = {value}" for name, value in (own | settings).items()]
        target = " ".join(f"{name}='{value}'" for name, value in behind.items())
        (folder / "pgbouncer.ini").write_text("\n".join(["[databases]", f"* = {target}", "[pgbouncer]", *lines, ""]))
        who = _somebody(place)
        if who:
            os.chown(folder, who["user"], who["group"])
        folder.chmod(0o755)
        process = subprocess.Popen(
            [BINARY, "-q", str(folder / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
            **who,
        )
        try:
            running = Bouncer(folder)
            eventually(lambda: process.poll() is not None or _answers(running), "PgBouncer's console")
            assert process.poll() is None, (folder / "pgbouncer.log").read_text()
            yield running
        finally:
            process.kill()
            process.wait()


def _somebody(place: str) -> dict[str, Any]:
    """As whom it runs where we are root, which it refuses to be: whoever may reach the server's socket."""
    if os.geteuid() != 0:
        return {}
    if place.startswith("/"):
        owner = Path(place).stat()
        if owner.st_uid:
            return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _answers(running: Bouncer) -> bool:
    try:
        return bool(running.asked("show version"))
    except psycopg.OperationalError:
        return False
