"""Archives of pruned runs: on the disk before anything goes, and each proves itself against what the log tells."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from runlane import Actor, ConfigurationInvalid, Runlane, RunStatus, SettableClock, StorageUnavailable
from runlane.decisions import environment_stream
from runlane.errors import InvariantViolation
from runlane.events import RunsPruned
from runlane.export import archiving, formats, import_events, manifest, replay
from runlane.storage import prune as storage_prune
from runlane.storage import streams
from tests.engine.tasks import echo
from tests.support import database_of

ANN = Actor.operator("ann")


@pytest.fixture
def app(lane_url: str, clock: SettableClock) -> Iterator[Runlane]:
    """Three ended runs, and one that waits, on each lane in turn."""
    with Runlane(lane_url, tasks=[echo], clock=clock) as made:
        yield filled(made, clock)
        assert made.audit.verify().identical


@pytest.fixture
def here(clock: SettableClock) -> Iterator[Runlane]:
    """The same where the database does not matter."""
    with Runlane("memory:", tasks=[echo], clock=clock) as made:
        yield filled(made, clock)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "archives"
    made.mkdir()
    return made


def filled(app: Runlane, clock: SettableClock, runs: int = 3) -> Runlane:
    for n in range(runs):
        app.run_now(echo, {"n": n})
    app.trigger(echo, {"later": True}, delay="90d")
    clock.advance(timedelta(hours=1))
    return app


def told(app: Runlane) -> list[RunsPruned]:
    with database_of(app).read() as tx:
        return [record.event for record in streams.read_stream(tx, environment_stream(app.environment))]


def ended(app: Runlane) -> int:
    return app.runs.count(statuses=["succeeded"]).get(RunStatus.SUCCEEDED, 0)


def ids_in(path: Path) -> set[UUID]:
    with path.open("rb") as file:
        return {UUID(formats.parse(raw).stream_id) for raw in formats.lines(file)}


def data_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def test_what_is_removed_is_kept_and_each_proves_the_other(app: Runlane, folder: Path) -> None:
    ended = {run.id: run for run in app.runs.list(statuses=["succeeded"]).data}
    done = app.runs.prune("1m", archive=folder, actor=ANN, reason="as agreed")
    assert done.archive is not None
    path = Path(done.archive)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (path.parent, path.stem) == (folder, digest)
    (event,) = told(app)
    assert (event.archive, event.reason, event.runs) == (digest, "as agreed", 3)
    assert ids_in(path) == set(ended)
    found = replay(path)
    assert (found.clean, found.events, found.manifest.made_by) == (True, done.events, "operator:ann")
    checked = app.audit.archives(folder)
    assert (checked.intact, checked.untold, checked.unarchived) == (True, (), 0)
    (kept,) = checked.kept
    assert (kept.digest, kept.path, kept.runs, kept.events, kept.actor) == (digest, path, 3, done.events, ANN)
    assert app.audit.archives(path) == checked
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        [path.name, manifest.path_of(path).name, manifest.lines_of(path).name]
    )


def test_an_archive_can_be_read_again_elsewhere(app: Runlane, folder: Path, tmp_path: Path) -> None:
    run = app.runs.list(statuses=["succeeded"]).data[0]
    history = app.runs.events(run.id)
    path = app.runs.prune("1m", archive=str(folder)).archive
    assert path is not None
    copy = f"sqlite:///{tmp_path / 'copy.db'}"
    import_events(path, copy)
    with Runlane(copy) as other:
        assert other.runs.get(run.id) == run
        assert [one.event for one in other.runs.events(run.id)] == [one.event for one in history]


def test_batches_have_an_archive_each_and_prunes_without_one_are_counted(
    lane_url: str, clock: SettableClock, folder: Path
) -> None:
    with Runlane(lane_url, tasks=[echo], clock=clock) as app:
        app.trigger_many(echo, [{"n": n} for n in range(230)])
        app.runs.cancel_many(limit=230)
        clock.advance(timedelta(hours=1))
        cursor, archives = None, []
        for limit, kept in ((130, folder), (80, folder), (10, None), (100, folder)):
            done = app.runs.prune("1m", limit=limit, cursor=cursor, archive=kept)
            cursor = done.next_cursor
            archives.append(done.archive)
        assert [archive is None for archive in archives] == [False, False, True, False]
        assert [event.runs for event in told(app)] == [100, 30, 80, 10, 10], "one event tells of a hundred at most"
        found = app.audit.archives(folder)
        assert found.intact
        assert [one.runs for one in found.kept] == [130, 80, 10]
        assert found.unarchived == 10


def test_where_nothing_goes_nothing_is_written(app: Runlane, folder: Path) -> None:
    assert app.runs.prune("30d", archive=folder).archive is None
    assert app.runs.prune("1m", archive=folder, dry_run=True).runs == 3
    assert (list(folder.iterdir()), told(app)) == ([], [])
    assert app.audit.archives(folder).kept == ()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no folder": ({"archive": "nowhere/at/all"}, "nowhere/at/all is no folder; make it first"),
    "a file": ({"archive": __file__}, "is no folder"),
    "nothing": ({"archive": ""}, "must be the path of a folder"),
    "a number": ({"archive": 1}, "must be the path of a folder"),
    "a key alone": ({"key": "audit.pem"}, "say into which folder"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_not_valid_is_refused_before_storage_is_touched(bad: str) -> None:
    options, message = BAD[bad]
    app = Runlane("sqlite:////nowhere/at/all.db", tasks=[echo])
    with pytest.raises(ConfigurationInvalid, match=message):
        app.runs.prune("1d", **options)


def test_a_key_that_is_none_is_refused(here: Runlane, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"no\.pem"):
        here.runs.prune("1m", archive=folder, key=tmp_path / "no.pem")
    for path, options in ((tmp_path / "nothing", {}), (folder, {"public_key": tmp_path / "no.pem"})):
        with pytest.raises(ConfigurationInvalid, match=r"neither a folder|no\.pem"):
            here.audit.archives(path, **options)
    assert (told(here), list(folder.iterdir())) == ([], [])


# Durable first.


def test_it_is_on_the_disk_before_anything_is_removed(
    app: Runlane, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync, remove = os.fsync, storage_prune.remove

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def looking(*arguments: Any) -> Any:
        (path,) = data_files(folder)
        assert replay(path).clean
        assert synced[-1] == str(folder)
        assert len(set(synced)) == 4, "data, digests of lines, manifest, folder"
        return remove(*arguments)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(storage_prune, "remove", looking)
    assert app.runs.prune("1m", archive=folder).runs == 3


def test_what_is_not_removed_after_all_leaves_an_archive_too_many(
    app: Runlane, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise InvariantViolation("not now")

    with monkeypatch.context() as patched:
        patched.setattr(storage_prune, "remove", fail)
        with pytest.raises(InvariantViolation):
            app.runs.prune("1m", archive=folder)
    (left,) = data_files(folder)
    assert ended(app) == 3
    found = app.audit.archives(folder)
    assert (found.intact, found.kept, found.untold) == (True, (), (left,))
    done = app.runs.prune("1m", archive=folder)
    assert done.archive == str(left), "the same histories make the same file"
    found = app.audit.archives(folder)
    assert (found.intact, len(found.kept), found.untold) == (True, 1, ())


_DIES = """
import os, sys
from runlane import Runlane
from runlane.storage import prune
prune.remove = lambda *_: os._exit(9)
with Runlane(sys.argv[1]) as app:
    app.runs.prune("1ms", archive=sys.argv[2])
"""


def test_a_process_that_dies_in_between_has_lost_nothing(sqlite_url: str, folder: Path) -> None:
    with Runlane(sqlite_url, tasks=[echo]) as app:
        filled(app, SettableClock())
        done = subprocess.run([sys.executable, "-c", _DIES, sqlite_url, str(folder)], timeout=60, check=False)
        assert done.returncode == 9
        assert (ended(app), told(app)) == (3, [])
        (left,) = data_files(folder)
        assert replay(left).clean
        assert app.runs.prune("1ms", archive=folder).archive == str(left)
        assert app.audit.archives(folder).intact


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_written_keeps_everything_where_it_is(
    app: Runlane, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    expected = ConfigurationInvalid if number == errno.EACCES else StorageUnavailable
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(expected, match=r"cannot be written: .*; nothing was removed"):
            app.runs.prune("1m", archive=folder)
    assert (ended(app), told(app), list(folder.iterdir())) == (3, [], [])


# What somebody does to them is found.


def _byte(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"n":1', b'"n":7', 1))


def _last_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def _a_run(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    gone = formats.parse(lines[0]).stream_id.encode()
    path.write_bytes(b"".join(line for line in lines if gone not in line))


def _everything(path: Path) -> None:
    """With a manifest of its own, as whoever forges one would do it: those of another export."""
    clock = SettableClock()
    with Runlane("memory:", tasks=[echo], clock=clock) as other:
        filled(other, clock)
        forged = other.runs.prune("1m", archive=path.parent).archive
    assert forged is not None
    for of in (Path, manifest.path_of, manifest.lines_of):
        of(Path(forged)).replace(of(path))


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte": (_byte, "has a digest that does not follow"),
    "the last line": (_last_line, "with event 2, and not as the log tells, 3"),
    "a whole run": (_a_run, "lacks run "),
    "another in its place": (_everything, "which the log does not tell of"),
    "the file": (Path.unlink, "is not there"),
    "the manifest": (lambda path: manifest.path_of(path).write_text("{}"), "is no manifest"),
    "no manifest": (lambda path: manifest.path_of(path).unlink(), "cannot be read"),
}


@pytest.mark.parametrize("harm", HARM)
def test_whatever_is_done_to_an_archive_is_found(here: Runlane, folder: Path, harm: str) -> None:
    done = here.runs.prune("1m", archive=folder).archive
    assert done is not None
    do, expected = HARM[harm]
    do(Path(done))
    found = here.audit.archives(folder)
    assert not found.intact
    assert any(expected in problem for problem in found.kept[0].problems), found.kept[0].problems
    by_sum = any("by its SHA-256" in problem for problem in found.kept[0].problems)
    assert by_sum is (harm in ("a byte", "the last line", "a whole run", "another in its place"))


def test_only_so_many_problems_are_told(here: Runlane, clock: SettableClock, folder: Path) -> None:
    filled(here, clock, 40)
    done = here.runs.prune("1m", archive=folder).archive
    assert done is not None
    Path(done).write_bytes(b"")
    assert len(here.audit.archives(folder).kept[0].problems) == 20


def test_an_archive_of_another_log_is_told_of_by_nobody(here: Runlane, folder: Path, tmp_path: Path) -> None:
    clock = SettableClock()
    with Runlane("memory:", tasks=[echo], clock=clock) as other:
        filled(other, clock)
        strange = other.runs.prune("1m", archive=folder).archive
    assert strange is not None
    found = here.audit.archives(strange)
    assert (found.kept, found.untold, found.intact) == ((), (Path(strange),), False)
    assert here.audit.archives(folder).intact, "of its own there is nothing that could be missing"


@pytest.mark.parametrize("harm", ["a byte", "the last line", "a whole run", "another in its place"])
def test_one_file_is_checked_against_what_the_log_tells_of_its_name(here: Runlane, folder: Path, harm: str) -> None:
    done = here.runs.prune("1m", archive=folder).archive
    assert done is not None
    do, expected = HARM[harm]
    do(Path(done))
    found = here.audit.archives(done)
    assert (found.intact, found.untold, len(found.kept)) == (False, (), 1)
    assert any(expected in problem for problem in found.kept[0].problems), found.kept[0].problems


def test_one_file_under_another_name_is_known_by_what_is_in_it(here: Runlane, folder: Path, tmp_path: Path) -> None:
    done = here.runs.prune("1m", archive=folder).archive
    assert done is not None
    copy = tmp_path / "copy.jsonl"
    for of in (Path, manifest.path_of, manifest.lines_of):
        of(copy).write_bytes(of(Path(done)).read_bytes())
    assert here.audit.archives(copy).intact
    _byte(copy)
    found = here.audit.archives(copy)
    assert (found.intact, found.kept, found.untold) == (False, (), (copy,))


def test_signed_archives(here: Runlane, folder: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "one")
    _, another = keys(tmp_path, "other")
    here.runs.prune("1m", archive=folder, key=private)
    assert here.audit.archives(folder, public_key=public).intact
    (kept,) = here.audit.archives(folder, public_key=another).kept
    assert "signed with another key" in kept.problems[0]


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_the_name_is_the_digest(folder: Path) -> None:
    assert archiving.path_of(folder, "ab").name == "ab.jsonl"
