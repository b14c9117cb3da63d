"""The product gets its threads, its time, its ids and its chance from the simulator; nothing else of it is changed."""

from __future__ import annotations

import queue
import random
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from uuid import UUID

import runlane.demo  # everything that an application may import is there before it is patched
import runlane.doctor
import runlane.operators
import runlane.projecting
import runlane.sealing  # noqa: F401
from runlane import session, values
from runlane.storage.floors import Floors
from tests.simulation import kernel as simulated

__all__ = ["Ids", "patched"]

_TIME: Any = time


class Ids:
    """Ids that depend on the seed alone; those of runs sort by (virtual) time, as the product's do."""

    def __init__(self) -> None:
        self.rng = Random(0)

    def uuid4(self) -> UUID:
        """Any id."""
        return UUID(int=self.rng.getrandbits(128), version=4)

    def new_run_id(self) -> UUID:
        """A UUIDv7."""
        milliseconds = int(simulated.kernel().now * 1000)
        return UUID(
            int=milliseconds << 80 | 7 << 76 | self.rng.getrandbits(12) << 64 | 2 << 62 | self.rng.getrandbits(62)
        )


@contextmanager
def patched(ids: Ids) -> Iterator[None]:
    """Within, the modules of Runlane have the simulator's threads, time and ids."""
    stand_ins: dict[Any, Any] = {
        threading: simulated.Threading,
        time: simulated.Time,
        _TIME.monotonic: simulated.Time.monotonic,
        _TIME.perf_counter: simulated.Time.monotonic,
        session.monotonic: simulated.Time.monotonic,
        uuid.uuid4: ids.uuid4,
        values.new_run_id: ids.new_run_id,
        queue.SimpleQueue: simulated.SimpleQueue,
    }
    undo = []
    for name, module in list(sys.modules.items()):
        if not name.startswith("runlane.") or name == "runlane.clock":
            continue
        for attribute, value in list(vars(module).items()):
            try:
                stand_in = stand_ins.get(value)
            except TypeError:  # not hashable
                continue
            if stand_in is not None:
                undo.append((module, attribute, value))
                setattr(module, attribute, stand_in)
    defaults = Floors.__init__.__defaults__
    chance = random.getstate()
    Floors.__init__.__defaults__ = (simulated.Time.monotonic,)
    try:
        yield
    finally:
        random.setstate(chance)
        Floors.__init__.__defaults__ = defaults
        for module, attribute, value in undo:
            setattr(module, attribute, value)
