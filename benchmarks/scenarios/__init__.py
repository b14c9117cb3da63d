"""What is measured: one module per scenario."""

from __future__ import annotations

from benchmarks.scenarios import (
    audit,
    backlog,
    contention,
    drain,
    latency,
    mixed,
    replay,
    schedules,
    steady,
    storage,
    trigger,
)
from benchmarks.scenarios.contract import Scenario

SCENARIOS: dict[str, Scenario] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (
        trigger,
        drain,
        steady,
        latency,
        contention,
        backlog,
        schedules,
        replay,
        audit,
        storage,
        mixed,
    )
}
