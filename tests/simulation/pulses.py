"""Sessions: who believes in one that has ended, which leases no process knows of, and what was taken too soon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from runlane.session import Session

if TYPE_CHECKING:
    from tests.simulation.kernel import Fiber
    from tests.simulation.world import World

#: After so many beats that found it, a lease that nobody knows must be gone: two are told of in ``Session.beat``, and
#: what is claimed between its look and ours makes it one more.
PATIENCE = 3


class Pulses:
    """Watches the heartbeats of all processes."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: Beats under way: of which session, and whether a commit of it has left the session alive.
        self._under_way: dict[Fiber, tuple[UUID, list[bool]]] = {}
        self._unknown: dict[UUID, Counter[tuple[UUID, int]]] = {}

    def watch(self, real: Callable[[Session], bool], session: Session) -> bool:
        """``Session.beat``, and whether it has told the truth."""
        fiber = self._world.kernel.current
        assert fiber is not None
        id = session.holder.session_id
        self._under_way[fiber] = id, []
        try:
            lives = real(session)
        finally:
            _, seen = self._under_way.pop(fiber)
        if lives:
            if not any(seen):
                self._world.kernel.fail(AssertionError(f"invariant 2: session {id} has ended, and was revived"))
            self._look_for_strays(session)
        return lives

    def committed(self) -> None:
        """Something was committed by the fiber that runs; before anybody else goes on."""
        beat = None if self._world.kernel.current is None else self._under_way.get(self._world.kernel.current)
        if beat is not None:
            expires_at = self._expiry(beat[0])
            beat[1].append(expires_at is not None and expires_at > self._world.clock())

    def taken(self, sessions: Iterable[UUID]) -> None:
        """Leases of these sessions have just been taken away."""
        for id in sessions:
            expires_at = self._expiry(id)
            if expires_at is not None:
                assert expires_at <= self._world.clock(), (
                    f"invariant 2: a lease of session {id}, which lives, was taken"
                )

    def _look_for_strays(self, session: Session) -> None:
        id, known = session.holder.session_id, session._held()
        before = self._unknown.get(id, Counter())
        now = self._unknown[id] = Counter()
        for run_id, run in self._world.follower.folds.items():
            lease = run.lease
            if lease is not None and lease.session_id == id and known.get(run_id) != lease.attempt:
                place = run_id, lease.attempt
                now[place] = before[place] + 1
                self._world.tally["stray leases seen"] += now[place] == 1
                if now[place] >= PATIENCE:
                    self._world.kernel.fail(
                        AssertionError(
                            f"invariant 1: run {run_id} is leased to session {id}, whose process does not know of it"
                        )
                    )

    def _expiry(self, id: UUID) -> datetime | None:
        found = self._world.reader._execute("select expires_at from sessions where id = ?", (str(id),)).fetchone()
        return None if found is None else datetime.fromisoformat(found[0])
