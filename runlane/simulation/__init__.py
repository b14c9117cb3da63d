"""What if: recorded runs played again under another policy.

    from runlane.simulation import simulate_export

    simulate_export("production.jsonl", workers=4, limit={"mail": 2}).simulated.waits.p99

``app.audit.simulate`` does the same with the log of an application, ``runlane audit simulate`` on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from runlane.policy import Retry
from runlane.simulation import comparing, reading
from runlane.simulation.comparing import Simulation, WhatIf
from runlane.simulation.measuring import Measures, QueueMeasures, Spread
from runlane.simulation.scratch import Scratch
from runlane.tasks import Queue, Task

__all__ = ["Measures", "QueueMeasures", "Simulation", "Spread", "WhatIf", "simulate_export"]


def simulate_export(
    path: str | Path,
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
    """What ``Audit.simulate`` does, with an export in JSON Lines; needs no database.

    Raises:
        ConfigurationInvalid: an argument is not valid, or the export cannot be read; whether it is intact is not
            looked at (`runlane audit replay` does).
    """
    asked = comparing.what_if(retry, limit, workers, concurrency, seed)
    chosen = reading.selection(since, until, tasks, queues)
    with Scratch() as scratch:
        return comparing.compare(reading.of_export(path, chosen, scratch, progress), asked)
