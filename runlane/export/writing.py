"""Writing an export: the canonical lines into a file beside the target, then the format asked for, then the names.

Until everything is written, PATH does not exist.  What stands beside it meanwhile is enough to go on: ``PATH.partial``
holds the lines so far, and ``PATH.partial.json`` what was asked and of which moment of the log.  Every format is made
of the canonical lines in one pass, so that whatever was interrupted ends in the same bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import orjson
from attrs import evolve, frozen

from runlane.clock import Clock
from runlane.errors import ConfigurationInvalid, StorageUnavailable
from runlane.export import formats, manifest
from runlane.export.formats import Envelope
from runlane.export.manifest import Manifest
from runlane.export.signing import Signer
from runlane.storage import epochs, extracts
from runlane.storage.database import Database
from runlane.storage.tables import VERSION, instant_to_text
from runlane.storage.transaction import Transaction

#: Of each line's SHA-256, in the file of line digests: enough to tell which line was changed.
DIGEST = 8
_BUFFER = 1024 * 1024
#: Events between two reports of progress.
_STEP = 1000

Progress = Callable[[int], None]


@frozen
class Asked:
    """What to export.

    Args:
        path: the data file to be.
        environment, since: which events.
        format: one of ``formats.FORMATS``.
        made_by: for whom, as the manifest tells.
        signer: signs the manifest.
        resume: go on where an interrupted export of the same ended, if there is one.
    """

    path: Path
    environment: str
    made_by: str
    format: str = formats.CANONICAL
    since: datetime | None = None
    signer: Signer | None = None
    resume: bool = False

    @property
    def partial(self) -> Path:
        """The lines so far."""
        return self._beside(".partial")

    @property
    def plan(self) -> Path:
        """What was asked, and of which moment."""
        return self._beside(".partial.json")

    @property
    def digests(self) -> Path:
        """The digests of the lines so far."""
        return self._beside(".partial.lines")

    @property
    def converted(self) -> Path:
        """The data file while it is made of the lines."""
        return self._beside(".partial.data")

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)


@frozen
class Plan:
    """What has to be the same when an export is resumed."""

    environment: str
    format: str
    since: str | None
    horizon: str
    made_at: str
    made_by: str
    export_version: int = manifest.VERSION
    epoch: str = ""

    def dumps(self) -> bytes:
        """The text of its file."""
        return orjson.dumps({name: getattr(self, name) for name in Plan.__annotations__})


def write(database: Database, clock: Clock | None, asked: Asked, progress: Progress | None = None) -> Manifest:
    """Export, and return the manifest.

    Raises:
        ConfigurationInvalid: what is asked for is not possible; nothing was written.
        StorageUnavailable: the database or the disk failed on the way; resume it.
    """
    if asked.path.exists():
        return _finished(asked)
    with _files(asked), _locked(asked.partial) as lines:
        if asked.path.exists():  # another process has finished it meanwhile
            asked.partial.unlink()
            return _finished(asked)
        try:
            with open(asked.digests, "wb", buffering=_BUFFER) as digests:
                tally = Tally(lines, digests)
                plan = _gather(database, clock, asked, tally, progress)
                tally.flush()
            return _finish(asked, plan, tally)
        except BaseException:
            if not asked.plan.exists():  # there is nothing to go on with
                _forget(asked)
            raise


def _finished(asked: Asked) -> Manifest:
    """The manifest of an export that lacked only the last step, to forget its plan."""
    if not (asked.resume and asked.plan.exists()):
        raise ConfigurationInvalid(f"{asked.path} exists already; exports are not written over each other")
    found = manifest.read(asked.path)
    _forget(asked)
    return found


@contextmanager
def _files(asked: Asked) -> Iterator[None]:
    """Say which file could not be written, and what then."""
    if not asked.path.parent.is_dir():
        raise ConfigurationInvalid(f"{asked.path} cannot be written: {asked.path.parent} is no folder")
    try:
        yield
    except OSError as error:
        what = error.filename or asked.path
        told = f"{what} cannot be written: {error.strerror or error}"
        if isinstance(error, PermissionError | IsADirectoryError):
            raise ConfigurationInvalid(told) from error
        raise StorageUnavailable(f"{told}; the export can be resumed") from error


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """The file of lines, ours alone."""
    while True:
        with open(partial, "a+b", buffering=_BUFFER) as lines:
            try:
                fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationInvalid(f"another process is writing {partial}") from None
            if _is_at(lines, partial):
                yield lines
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file still has this name: who had it locked before may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class Tally:
    """The lines that were written so far, and what the manifest will say of them."""

    def __init__(self, lines: BinaryIO, digests: BinaryIO) -> None:
        self.lines = lines
        self.digests = digests
        self.events, self.streams, self.bytes = 0, 0, 0
        self.by_type: Counter[str] = Counter()
        self.sha256, self.lines_sha256 = hashlib.sha256(), hashlib.sha256()
        self.first_at: str | None = None
        self.last_at: str | None = None
        self.last: tuple[str, int] | None = None

    def write(self, event: Envelope) -> None:
        """Write an event's line, and count it."""
        raw = formats.line(event)
        self.lines.write(raw)
        self._count(event, raw)

    def read_again(self) -> None:
        """Count the lines that an earlier process left, and cut off the last one if it is not whole."""
        self.lines.seek(0)
        for raw in formats.lines(self.lines):
            try:
                event = formats.parse(raw)
            except formats.Malformed:
                break
            if self.last is not None and event.place <= self.last:
                break
            self._count(event, raw)
        self.lines.seek(self.bytes)
        self.lines.truncate()

    def begin(self) -> None:
        """Forget what an earlier process left."""
        self.lines.seek(0)
        self.lines.truncate()

    def flush(self) -> None:
        """Have everything on the disk."""
        self.lines.flush()
        os.fsync(self.lines.fileno())

    def _count(self, event: Envelope, raw: bytes) -> None:
        self.events += 1
        self.streams += self.last is None or self.last[0] != event.stream_id
        self.last = event.place
        self.by_type[event.type] += 1
        self.bytes += len(raw)
        self.sha256.update(raw)
        digest = hashlib.sha256(raw).digest()[:DIGEST]
        self.digests.write(digest)
        self.lines_sha256.update(digest)
        at = event.occurred_at
        self.first_at = at if self.first_at is None else min(at, self.first_at)
        self.last_at = at if self.last_at is None else max(at, self.last_at)


def _gather(database: Database, clock: Clock | None, asked: Asked, tally: Tally, progress: Progress | None) -> Plan:
    """Write the lines that are not there yet."""
    with database.snapshot() as tx:
        plan = _resumed(tx, asked) if asked.resume and asked.plan.exists() else None
        earlier = None if plan is None else plan.horizon
        if plan is None:
            plan = _begun(evolve(tx, clock=clock), asked)
            tally.begin()
        else:
            tally.read_again()
        last = None if tally.last is None else (UUID(tally.last[0]), tally.last[1])
        with closing(extracts.read(tx, asked.environment, earlier, asked.since, last)) as rows:
            for row in rows:
                tally.write(formats.envelope(row))
                if progress is not None and tally.events % _STEP == 0:
                    progress(tally.events)
    if progress is not None:
        progress(tally.events)
    return plan


def _begun(tx: Transaction, asked: Asked) -> Plan:
    plan = Plan(
        asked.environment,
        asked.format,
        _text(asked.since),
        extracts.horizon(tx),
        instant_to_text(tx.now()),
        asked.made_by,
        epoch=epochs.token(tx),
    )
    put(asked.plan, plan.dumps())
    return plan


def _resumed(tx: Transaction, asked: Asked) -> Plan:
    """The plan of the export that is to be resumed.

    Raises:
        ConfigurationInvalid: it was another export, or the log no longer has what it speaks of.
    """
    try:
        plan = Plan(**orjson.loads(asked.plan.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ConfigurationInvalid(f"{asked.plan} is no plan of an export: {error}; export anew") from error
    mine: dict[str, Any] = {"environment": asked.environment, "format": asked.format, "since": _text(asked.since)}
    for name, value in (mine | {"export_version": manifest.VERSION}).items():
        if getattr(plan, name) != value:
            raise ConfigurationInvalid(
                f"the interrupted export has {name} {getattr(plan, name)!r}, not {value!r}; "
                "ask for the same, or export anew"
            )
    if not epochs.is_still(tx, plan.epoch):
        raise ConfigurationInvalid("the database was restored since this export was interrupted; export anew")
    if extracts.pruned_since(tx, asked.environment, plan.horizon):
        raise ConfigurationInvalid("runs were pruned since this export was interrupted; export anew")
    return plan


def _finish(asked: Asked, plan: Plan, tally: Tally) -> Manifest:
    """Make the data file of the lines, describe it, and give everything its name; the data file last."""
    canonical = asked.format == formats.CANONICAL
    if canonical:
        data, size, sha256 = asked.partial, tally.bytes, tally.sha256.hexdigest()
    else:
        data = asked.converted
        with asked.partial.open("rb") as lines:
            formats.convert(asked.format, lines, data)
        with data.open("rb+") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            os.fsync(file.fileno())
    told = described(plan, tally, size, sha256, tally.lines_sha256.hexdigest() if canonical else None)
    told = signed(told, asked.signer)
    put(manifest.path_of(asked.path), told.dumps())
    if canonical:
        asked.digests.replace(manifest.lines_of(asked.path))
    data.replace(asked.path)
    _forget(asked)
    return told


def described(plan: Plan, tally: Tally, size: int, sha256: str, lines_sha256: str | None) -> Manifest:
    """The manifest of what was written, unsigned."""
    return Manifest(
        manifest.VERSION,
        plan.format,
        plan.environment,
        _instant(plan.since),
        tally.events,
        tally.streams,
        dict(sorted(tally.by_type.items())),
        size,
        sha256,
        tally.sha256.hexdigest(),
        lines_sha256,
        _instant(tally.first_at),
        _instant(tally.last_at),
        version("runlane"),
        VERSION,
        datetime.fromisoformat(plan.made_at).astimezone(UTC),
        plan.made_by,
    )


def signed(told: Manifest, signer: Signer | None) -> Manifest:
    """The manifest with the signature, if there is to be one."""
    if signer is None:
        return told
    told = evolve(told, key=signer.fingerprint)
    return evolve(told, signature=signer.sign(told.canonical()))


def _forget(asked: Asked) -> None:
    """Remove what was only needed on the way; the plan last, as it says that there is something to resume."""
    for path in (asked.partial, asked.digests, asked.converted, asked.plan):
        path.unlink(missing_ok=True)


def put(path: Path, data: bytes) -> None:
    """Write a small file as a whole or not at all."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _text(at: datetime | None) -> str | None:
    return None if at is None else instant_to_text(at)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
