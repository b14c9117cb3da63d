"""SQLite: the library, the file and the disk below it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from runlane.health import Check, Health
from runlane.storage.health import Look
from runlane.storage.spans import counted, percent, size
from runlane.storage.tables import instant_to_text

#: Where one machine's locks and shared memory are nothing to another.
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs")
_NETWORK_OF_FUSE = ("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse")
#: Where the locks may or may not be those of one machine: folders of a host shown to a guest.
_SHARED = ("9p", "virtiofs", "vboxsf", "fuse.vmhgfs-fuse", "fuse.osxfs", "fuse.grpcfuse")
_SYNCHRONOUS = {0: "off", 1: "normal", 2: "full", 3: "extra"}


def has_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether a SQLite of this version may destroy a file when its write-ahead log is reset (sqlite.org/wal.html)."""
    if version[:2] == (3, 44):
        return version < (3, 44, 6)
    if version[:2] == (3, 50):
        return version < (3, 50, 7)
    return (3, 7) <= version < (3, 51, 3)


def _version() -> tuple[int, ...]:
    return tuple(map(int, sqlite3.sqlite_version.split(".")))


def lane(look: Look) -> Check:
    """The memory lane: nothing of it outlives the process."""
    told = "the memory lane: everything is gone when the process ends, and no other process sees it"
    return Check("lane", Health.OK, told, None, {"sqlite": sqlite3.sqlite_version})


def library(look: Look) -> Check:
    """The version of SQLite, and whether its fault can be met here: it takes two connections that write at once."""
    version = sqlite3.sqlite_version
    others = _others(_file(look))
    alive = look.asked("select count(*) from sessions where expires_at > ?", (instant_to_text(look.now()),))[0][0]
    values = {"version": version, "affected": has_reset_bug(_version()), "processes": others, "workers": alive}
    if not values["affected"]:
        return Check("library", Health.OK, f"SQLite {version}", None, values)
    using = max(alive, (others or 0) + look.is_used)
    if using < 2:
        # In one process write transactions, and with them checkpoints, come one at a time (Database.writer).
        here = "one process uses the file" if using > look.is_used else "no second process is here"
        told = f"SQLite {version}; its WAL-reset bug takes two who write at once, and {here}"
        return Check("library", Health.OK, told, None, values)
    several = counted(using, "process") + "es"
    return Check(
        "library",
        Health.WARNING,
        f"SQLite {version} has the WAL-reset bug: with several processes on the file (now {several}) it may, very"
        " seldom, be damaged",
        "use a Python whose SQLite is 3.51.3 or newer (or 3.50.7, 3.44.6); until then let one process write, or use"
        " PostgreSQL",
        values,
    )


def _others(file: Path) -> int | None:
    """How many other processes have the file open, of those that this user may look at; None if nobody can tell."""
    try:
        wanted, processes = file.stat(), [entry for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return None
    found = 0
    for process in processes:
        if process == str(os.getpid()):
            continue
        try:
            with os.scandir(f"/proc/{process}/fd") as descriptors:
                found += any(os.path.samestat(wanted, one.stat()) for one in descriptors)
        except OSError:
            continue  # it is somebody else's, or has just ended
    return found


def _file(look: Look) -> Path:
    """The file, as SQLite itself names it."""
    return Path(next(row[2] for row in look.asked("pragma database_list") if row[1] == "main"))


def journal(look: Look) -> Check:
    """The journal mode of the file, and when our connections let the disk write."""
    mode = str(look.asked("pragma journal_mode")[0][0])
    synchronous = _SYNCHRONOUS.get(look.asked("pragma synchronous")[0][0], "unknown")
    values = {"journal_mode": mode, "synchronous": synchronous}
    if mode != "wal":
        told = f"the journal mode is {mode}, not wal: readers and writers wait for each other"
        advice = (
            "close what holds the file and start again: each connection of Runlane asks for wal; and see file_system"
        )
        return Check("journal", Health.WARNING, told, advice, values)
    if synchronous in ("full", "extra"):
        return Check("journal", Health.OK, f"write-ahead log, synchronous {synchronous}", None, values)
    lost = "a loss of power may take the last commits"
    if look.database.chose_speed and synchronous == "normal":
        told = f"write-ahead log, synchronous {synchronous}, as this program has chosen: {lost}"
        return Check("journal", Health.OK, told, None, values)
    told = f"synchronous is {synchronous}: {lost}"
    return Check("journal", Health.WARNING, told, "leave synchronous_commit=True to the lane", values)


def wal_file(look: Look) -> Check:
    """The size of the write-ahead log: it grows while a reader keeps it from being taken over."""
    file = _file(look)
    wal = file.with_name(file.name + "-wal")
    number = wal.stat().st_size if wal.exists() else 0
    status = look.thresholds.wal_file.judge(number)
    told = f"the write-ahead log has {size(number)}"
    if status is Health.OK:
        return Check("wal_file", status, told, None, {"bytes": number})
    told += ": a reader has been open for long, or there was one while much was written"
    advice = "end long reads (backups, consoles, audit verify), then `sqlite3 FILE 'pragma wal_checkpoint(truncate)'`"
    return Check("wal_file", status, told, advice, {"bytes": number})


def disk(look: Look) -> Check:
    """The room that is left for the file."""
    file = _file(look)
    free = shutil.disk_usage(file.parent).free
    status = look.thresholds.disk.judge_low(free)
    values = {"free": free, "bytes": file.stat().st_size}
    told = f"{size(free)} are free on the disk; the file has {size(values['bytes'])}"
    advice = "make room; `runlane runs prune --older-than 90d` shortens the log, for new rows to take its place"
    return Check("disk", status, told, None if status is Health.OK else advice, values)


def file_system(look: Look) -> Check:
    """Whether the file lies where other machines can open it, which neither locks nor the log survive."""
    folder = _file(look).resolve().parent
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return Check("file_system", Health.OK, "this system does not tell what the file lies on", None, {"type": None})
    kind = mounted_as(mounts.read_text("utf-8", "replace"), str(folder))
    values = {"type": kind}
    if kind in _NETWORK + _NETWORK_OF_FUSE:
        told = f"the file lies on {kind}, a network file system: writers on two machines destroy it"
        return Check("file_system", Health.CRITICAL, told, "move it to a local disk, or use PostgreSQL", values)
    if kind in _SHARED:
        told = f"the file lies on {kind}, a folder shared with another system: never open it on both sides"
        return Check("file_system", Health.WARNING, told, "move it to a local disk of this system", values)
    return Check("file_system", Health.OK, f"the file lies on {kind or 'an unknown file system'}", None, values)


def mounted_as(mounts: str, folder: str) -> str | None:
    """The type of the file system that a folder is on; `mounts` is the text of ``/proc/mounts``."""
    best, found = -1, None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # the last one of a place lies over those before it
            best, found = len(point), fields[2]
    return found


def free_pages(look: Look) -> Check:
    """Pages of the file that hold nothing, for instance after much was pruned."""
    thresholds = look.thresholds
    pages, free, each = (look.asked(f"pragma {name}")[0][0] for name in ("page_count", "freelist_count", "page_size"))
    part = free / pages if pages else 0.0
    values = {"pages": pages, "free": free, "page_size": each}
    large = pages * each >= thresholds.free_pages_least
    status = thresholds.free_pages.at_most_warning().judge(part) if large else Health.OK
    told = f"{percent(part)} of the file's {size(pages * each)} hold nothing"
    advice = "new rows take it; to give it back to the disk, stop all processes and `sqlite3 FILE vacuum`"
    return Check("free_pages", status, told, None if status is Health.OK else advice, values)
