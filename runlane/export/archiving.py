"""Archives: the histories of runs that are about to be pruned, each batch an export of its own.

An archive has the form of any export in JSON Lines, so that it can be replayed and imported.  Its data file is named by
its SHA-256, which the ``environment.pruned`` events tell that removed the runs; so each of the two proves the other.

It is on the disk, with its folder, before the transaction that removes the runs commits.  If that does not happen, an
archive is left over that no event tells of; never is something removed that is not archived.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from attrs import evolve, frozen

from runlane.errors import ConfigurationInvalid, StorageUnavailable
from runlane.export import formats, manifest, writing
from runlane.export.signing import Signer
from runlane.pruning import Pruned
from runlane.shown import shown
from runlane.storage import extracts
from runlane.storage.tables import instant_to_text
from runlane.storage.transaction import Transaction

#: What names of data files end with.
SUFFIX = ".jsonl"
_BUFFER = 1024 * 1024


def path_of(folder: Path, digest: str) -> Path:
    """Where the archive with this SHA-256 stands."""
    return folder / f"{digest}{SUFFIX}"


@frozen
class Archive:
    """Where histories are kept, of which environment, for whom, and who signs for it."""

    folder: Path
    environment: str
    made_by: str
    signer: Signer | None = None

    def keep(self, tx: Transaction, ids: Sequence[UUID]) -> str:
        """Write the histories of these runs, whose ids ascend; the SHA-256 (hex) of the data file.

        Raises:
            ConfigurationInvalid, StorageUnavailable: the folder cannot be written; nothing is left of it.
        """
        partial = self.folder / f".{uuid4()}.partial"
        digests = partial.with_suffix(".lines")
        with _writing(self.folder, partial, digests):
            with open(partial, "xb", buffering=_BUFFER) as data, open(digests, "xb", buffering=_BUFFER) as lines:
                tally = writing.Tally(data, lines)
                for row in extracts.histories(tx, ids):
                    tally.write(formats.envelope(row))
                tally.flush()
                lines.flush()
                os.fsync(lines.fileno())
            return self._name(tx, tally, partial, digests)

    def _name(self, tx: Transaction, tally: writing.Tally, partial: Path, digests: Path) -> str:
        """Describe what was written, and give it its names, the data file last."""
        made_at = instant_to_text(tx.now())
        plan = writing.Plan(self.environment, formats.CANONICAL, None, "", made_at, self.made_by)
        digest = tally.sha256.hexdigest()
        told = writing.described(plan, tally, tally.bytes, digest, tally.lines_sha256.hexdigest())
        path = path_of(self.folder, digest)
        writing.put(manifest.path_of(path), writing.signed(told, self.signer).dumps())
        digests.replace(manifest.lines_of(path))
        partial.replace(path)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return digest

    def named(self, pruned: Pruned, digest: str) -> Pruned:
        """What a prune removed, with the file that it is kept in."""
        return evolve(pruned, archive=str(path_of(self.folder, digest)))


def into(folder: str | Path | None, environment: str, made_by: str, key: str | Path | None = None) -> Archive | None:
    """The archive that was asked for, if any.

    Raises:
        ConfigurationInvalid: there is no such folder, or the key cannot be used.
    """
    if folder is None:
        if key is not None:
            raise ConfigurationInvalid("key signs archives: say into which folder with archive")
        return None
    if not isinstance(folder, str | Path) or not str(folder):
        raise ConfigurationInvalid(f"archive must be the path of a folder; got {shown(folder)}")
    place = Path(folder)
    try:
        there = place.is_dir()
    except OSError:  # too long for a name
        there = False
    if not there:
        raise ConfigurationInvalid(f"archive {place} is no folder; make it first")
    return Archive(place, environment, made_by, None if key is None else Signer(key))


@contextmanager
def _writing(folder: Path, *partial: Path) -> Iterator[None]:
    """Say what could not be written, and leave nothing half made."""
    try:
        yield
    except OSError as error:
        told = f"the archive in {folder} cannot be written: {error.strerror or error}; nothing was removed"
        if isinstance(error, PermissionError):
            raise ConfigurationInvalid(told) from error
        raise StorageUnavailable(told) from error
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
