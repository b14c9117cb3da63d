"""What is measured: one module per scenario."""

from __future__ import annotations

from benchmarks.scenarios import (
    drain,
    latency,
    replay,
    trigger,
)
from benchmarks.scenarios.contract import Scenario

SCENARIOS: dict[str, Scenario] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (
        trigger,
        drain,
        latency,
        replay,
    )
}
