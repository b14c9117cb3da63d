"""Real full disks: small ones are mounted in memory, which only root may do, and filled up under a working program."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from runlane import Runlane
from tests.chaos.server import OwnPostgres
from tests.faults.full_disk import check_full_disk
from tests.support import eventually

#: Debian has some commands where only root's path leads.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _write_all_that_fits(file: io.FileIO) -> None:
    for size in (65536, 4096):
        with suppress(OSError):
            while True:
                file.write(bytes(size))


class SmallDisk:
    """A file system of its own, as large as it was asked for."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def fill(self) -> None:
        """Leave not a single block."""
        with self._filler.open("ab", buffering=0) as file:
            _write_all_that_fits(file)
        assert os.statvfs(self.place).f_bavail == 0

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink()


@contextmanager
def small_disk(megabytes: int) -> Iterator[SmallDisk]:
    """A new one, gone at the end."""
    with _folder() as folder:
        place = folder / "disk"
        place.mkdir()
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
        mounted = subprocess.run(mounting, capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
        try:
            yield SmallDisk(place)
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


class Quota:
    """A part of a file system that may take so much, while the rest of it has room."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def fill(self) -> None:
        """Use it up."""
        with self._filler.open("ab", buffering=0) as file:
            _write_all_that_fits(file)
            with pytest.raises(OSError, match="Disk quota exceeded"):
                file.write(bytes(4096))

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink()
        _run("btrfs", "filesystem", "sync", str(self.place))


@contextmanager
def small_quota(megabytes: int) -> Iterator[Quota]:
    """A new one, on a Btrfs in a file, gone at the end: the quotas that most kernels can do, and that bind root too."""
    if shutil.which("mkfs.btrfs", path=_PATH) is None:
        pytest.skip("btrfs-progs are not installed")
    with _folder() as folder:
        image, place = folder / "image", folder / "disk"
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(256 * 2**20)  # it would not be smaller
        _run("mkfs.btrfs", "-q", str(image))
        mounted = subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
        try:
            part = place / "part"
            _run("btrfs", "quota", "enable", str(place))
            _run("btrfs", "subvolume", "create", str(part))
            _run("btrfs", "qgroup", "limit", f"{megabytes}M", str(part))
            yield Quota(part)
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def elsewhere(file: Path) -> Iterator[None]:
    """Have a file, which must not be there, on another file system."""
    with _folder() as folder:
        there = folder / file.name
        there.touch()
        file.touch()
        _run("mount", "--bind", str(there), str(file))
        try:
            yield
        finally:
            _run("umount", "--lazy", str(file))


def test_a_quota_under_a_sqlite_file_refuses_and_loses_nothing() -> None:
    """But for the index of its log, which SQLite maps into memory: Btrfs copies what is written there, and where that
    finds no room, the kernel ends the process (SIGBUS)."""
    with small_quota(8) as quota, elsewhere(quota.place / "runlane.db-shm"):
        check_full_disk(f"sqlite:///{quota.place / 'runlane.db'}", quota.fill, quota.free)


def test_a_full_disk_under_a_sqlite_file_refuses_and_loses_nothing() -> None:
    with small_disk(8) as disk:
        check_full_disk(f"sqlite:///{disk.place / 'runlane.db'}", disk.fill, disk.free)


def test_a_full_disk_under_the_tables_of_postgres_refuses_and_loses_nothing() -> None:
    """Its write-ahead log is elsewhere and has room."""
    with small_disk(64) as disk, _folder() as folder, _server(folder / "server") as server:
        tables = disk.place / "tables"
        tables.mkdir()
        owner = server.sockets.stat()
        os.chown(tables, owner.st_uid, owner.st_gid)
        server.execute(f"create tablespace small location '{tables}'")
        server.execute("create database small tablespace small")
        check_full_disk(_migrated(server, "small"), disk.fill, disk.free)


def test_a_full_disk_under_the_log_of_postgres_loses_nothing() -> None:
    """A server that cannot go on with its write-ahead log goes down, and is started again once there is room."""
    with small_disk(40) as disk, _folder() as folder, _server(folder / "server", disk.place / "wal") as server:
        server.execute("create database small")
        url = _migrated(server, "small")

        def free() -> None:
            eventually(lambda: server.has_ended, "the end of the server")
            disk.free()
            server.start()

        check_full_disk(url, disk.fill, free, goes_down=True)


def _migrated(server: OwnPostgres, database: str) -> str:
    app = Runlane(server.url(database))
    app.migrate()
    app.close()
    return server.url(database)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": _PATH})


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="runlane-disk-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextmanager
def _server(folder: Path, log: Path | None = None) -> Iterator[OwnPostgres]:
    """A server; with its write-ahead log elsewhere, if a place is named."""
    server = OwnPostgres(folder, fsync=False)
    try:
        if log is not None:
            there = folder / "data" / "pg_wal"
            subprocess.run(["cp", "-a", str(there), str(log)], check=True)
            shutil.rmtree(there)
            there.symlink_to(log)
        server.start()
        yield server
    finally:
        server.close()
