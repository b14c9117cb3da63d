"""Checking the log, going back in it, and making what is stored from it again: ``app.audit``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from runlane import attribution, requests, sealing, travel
from runlane.attribution import Attribution
from runlane.capabilities import Capability
from runlane.engine import erase as erasing
from runlane.engine.erase import Erasure
from runlane.errors import ConfigurationInvalid, RunNotFound
from runlane.export import Manifest, archives, formats, writing
from runlane.export.archives import Archives
from runlane.export.signing import Signer
from runlane.policy import Retry
from runlane.projections.differences import RunDiff
from runlane.projections.fleet import Fleet
from runlane.projections.timeline import Moment
from runlane.proofs import Proof
from runlane.reading import whole_number
from runlane.runtime import Runtime
from runlane.sealing import Checkpointed, Sealer
from runlane.simulation import Simulation, comparing
from runlane.simulation import reading as simulation_reading
from runlane.storage import proving, queries, rebuild, repair, replay, sharing, subject_keys
from runlane.storage.findings import Difference, Verification
from runlane.storage.rebuild import Rebuilt
from runlane.tasks import Queue, Task
from runlane.values import Actor, identifier, instant, run_id
from runlane.vault import Vault


class Audit:
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
            raise ConfigurationInvalid(f"timeout must be a number of seconds; got {timeout!r}")
        self._runtime.start()
        return Sealer(self._runtime, signer, by, timeout).checkpoint()

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

    def as_of(
        self,
        at: datetime,
        *,
        limit: int = travel.DEFAULT_LIMIT,
        progress: Callable[[int], None] | None = None,
    ) -> Fleet:
        """This environment as of an instant: how many runs were where, which were leased, who held a key.

        It speaks of what is in the log today: histories that were pruned since are gone, and ``pruned_since`` says how
        many.  It reads the log up to the instant, in constant memory.  Of the future nothing is known: asked about it,
        this tells how things are now.

        Args:
            at: an aware instant; what happened at it has happened.
            limit: how many leased runs, and keys of each kind, are listed at most, 1 to 10000; all are counted.
            progress: called now and then with the number of events folded so far.

        Raises:
            ConfigurationInvalid: an argument is not valid.
        """
        when, most = instant("at", at), whole_number("limit", limit, travel.MOST)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.as_of")
        self._runtime.start()
        with self._runtime.database.snapshot() as tx:
            return travel.fleet(tx, self._runtime.environment, when, most, progress)

    def diff(self, id: UUID | str, from_sequence: int = 1, to_sequence: int | None = None) -> RunDiff:
        """What changed in a run, field by field, between the states behind two of its events.

        Args:
            from_sequence: the event that counts as before; 1 is the first one.
            to_sequence: the event that counts as after; None is the last one.

        Raises:
            RunNotFound: there is no such run.
            ConfigurationInvalid: it has no such event, or the two are the wrong way round.
            InvariantViolation: its history is damaged, so that it cannot be folded.
        """
        wanted = run_id(id)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.diff")
        with self._runtime.reading() as tx:
            asked = wanted, from_sequence, to_sequence
            return travel.difference(tx, self._runtime.environment, *asked, self._runtime.vault)

    def timeline(self, id: UUID | str) -> tuple[Moment, ...]:
        """The history of a run, one plain sentence for each event, with the time between them.

        Who cancelled, retried or reran it is named, and what reason they gave.

        Raises:
            RunNotFound: there is no such run.
            InvariantViolation: an event cannot be read.
        """
        wanted = run_id(id)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.timeline")
        with self._runtime.reading() as tx:
            return travel.told(tx, self._runtime.environment, wanted)

    def who(
        self,
        *,
        actor: Actor | str | None = None,
        worker: str | None = None,
        key: str | None = None,
        limit: int = attribution.DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Attribution:
        """What somebody did in this environment, or what was done with a key: a page of events, the newest first.

        Give exactly one of the three.  It reads the whole log, or for a key the rows of all runs.

        Args:
            actor: an ``Actor``; or text such as ``"operator:ann"``, without its kind that name of any kind.
            worker: the id of a worker: what it has leased, and what came of it.
            key: of runs, as idempotency, singleton or concurrency key: their births, and resets of it by operators.
            limit: 1 to 500.
            cursor: ``next_cursor`` of the page before, with the same question.

        Raises:
            ConfigurationInvalid: an argument is not valid.
            InvariantViolation: an event cannot be read.
        """
        asked = attribution.question(actor, worker, key)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.who")
        with self._runtime.reading() as tx:
            return attribution.answer(tx, self._runtime.environment, asked, limit, cursor)

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

    def simulate(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        retry: Retry | Mapping[str, Retry] | None = None,
        limit: Mapping[str, int | None] | None = None,
        workers: int | None = None,
        concurrency: int | None = None,
        tasks: Iterable[Task[..., Any] | str] | None = None,
        queues: Iterable[Queue | str] | None = None,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Simulation:
        """What if: play recorded runs again, as they came and as long as they lasted, under another policy.

        Nothing is executed and nothing written.  The runs are played under the recorded policy too, so that the error
        of the model shows; ``assumptions`` of the result says what is taken for granted.  A million runs take about
        300 MB while they are played, and a minute.

        Args:
            since, until: runs created from that aware instant, and before the other one; all, unless given.
            retry: the policy of all tasks, or of some by their ids; else what followed a failure follows it again.
            limit: concurrency limits by queue; None takes one away, and others stay as recorded.
            workers: how many worker processes; else as many as were seen at once.
            concurrency: how many attempts at once in each; else as many as one was seen to hold.
            tasks, queues: only runs of these.
            seed: for outcomes and jitter that have to be drawn; the same seed, the same result.
            progress: called now and then with the number of events read so far.

        Raises:
            ConfigurationInvalid: an argument is not valid, or names a queue or task of which there is no run.
        """
        asked = comparing.what_if(retry, limit, workers, concurrency, seed)
        chosen = simulation_reading.selection(since, until, tasks, queues)
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.simulate")
        self._runtime.start()
        with self._runtime.database.snapshot() as tx:
            trace = simulation_reading.of_log(tx, self._runtime.environment, chosen, progress)
        return comparing.compare(trace, asked)

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
            path: their folder; or one of them, then only that one is checked.
            public_key: whose signature the manifests must have, a PEM file; needs the package cryptography.
            progress: called with the number of archives checked so far.

        Raises:
            ConfigurationInvalid: there is no such folder or file, or the key cannot be used.
        """
        self._runtime.lane.require(Capability.READS_RUN_HISTORY, "audit.archives")
        self._runtime.start()
        told = archives.told(self._runtime.reading, self._runtime.environment)
        return archives.check(told, path, public_key=public_key, progress=progress)
