"""Plans: all that is decided about an episode before it begins, so that it can be kept, replayed and made smaller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any

from attrs import asdict, evolve, frozen


class Mode(StrEnum):
    """Faults for ever; or faults that stop, after which everything has to end."""

    SAFETY = "safety"
    LIVENESS = "liveness"


#: What may go wrong in a transaction: its fault's amount is in seconds, where it has one.
OF_A_TRANSACTION = {
    "crash_before_commit": (0.1, 40.0),  # until the process is started again
    "crash_after_commit": (0.1, 40.0),
    "refused": (0.0, 0.0),  # the database says that it does not commit
    "lost_before_commit": (0.0, 0.0),  # the connection breaks, and it has not committed
    "lost_after_commit": (0.0, 0.0),  # the connection breaks, and it has
    "lost_for_long": (4.0, 60.0),  # the same, and for so long nobody can ask
    "lost_alone": (4.0, 30.0),  # the same, but only the thread that was about it is cut off
    "lost_outcome": (4.0, 60.0),  # the same, where a run goes again, and until that session has it once more
}
_AGAIN = frozenset({"run.retry_scheduled", "run.released", "run.interrupted"})
#: Of these, what strikes only where events are written, and which ones: None stands for any.
OF_EVENTS = {"lost_for_long": None, "lost_alone": None, "lost_outcome": _AGAIN}
#: What may happen to a process between two transactions, or to all of them.
OF_A_PROCESS = {
    "away": (0.5, 50.0),  # it does not reach the database
    "stall": (1.0, 100.0),  # it is stopped, as by SIGSTOP
    "stop": (0.1, 10.0),  # it is stopped gracefully, and another takes its place after so long
}
OF_THE_WORLD = {
    "clock_forward": (5.0, 20_000.0),
    "clock_back": (0.001, 20.0),
    "tick_storm": (2.0, 6.0),  # so many passes in each process at once
    "deaf": (1.0, 60.0),  # all bells are lost
    "echo": (1.0, 60.0),  # all bells ring twice
}
FAULTS = OF_A_TRANSACTION | OF_A_PROCESS | OF_THE_WORLD

#: What clients do, and how often.
OPERATIONS = {
    "trigger": 30,
    "trigger_by_id": 14,
    "trigger_by_key": 10,
    "trigger_many": 4,
    "cancel": 14,
    "rerun": 3,
    "retry": 3,
    "run_now": 4,
    "execute_next": 4,
    "pause_queue": 3,
    "resume_queue": 3,
    "trigger_within": 4,
    "cancel_many": 2,
    "rerun_many": 1,
    "retry_many": 1,
    "wait": 2,
    "checkpoint": 1,
    "repair": 1,
    "verify": 1,
    "prune": 3,
    "reset_key": 3,
    "pause_schedule": 1,
    "resume_schedule": 1,
    "trigger_schedule": 2,
    "tick": 3,
}


@frozen
class Fault:
    """Strikes at the first transaction that suits it, from `step` on."""

    step: int
    kind: str
    amount: float


@frozen
class Operation:
    """What a client does, after a pause of `gap` seconds; `seed` is that of everything it draws."""

    client: int
    name: str
    gap: float
    seed: int


@frozen
class Plan:
    """An episode.

    Args:
        steps: after how many transactions it is over, or its faults are.
        delivers: the transport carries one wakeup per run, to consumers.
        eager: whether wakeups go out at once, or are left to maintenance.
        heartbeat: seconds between two of them; a lease is for thrice as long.
        helps: in each worker's process another thread executes what is due by itself.
    """

    seed: int
    mode: Mode
    steps: int
    workers: int
    clients: int
    tickers: int
    concurrency: int
    interval: float
    delivers: bool
    eager: bool
    max_events: int
    heartbeat: float
    helps: bool
    faults: tuple[Fault, ...]
    operations: tuple[Operation, ...]

    def to_json(self) -> str:
        """As it is kept."""
        facts = asdict(self)
        lines = {name: [json.dumps(list(one.values())) for one in facts.pop(name)] for name in ("faults", "operations")}
        head = json.dumps(facts, indent=1)[:-2]
        tail = ",\n".join(f' "{name}": [\n  ' + ",\n  ".join(some) + "\n ]" for name, some in lines.items())
        return f"{head},\n{tail}\n}}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse."""
        facts: dict[str, Any] = json.loads(text)
        facts["mode"] = Mode(facts["mode"])
        facts["faults"] = tuple(Fault(*one) for one in facts["faults"])
        facts["operations"] = tuple(Operation(*one) for one in facts["operations"])
        return cls(**facts)

    @classmethod
    def kept(cls) -> dict[str, Plan]:
        """The plans that once failed, by the names of their files."""
        folder = Path(__file__).with_name("kept")
        return {path.stem: cls.from_json(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}

    def without(self, what: str, dropped: Sequence[int]) -> Plan:
        """The same without some of its `faults` or `operations`."""
        left = tuple(one for place, one in enumerate(getattr(self, what)) if place not in set(dropped))
        return evolve(self, **{what: left})


def draw(seed: int, mode: Mode, steps: int = 600) -> Plan:
    """The plan of a seed: the configuration is drawn too, and so are the kinds of faults that there are in it."""
    rng = Random(seed)
    kinds = [kind for kind in FAULTS if rng.random() < 0.5] or ["crash_after_commit"]
    every = rng.choice((6, 15, 15, 40))
    faults, at = [], 0
    while (at := at + 1 + int(rng.expovariate(1 / every))) < steps:
        kind = rng.choice(kinds) if rng.random() < 0.9 else "lost_outcome"
        low, high = FAULTS[kind]
        # Short ones are more frequent than long ones, whatever the range.
        faults.append(Fault(at, kind, round(low * (high / low) ** rng.random(), 3) if low else 0.0))
    clients = rng.randint(1, 5)
    busy = rng.choice((0.1, 0.3, 1.0, 3.0))
    names, weights = tuple(OPERATIONS), tuple(OPERATIONS.values())
    operations = [
        Operation(
            rng.randrange(clients),
            rng.choices(names, weights)[0],
            round(rng.expovariate(1 / busy), 3),
            rng.getrandbits(32),
        )
        for _ in range(steps // 4)
    ]
    return Plan(
        seed,
        mode,
        steps,
        workers=rng.choice((1, 1, 2, 3, 4)),
        clients=clients,
        tickers=rng.randint(0, 2),
        concurrency=rng.choice((1, 2, 4)),
        interval=rng.choice((0.5, 1.0, 3.0)),
        delivers=rng.random() < 0.4,
        eager=rng.random() < 0.7,
        max_events=rng.choice((10_000, 10_000, 10_000, 14)),
        heartbeat=rng.choice((1.0, 3.0, 10.0)),
        helps=rng.random() < 0.7,
        faults=tuple(faults),
        operations=tuple(operations),
    )
