"""Making checkpoints of the log, one after the other: ``app.audit.checkpoint``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from attrs import frozen

from runlane import proofs
from runlane.checkpoints import Checkpoint, Signer, read
from runlane.errors import ConfigurationInvalid, ConflictKind, StorageConflict, StorageUnavailable
from runlane.export.signing import Checker
from runlane.proofs import Checked
from runlane.runtime import Runtime
from runlane.shown import shown
from runlane.storage import checkpoints
from runlane.storage.checkpoints import Drawn
from runlane.storage.following import Elsewhere, Horizon
from runlane.storage.sealed import Evidence, Kept
from runlane.storage.transaction import Transaction
from runlane.values import Actor

#: Seconds for which the end of the log may be waited for, unless told otherwise.
PATIENCE = 60.0
#: How often the log is read while others may prune; then they have to wait.
_FREELY, _TRIES = 2, 6
#: Seconds between looks while something written is not settled yet.
_SOON = 0.02


@frozen
class Checkpointed:
    """What a checkpoint came to.

    Args:
        checkpoint: the last one there is now; None if nothing has ever happened in the environment.
        new: whether it was made now; if not, nothing had happened since.
    """

    checkpoint: Checkpoint | None
    new: bool


def evidence(environment: str, key: str | Path | Sequence[str | Path], kept: Sequence[str | Path]) -> Evidence:
    """What is known of the checkpoints of an environment from elsewhere: public keys, and files.

    Raises:
        ConfigurationInvalid: one of them cannot be read, or is of another environment.
    """
    if not isinstance(key, str | Path | Iterable):
        raise ConfigurationInvalid(f"key must be a path, or several; got {shown(key)}")
    checkers = [Checker(path) for path in ([key] if isinstance(key, str | Path) else key)]
    if isinstance(kept, str | Path) or not isinstance(kept, Iterable):
        raise ConfigurationInvalid(f"checkpoints must be a list of files; got {shown(kept)}")
    files = [Kept(str(path), read(path)) for path in kept]
    for one in files:
        if one.checkpoint.environment != environment:
            there = one.checkpoint.environment
            raise ConfigurationInvalid(f"{one.path} is a checkpoint of environment {shown(there)}, not {environment!r}")
    return Evidence({checker.fingerprint: checker for checker in checkers}, tuple(files))


def check_proof(
    path: str | Path, *, key: str | Path | Sequence[str | Path] = (), checkpoints: Sequence[str | Path] = ()
) -> Checked:
    """Check a proof that ``audit.prove`` has made; needs no database.

    Args:
        path: the file of the proof.
        key: a public key (Ed25519, a PEM file), or several: the checkpoint has to be signed by one of them.
        checkpoints: files of checkpoints that were kept elsewhere: the one of the proof has to be among them.

    Raises:
        ConfigurationInvalid: a file cannot be read, or is not what it should be.
    """
    proof = proofs.read(path)
    known = evidence(proof.checkpoint.environment, key, checkpoints)
    return proofs.check(proof, known.checkers, [kept.checkpoint for kept in known.kept])


@frozen
class Sealer:
    """Makes checkpoints of one environment."""

    runtime: Runtime
    signer: Signer | None
    actor: Actor
    patience: float

    def checkpoint(self) -> Checkpointed:
        """Seal what has happened since the last checkpoint.

        Raises:
            StorageUnavailable: a transaction that is older than the patience is still open.
            StorageConflict: the environment's stream moved on again and again.
        """
        self.runtime.database.open_epoch()
        for attempt in range(_TRIES):
            settled = self._settled()
            made = self._while_others_go_on(settled) if attempt < _FREELY else self._alone(settled)
            if made is not None:
                return made
        raise StorageConflict("the environment's own stream moves on all the time", kind=ConflictKind.SEQUENCE)

    def _while_others_go_on(self, settled: int) -> Checkpointed | None:
        """None if something was appended to the environment's stream meanwhile."""
        with self.runtime.database.snapshot() as tx:
            drawn = checkpoints.draw(tx, self.runtime.environment, settled)
        if not drawn.is_whole:
            return None
        return self.runtime.transact(partial(self._append, drawn)) if drawn.is_new else _old(drawn)

    def _alone(self, settled: int) -> Checkpointed | None:
        """While whoever would append to the environment's stream has to wait."""

        def work(tx: Transaction) -> Checkpointed | None:
            checkpoints.lock(tx, self.runtime.environment)
            drawn = checkpoints.draw(tx, self.runtime.environment, settled)
            if not drawn.is_whole:
                return None
            return self._append(drawn, tx) if drawn.is_new else _old(drawn)

        return self.runtime.transact(work)

    def _append(self, drawn: Drawn, tx: Transaction) -> Checkpointed | None:
        made = checkpoints.append(tx, self.runtime.environment, drawn, self.signer, self.actor)
        return None if made is None else Checkpointed(made, True)

    def _settled(self) -> int:
        """A position up to which everything that was ever written is settled by now."""
        deadline = time.monotonic() + self.patience
        horizon, drawn = Horizon(), None
        while True:
            with self.runtime.reading() as tx:
                try:
                    settled = horizon.look(tx)
                except Elsewhere:  # another server: nothing that was seen counts
                    horizon, drawn = Horizon(), None
                    continue
            drawn = horizon.drawn if drawn is None else drawn
            if settled >= drawn:
                return settled
            if time.monotonic() > deadline:
                raise StorageUnavailable(
                    f"no checkpoint: a transaction that wrote something {self.patience:g} s ago or earlier is still "
                    "open in the server (see pg_stat_activity), and what it may have appended is not to be seen yet"
                )
            time.sleep(0 if horizon.waits_for_disk else _SOON)


def _old(drawn: Drawn) -> Checkpointed:
    return Checkpointed(drawn.previous, False)
