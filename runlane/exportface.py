"""What ``app.audit`` does with the log outside of its database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from runlane import requests
from runlane.capabilities import Capability
from runlane.export import Manifest, archives, formats, writing
from runlane.export.archives import Archives
from runlane.export.signing import Signer
from runlane.runtime import Runtime
from runlane.values import Actor, file_path, instant


class Exports:
    """The part of ``Audit`` that writes exports, and checks those of what was pruned."""

    _runtime: Runtime

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
            file_path("path", path),
            self._runtime.environment,
            requests.actor_of(actor).text,
            format,
            None if since is None else instant("since", since),
            None if key is None else Signer(key),
            resume,
        )
        self._runtime.start()
        return writing.write(self._runtime.database, self._runtime.clock, asked, progress)

    def archives(
        self,
        path: str | Path,
        *,
        public_key: str | Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Archives:
        """Check archives of pruned runs (``runs.prune(archive=…)``) against what the log tells of them.

        Each has to be the file with the SHA-256 that its ``environment.pruned`` events tell, a legal history whose
        digests hold, and of exactly the runs that were removed, each up to the event that was its last one.

        Args:
            path: their folder; or one of them, then only that one is checked, by what is in it and by its name: a file
                that the log does not tell of is not intact.
            public_key: whose signature the manifests must have, a PEM file; needs the package cryptography.
            progress: called with the number of archives checked so far.

        Raises:
            ConfigurationInvalid: there is no such folder or file, or the key cannot be used.
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.archives")
        self._runtime.start()
        told = archives.told(self._runtime.reading, self._runtime.environment)
        return archives.check(told, path, public_key=public_key, progress=progress)
