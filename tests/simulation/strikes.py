"""What goes wrong, as the plan says: with a transaction, with a process, or with the world."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from runlane.errors import RunlaneError, StorageUnavailable
from runlane.events import RunLeased
from tests.simulation.kernel import Fiber, Process
from tests.simulation.plans import OF_A_TRANSACTION, Fault
from tests.simulation.stage import PATIENCE

if TYPE_CHECKING:
    from tests.simulation.world import World


class Strikes:
    """Decides for each transaction whether something goes wrong with it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.kernel = world.kernel
        self._faults = list(reversed(world.plan.faults))
        self._struck = Fault(0, "", 0.0)
        #: Whose outcome got lost: by which thread, and until when that asks.
        self._cut_off: dict[UUID, tuple[Fiber, float]] = {}
        self._spared: list[Fault] = []  # those that have not found what they strike

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._faults.clear()
        self._spared.clear()

    def look(self, wrote: bool = True) -> None:
        """Something was committed, events of the log if it `wrote`; or may have been."""
        self._world.look(wrote)

    def strike(self, process: Process, writes: bool) -> str | None:
        """What goes wrong with a transaction, if it is time for it; see ``stage``."""
        self._world.steps += 1
        if not self._faults or self._faults[-1].step > self._world.steps:
            if not self._spared or not writes or process.away_until > self.kernel.now:
                return None
            self._struck = self._spared.pop(0)
            return self._struck.kind
        kind = self._faults[-1].kind
        if kind in OF_A_TRANSACTION:
            if not writes or process.away_until > self.kernel.now:
                return None
            self._struck = self._faults.pop()
            return kind
        fault = self._faults.pop()
        self._world.tally[f"fault {kind}"] += 1
        getattr(self, f"_{kind}")(fault, process)
        return None

    def spare(self) -> None:
        """It is for a transaction that writes other events."""
        self._spared.append(self._struck)

    def has_struck(self, process: Process, strike: str, runs: Collection[UUID]) -> None:
        """It has."""
        self._world.tally[f"fault {strike}"] += 1
        amount = self._struck.amount
        if strike.startswith("crash"):
            self._world.replace(process, amount)
        elif strike == "lost_for_long":
            process.away_until = self.kernel.now + amount
        elif strike in ("lost_alone", "lost_outcome"):
            assert self.kernel.current is not None
            self.kernel.current.away_until = self.kernel.now + amount
            if strike == "lost_outcome":
                self._cut_off.update((id, (self.kernel.current, self.kernel.now + PATIENCE)) for id in runs)

    def _away(self, fault: Fault, process: Process) -> None:
        process.away_until = self.kernel.now + fault.amount

    def _stall(self, fault: Fault, process: Process) -> None:
        process.frozen_until = self.kernel.now + fault.amount
        self.kernel.boundary()

    def _stop(self, fault: Fault, process: Process) -> None:
        if process.worker is not None:
            self.kernel.spawn(process, partial(self._stop_gracefully, fault.amount, process), "stop")

    def _stop_gracefully(self, seconds: float, process: Process) -> None:
        try:
            process.worker.stop(seconds / 2)
            process.app.close()
        except RunlaneError as error:
            if not error.retryable:
                raise
        self._world.replace(process, seconds)

    def _clock_forward(self, fault: Fault, process: Process) -> None:
        self._world.clock.advance(timedelta(seconds=fault.amount))

    def _clock_back(self, fault: Fault, process: Process) -> None:
        self._world.clock.advance(timedelta(seconds=-fault.amount))

    def _tick_storm(self, fault: Fault, process: Process) -> None:
        for one in self._world.processes:
            for _ in range(int(fault.amount) if one.alive and one.app is not None else 0):
                self.kernel.spawn(one, partial(self._tick_once, one), "storm")

    def _tick_once(self, process: Process) -> None:
        try:
            self._world.tick(process)
        except StorageUnavailable:
            self._world.tally["passes broken off"] += 1

    def _deaf(self, fault: Fault, process: Process) -> None:
        self._world.bells.deaf_until = self.kernel.now + fault.amount

    def _echo(self, fault: Fault, process: Process) -> None:
        self._world.bells.echo_until = self.kernel.now + fault.amount

    def come_back(self, id: UUID, event: RunLeased) -> None:
        """Whoever lost an earlier outcome of this run, under the same session, tries again now: the worst moment."""
        fiber, since = self._cut_off.get(id, (None, 0.0))
        session = None if fiber is None else fiber.process.app._runtime._session
        if fiber is not None and session is not None and session.holder.session_id == event.session_id:
            fiber.away_until = min(fiber.away_until, max(self.kernel.now, since))
