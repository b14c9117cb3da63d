"""Checking the log against what is stored: ``app.audit``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from uuid import UUID

from runlane import requests
from runlane.capabilities import Capability
from runlane.errors import RunNotFound
from runlane.export import Manifest, formats, writing
from runlane.export.signing import Signer
from runlane.runtime import Runtime
from runlane.storage import queries, replay
from runlane.storage.replay import Verification
from runlane.values import Actor, instant, run_id


class Audit:
    """Checking the log: ``app.audit``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def count(self) -> dict[str, int]:
        """How many events of each type the log holds for this environment; reads all of them."""
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.count")
        with self._runtime.reading() as tx:
            return queries.count_events(tx, self._runtime.environment)

    def verify(self, id: UUID | str | None = None, *, progress: Callable[[int], None] | None = None) -> Verification:
        """Fold the whole log of this environment (or one run's), and compare it field by field with what is stored.

        `progress` is called with the number of events folded so far.
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.verify")
        self._runtime.start()
        with self._runtime.database.snapshot() as tx:
            if id is None:
                return replay.verify(tx, self._runtime.environment, progress)
            wanted = run_id(id)
            found = replay.compare_run(tx, self._runtime.environment, wanted)
        if not found.events and not found.differences:
            raise RunNotFound(f"no run has the id {wanted} in environment {self._runtime.environment!r}")
        return found

    def export(
        self,
        path: str | Path,
        format: str = formats.CANONICAL,
        since: datetime | None = None,
        key: str | Path | None = None,
        *,
        resume: bool = False,
        actor: Actor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Manifest:
        """Write every event of this environment into a file, as of one moment, with a manifest beside it.

        Events come stream by stream, by stream id and then by sequence, so that a reader can fold one stream after the
        other; memory is constant.  Nothing has the name `path` before it is whole.

        Args:
            path: the data file; ``PATH.manifest.json`` tells of it, ``PATH.lines`` has the digests of lines of JSON.
            format: ``jsonl``, the canonical one, ``csv``, ``cloudevents`` or ``parquet``, which needs pyarrow.
            since: of runs, only those with an event at or after this instant, and of those all events.
            key: sign the manifest with this Ed25519 private key, a PEM file; needs the package cryptography.
            resume: go on with an interrupted export of the same, which ends in the identical files.
            actor: who asks; it stands in the manifest.
            progress: called with the number of events written so far.

        Raises:
            ConfigurationInvalid: an argument is not valid, the file exists, or a package is missing.
            StorageUnavailable: the database or the disk failed on the way; it can be resumed.
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.export")
        formats.require(format)
        asked = writing.Asked(
            Path(path),
            self._runtime.environment,
            requests.actor_of(actor).text,
            format,
            None if since is None else instant("since", since),
            None if key is None else Signer(key),
            resume,
        )
        self._runtime.start()
        return writing.write(self._runtime.database, self._runtime.clock, asked, progress)
