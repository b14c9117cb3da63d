"""Reading the whole log again."""

from __future__ import annotations

import random
import time

from attrs import frozen

from benchmarks.counting import verified
from benchmarks.databases import Databases
from benchmarks.figures import Sample
from benchmarks.jobs import backlog, noop
from benchmarks.scenarios.contract import Scenario, option, repeated


@frozen
class Options:
    """How long the log is."""

    runs: int = option(20_000, "Finished runs of four events each.")


def once(places: Databases, options: Options, _: random.Random) -> Sample:
    """Verify once."""
    with places.fresh().app() as app:
        backlog(app, noop, options.runs)
        app.worker("drain", concurrency=500).run()
        began = time.perf_counter()
        events = verified(app)
        took = time.perf_counter() - began
    if events != 4 * options.runs:
        raise SystemExit(f"expected {4 * options.runs} events; found {events}")
    return Sample({"verified_events_per_s": events / took})


SCENARIO = Scenario(
    "replay",
    "The whole log folded again.  Events per second of audit verify on a finished history.",
    Options,
    repeated(once),
    lambda options: "verify",
    tiny={"runs": 100},
    in_memory=lambda options: True,
)
