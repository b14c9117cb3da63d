"""A real PgBouncer before the tests' server; ``RUNLANE_TEST_PGBOUNCER`` names a binary that is not on the path."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.chaos.nursery import die_with_parent

#: Debian has it where only root's path leads.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
BINARY = os.environ.get("RUNLANE_TEST_PGBOUNCER") or shutil.which("pgbouncer", path=_PATH)
#: Seconds that it gets to start, on a machine that has much else to do.
_PATIENCE = 60.0
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
    """A PgBouncer before the server of a URL: how clients reach it, and what it says of itself.

    It dies with the thread that started it.

    Args:
        folder: a new one, for its files and its socket.
        host, port: another way to that server.
        settings: of pgbouncer.ini, in transaction mode with three connections to the server unless they say otherwise.
    """

    def __init__(
        self, folder: Path, server_url: str, *, host: str | None = None, port: int | None = None, **settings: Any
    ) -> None:
        server = make_url(server_url)
        place = server.host or str(server.query.get("host", "localhost"))
        behind = {"host": host or place, "port": port or server.port or 5432, "user": server.username or "postgres"}
        if server.password:
            behind["password"] = server.password
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
        self._folder = folder
        self._who = _somebody(place)
        if self._who:
            os.chown(folder, self._who["user"], self._who["group"])
        folder.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        assert BINARY is not None
        if self._process is None:
            self._process = subprocess.Popen(
                [BINARY, "-q", str(self._folder / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=lambda: die_with_parent(signal.SIGKILL),
                **self._who,
            )
        deadline = time.monotonic() + _PATIENCE
        while self._process.poll() is None and not self._answers():
            assert time.monotonic() < deadline, f"PgBouncer's console does not answer within {_PATIENCE:g} s"
            time.sleep(0.01)
        assert self._process.poll() is None, (self._folder / "pgbouncer.log").read_text()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def url(self, database: str, **query: str) -> str:
        """A database of the server behind it, by its URL there or by its name."""
        name = make_url(database).database if "://" in database else database
        made = make_url(f"postgresql://postgres@/{name}").update_query_dict({"host": str(self._folder), "port": "6432"})
        return made.update_query_dict(query).render_as_string(hide_password=False)

    def console(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection to itself; close it."""
        return psycopg.connect(self.url("pgbouncer", connect_timeout="5"), autocommit=True)

    def asked(self, statement: str) -> list[dict[str, Any]]:
        """What its console answers."""
        with self.console() as connection:
            done = connection.execute(statement.encode())
            names = [column.name for column in done.description or ()]
            return [dict(zip(names, row, strict=True)) for row in (done.fetchall() if names else ())]

    def _answers(self) -> bool:
        try:
            return bool(self.asked("show version"))
        except psycopg.OperationalError:
            return False


@contextmanager
def bouncer(server_url: str, **more: Any) -> Iterator[Bouncer]:
    """One that runs, with a folder of its own; `more` as ``Bouncer`` has it."""
    with tempfile.TemporaryDirectory(prefix="runlane-pgb-", ignore_cleanup_errors=True) as made:
        running = Bouncer(Path(made), server_url, **more)
        try:
            running.start()
            yield running
        finally:
            running.kill()


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
