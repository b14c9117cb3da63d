"""Checking the log, going back in it, and making what is stored from it again: ``app.audit``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

from runlane import requests, sealing
from runlane.capabilities import Capability
from runlane.engine import erase as erasing
from runlane.engine.erase import Erasure
from runlane.errors import ConfigurationInvalid, RunNotFound
from runlane.export.signing import Signer
from runlane.exportface import Exports
from runlane.pastface import TellsThePast
from runlane.proofs import Proof
from runlane.reading import whole_number
from runlane.runtime import Runtime
from runlane.sealing import Checkpointed, Sealer
from runlane.shown import shown
from runlane.storage import proving, queries, rebuild, repair, replay, sharing, subject_keys
from runlane.storage.findings import Difference, Verification
from runlane.storage.rebuild import Rebuilt
from runlane.values import Actor, identifier, instant, run_id
from runlane.vault import Vault


class Audit(TellsThePast, Exports):
    """Checking the log, and making the tables from it again: ``app.audit``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def count(self) -> dict[str, int]:
        """How many events of each type the log holds for this environment; reads all of them."""
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.count")
        with self._runtime.reading() as tx:
            return queries.count_events(tx, self._runtime.environment)

    def verify(
        self,
        id: UUID | str | None = None,
        *,
        since: datetime | None = None,
        key: str | Path | Sequence[str | Path] = (),
        checkpoints: Sequence[str | Path] = (),
        progress: Callable[[int], None] | None = None,
        processes: int = 1,
    ) -> Verification:
        """Fold the whole log of this environment (or one run's), and compare it field by field with what is stored.

        Every digest is worked out again; an event that was changed, dropped, put in or moved within its stream is
        named.  The root of every checkpoint is worked out again from what is stored and from what the log tells of
        runs that were pruned.  Memory is constant.

        Args:
            id: only this run.
            since: only runs, schedules and queues that moved at or after this aware instant, each from its beginning,
                and checkpoints that were made since; idempotency keys and wakeups are compared by a whole check only.
            key: a public key (Ed25519, a PEM file), or several: every checkpoint has to be signed by one of them.
            checkpoints: files of checkpoints that were kept elsewhere, which have to be in the log unchanged.
            progress: called with the number of events folded so far.
            processes: how many share the work, 1 to 64, ranges of ids each; a database in memory is read by this one
                alone.  On a SQLite file that others write to meanwhile each range is as of a moment of its own.

        Raises:
            RunNotFound: there is no such run, neither in the log nor in the tables.
            ConfigurationInvalid: an argument is not valid: a file that cannot be read, a checkpoint of another
                environment.
        """
        if id is not None and since is not None:
            raise ConfigurationInvalid("give a run or since, not both: one run is always checked from its beginning")
        if id is not None and (key or checkpoints):
            raise ConfigurationInvalid("checkpoints are of the whole log: give a run, or keys and checkpoints")
        evidence = sealing.evidence(self._runtime.environment, key, checkpoints)
        recent = None if since is None else instant("since", since)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.verify")
        share = whole_number("processes", processes, 64)
        self._runtime.start()
        database, environment = self._runtime.database, self._runtime.environment
        if id is None and share > 1 and not database.is_memory:
            return sharing.verify(database, environment, share, progress, recent, evidence)
        with database.snapshot() as tx:
            if id is None:
                return replay.verify(tx, environment, progress, since=recent, evidence=evidence)
            wanted = run_id(id)
            found = replay.compare_run(tx, environment, wanted)
        if not found.events and not found.differences:
            raise self._not_found(wanted)
        return found

    def checkpoint(
        self, sign: str | Path | None = None, *, actor: Actor | None = None, timeout: float = sealing.PATIENCE
    ) -> Checkpointed:
        """Seal all that has happened in this environment since the last checkpoint, or ever.

        Appends ``environment.checkpointed`` to the environment's own stream: the root of a Merkle tree over the last
        events of all streams, chained to the checkpoint before.  Keep its statement (``checkpoint.dumps()``) where
        nobody who can write to the database can change it: then no later change of the history goes unnoticed.  Any
        number of processes may call it at once.  Memory is constant.

        Args:
            sign: an Ed25519 private key, a PEM file; needs the package cryptography.
            actor: who does it; else the application.
            timeout: seconds for which transactions that have written something are waited for.

        Returns:
            The last checkpoint, and whether it is new: where nothing has happened since, none is made.

        Raises:
            ConfigurationInvalid: the key cannot be read.
            StorageUnavailable: a transaction that may have appended something stays open for longer than that.
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.checkpoint")
        by, signer = requests.actor_of(actor), None if sign is None else Signer(sign)
        if not isinstance(timeout, int | float) or not timeout >= 0:
            raise ConfigurationInvalid(f"timeout must be a number of seconds; got {shown(timeout)}")
        self._runtime.start()
        return Sealer(self._runtime, signer, by, min(timeout, 1e9)).checkpoint()

    def prove(self, id: UUID | str, sequence: int | None = None) -> Proof:
        """That events of a run are among those that a checkpoint has sealed: a proof that anybody can check.

        It holds the facts of the events, payload and result too, and the path from there to the root of the checkpoint;
        ``proof.dumps()`` is its file, and ``runlane.sealing.check_proof`` checks it without a database.

        Args:
            sequence: from this event on, by the checkpoint that sealed it; None is all of the run that was sealed, by
                the last checkpoint that has sealed some of it.

        Raises:
            RunNotFound: there is no such run.
            ConfigurationInvalid: it has no such event.
            RunStateInvalid: no checkpoint has sealed it yet.
            InvariantViolation: the log is no longer what was sealed.
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.prove")
        wanted = run_id(id)
        event = None if sequence is None else whole_number("sequence", sequence, 2**31 - 1)
        self._runtime.start()
        with self._runtime.database.snapshot() as tx:
            proof = proving.prove(tx, self._runtime.environment, wanted, event)
        if proof is None:
            raise self._not_found(wanted)
        return proof

    def repair(
        self, id: UUID | str, *, actor: Actor | None = None, reason: str | None = None
    ) -> tuple[Difference, ...]:
        """Make the row of one run again from its events, and settle who owns the idempotency keys it has to do with.

        One transaction.  A row that the log does not know is removed, one that is missing is made.  The history of the
        run is not touched; if anything was different, ``environment.repaired`` says so in the environment's own stream.

        Args:
            actor: who does it; else the application.
            reason: why; kept in the log.

        Returns:
            What was different, as `verify` tells it; nothing if all was well.

        Raises:
            RunNotFound: neither the log nor the tables know such a run in this environment.
            InvariantViolation: the history of the run is damaged; naming the event.  Nothing is written.
            StorageConflict: the row of another active run holds its singleton key (kind ``singleton_owner``).
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.repair")
        wanted, said = run_id(id), requests.said(actor, reason)
        environment = self._runtime.environment
        found = self._runtime.transact(lambda tx: repair.repair(tx, environment, wanted, said.actor, said.reason))
        if found is None:
            raise self._not_found(wanted)
        return found

    def rebuild(
        self,
        *,
        progress: Callable[[int], None] | None = None,
        swap: bool = True,
        actor: Actor | None = None,
        reason: str | None = None,
    ) -> Rebuilt:
        """Make all tables again that are folded from the log, of all environments of the database.

        The log is folded into shadow tables beside the live ones while others go on working; then those take their
        place in one transaction, for which the tables are locked for a moment.  Each environment's own stream tells of
        it (``environment.rebuilt``).  A run, schedule or queue whose history cannot be folded stays as it is stored,
        and is among the differences.

        Args:
            progress: called with the number of events folded so far.
            swap: False only tells what is different; the shadows are dropped.
            actor: who does it; else the application.
            reason: why; kept in the log.

        Raises:
            StorageConflict: another rebuild is under way, or somebody's transaction holds the tables for a minute.
            InvariantViolation: rows that the log folds to exclude each other.  Nothing is changed.
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.rebuild")
        said = requests.said(actor, reason)
        self._runtime.start()
        return rebuild.rebuild(
            self._runtime.database,
            clock=self._runtime.clock,
            progress=progress,
            swap=swap,
            actor=said.actor,
            reason=said.reason,
        )

    def erase(self, subject: str, *, reason: str | None = None, actor: Actor | None = None) -> Erasure:
        """Make everything unreadable, for good, that was encrypted for a subject: its data keys are destroyed.

        One transaction.  The log stays as it is, and its digests too; ``environment.subject_erased`` tells of it, not
        by the subject's name.  Reads show ``Sealed`` in the place of its payloads and results, and its runs that still
        wait fail with ``payload_erased`` when their time comes.  In this process that holds at once, in others, which
        remember keys, within a minute; what they encrypt for the subject until then is gone as well.  A later
        trigger for the subject makes a new key.  To erase twice changes nothing.

        Args:
            subject: as it was given to triggers.
            reason: why; kept in the log.
            actor: who does it; else the application.

        Raises:
            SubjectNotFound: nothing was ever encrypted for it in this environment.
            ConfigurationInvalid: the subject is no valid name, or this runtime has no payload codec with keys.
        """
        runtime, said, name = self._runtime, requests.said(actor, reason), identifier("subject", subject)
        self._need_keys("audit.erase")
        try:
            erased = runtime.transact(
                lambda tx: erasing.erase(tx, runtime.environment, runtime.vault, name, said.actor, said.reason)
            )
        finally:
            Vault.forget()  # whatever became of the commit
        subject_keys.scrub(runtime.database)
        return erased

    def rewrap(self) -> int:
        """Wrap every data key of this environment by the codec's first master key, so that older ones can go.

        Returns:
            How many data keys another one had wrapped.

        Raises:
            ConfigurationInvalid: this runtime has no payload codec with keys.
            PayloadUnreadable: a data key is wrapped by a master key that is not among them; what came before is done.
        """
        runtime, done = self._runtime, 0
        self._need_keys("audit.rewrap")
        while some := runtime.transact(lambda tx: erasing.rewrap(tx, runtime.environment, runtime.vault, 500)):
            done += some
        return done

    def _need_keys(self, what: str) -> None:
        if self._runtime.vault.keyed is None:
            raise ConfigurationInvalid(f"{what} needs a payload codec with keys: Runlane(payload_codec=AesGcm(…))")

    def _not_found(self, wanted: UUID) -> RunNotFound:
        return RunNotFound(f"no run has the id {wanted} in environment {self._runtime.environment!r}")
