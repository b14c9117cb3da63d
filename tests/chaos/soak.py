"""Half an hour at half capacity with all faults, and nothing may grow: ``python -m tests.chaos.soak --minutes 30``.

An episode asks whether promises are kept; a soak asks that too, and whether anything creeps: memory, open files,
connections, dead rows, tables, the age of what waits.  Two workers and a client are spared from kills, so that they
live through all of it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import Factory, define, evolve

from tests.chaos import gauges
from tests.chaos.episode import Episode, Plan, Verdict, judge, nursery_of, recover, setting_for, told
from tests.chaos.growth import Bound, Course, Sample, judged
from tests.chaos.history import Report
from tests.chaos.jobs import PERIODS
from tests.chaos.nemesis import Nemesis, Stage
from tests.chaos.nursery import Nursery
from tests.chaos.pruner import Pruner
from tests.chaos.server import OwnPostgres
from tests.chaos.sites import PostgresSite, Site, SqliteSite

#: Faults come so much seldomer than in an episode.
CALM = 0.1
#: How many runs a call makes in the mean, by the weights of the calls.
RUNS_OF_A_CALL = 2.5
#: Runs a second that the schedules make, whatever clients do.
_SCHEDULED = sum(1 / period for period in PERIODS.values())
#: Seconds in which clients trigger as fast as the workers follow, after a few to warm up.
_WARMING, _MEASURING = 5.0, 20.0
#: Then so many seconds at most until only a few runs are left.
_SETTLING, _FEW = 60.0, 60
#: Calls a second of each client meanwhile; it waits while much is left to do.
_FAST = 300.0


class Cast(Episode):
    """Clients keep to a rate, once one is known."""

    rate: float | None = None

    def client(self) -> int:
        """At its share of the rate; or as fast as the workers follow."""
        return self._spawn("client", rate=_FAST) if self.rate is None else self._spawn("steady", rate=self.rate)

    def spared(self, urls: Sequence[str]) -> dict[str, int]:
        """A worker at each way to the database, and a client: nobody kills or pauses them."""
        known = {f"worker_{number}": self._spawn("worker", url=url) for number, url in enumerate(urls, 1)}
        return {**known, "client": self._spawn("steady", url=urls[-1], rate=self.rate or 0.0)}

    def measured(self) -> None:
        """Let the clients of the measurement end, and make way for those that come."""
        (self.folder / "over").unlink()


@define
class Soak:
    """What came of it, beside the verdict of an episode."""

    verdict: Verdict
    capacity: float | None = None
    rate: float = 0.0
    made: float = 0.0
    began: float = 0.0
    courses: list[Course] = Factory(list)
    pruned: Counter[str] = Factory(Counter)

    def as_json(self) -> dict[str, Any]:
        """A line, with a summary of the samples."""
        return {
            "soak": True,
            **self.verdict.as_json(),
            "runs_a_second_at_capacity": self.capacity,
            "runs_a_second_wanted": round(self.rate, 1),
            "runs_a_second_made": self.made,
            "pruned": dict(self.pruned),
            "measures": {course.name: course.as_json() for course in self.courses},
        }


def soak(folder: Path, plan: Plan, site: Site, rate: float | None, age: float) -> Soak:
    """Play it on a new database, and judge.

    Args:
        rate: runs a second; None is half of what the workers manage, which is measured first.
        age: seconds after which a run that has ended is pruned.
    """
    result = Soak(Verdict(site.kind, plan, Counter(), Report()))
    pruner = Pruner(site, age / 2, age)
    samples: list[Sample] = []
    with nursery_of(folder, site.urls[0]) as nursery:
        _play(result, folder, site, nursery, rate, pruner, samples)
    evidence, result.verdict.findings[:] = _whole(result, site, pruner)
    result.pruned = pruner.tally
    born = [event.at.timestamp() - result.began for event in evidence.events if event.type == "run.created"]
    result.made = round(sum(0 <= at < plan.seconds for at in born) / plan.seconds, 1)
    judge(result.verdict, folder, site.urls[0], evidence)
    _judge_growth(result, site, samples, folder)
    return result


def _whole(result: Soak, site: Site, pruner: Pruner) -> tuple[Any, list[str]]:
    evidence, findings = pruner.whole(site.evidence())
    return evidence, result.verdict.findings + findings


def _play(
    result: Soak,
    folder: Path,
    site: Site,
    nursery: Nursery,
    rate: float | None,
    pruner: Pruner,
    samples: list[Sample],
) -> None:
    """Everything but the judging."""
    verdict, plan = result.verdict, result.verdict.plan
    cast = Cast(folder, plan, site.urls, nursery, evolve(setting_for(plan, folder), carries=True))
    migrated = cast.migrate()
    stage = Stage(nursery, cast, 2.0, cast.ready, site.server, site.proxy, site.name, busy=cast.busy)
    nemesis = Nemesis(stage, plan.rates(site.kind), random.Random(plan.seed + 1), plan.workers, plan.clients)
    if rate is None:
        _measure(result, nemesis, cast, site)
    else:
        result.rate = rate
    cast.rate = max(1.0, result.rate - _SCHEDULED) / RUNS_OF_A_CALL / (plan.clients + 1)
    spared = cast.spared(site.urls)
    _settle(nemesis, site)
    result.began, began = time.time(), time.monotonic()
    until, pause = began + plan.seconds, min(5.0, plan.seconds / 60)
    while (left := until - time.monotonic()) > 0:
        nemesis.rage(min(pause, left))
        samples.append(Sample(time.monotonic() - began, _measured(spared, site)))
        pruner.look()
    nemesis.clients.add(spared["client"])  # it is to end now, as the others are
    cast.is_over()
    nemesis.relent()
    verdict.recovery = recover(nemesis, site.unfinished, plan.recovery)
    if verdict.recovery is None:
        verdict.findings.append(f"not everything had ended {plan.recovery:g} s after the last fault")
    pruner.end()
    nemesis.workers |= {pid for name, pid in spared.items() if name != "client"}
    nemesis.stop_all()
    verdict.faults, verdict.clocks = nemesis.tally + migrated, cast.clocks
    verdict.ways = cast.ways
    verdict.findings += nemesis.findings
    if verdict.recovery is not None and (problem := cast.finish()) is not None:
        verdict.findings.append(problem)


def _measure(result: Soak, nemesis: Nemesis, cast: Cast, site: Site) -> None:
    """How many runs the workers manage while nothing is broken; half of it is the rate."""
    _wait(nemesis, _WARMING)
    (_, finished), began = site.counts(), time.monotonic()
    _wait(nemesis, _MEASURING)
    (_, finished_then), seconds = site.counts(), time.monotonic() - began
    result.capacity = round((finished_then - finished) / seconds, 1)
    result.rate = result.capacity / 2
    cast.is_over()
    while nemesis.clients:
        nemesis.look()
        time.sleep(0.01)
    cast.measured()
    print(f"{site.kind}: {result.capacity:,.1f} runs a second at capacity, half of them from now on", flush=True)


def _settle(nemesis: Nemesis, site: Site) -> None:
    """Let what the measurement has left be done, so that it is not taken for a beginning."""
    until = time.monotonic() + _SETTLING
    while site.counts()[0] - site.counts()[1] > _FEW and time.monotonic() < until:
        _wait(nemesis, 0.5)


def _wait(nemesis: Nemesis, seconds: float) -> None:
    """Break nothing, and see that everybody is there."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        nemesis.look(clients=True)
        time.sleep(0.05)


def _measured(spared: Mapping[str, int], site: Site) -> dict[str, float]:
    values = site.gauges()
    for name, pid in spared.items():
        values |= gauges.of_process(name, pid)
    return values


def _judge_growth(result: Soak, site: Site, samples: list[Sample], folder: Path) -> None:
    """State what grew, and keep the samples with the evidence."""
    names = [f"worker_{number}" for number in range(1, len(site.urls) + 1)]
    bounds: dict[str, Bound] = {**site.bounds}
    for name in (*names, "client"):
        bounds |= {f"{name}_{measure}": bound for measure, bound in gauges.OF_PROCESSES.items()}
    result.courses = judged(samples, bounds)
    result.verdict.findings += [course.problem for course in result.courses if course.problem is not None]
    with (folder / "samples.jsonl").open("w") as file:
        for sample in samples:
            values = {name: round(value, 2) for name, value in sample.values.items()}
            file.write(json.dumps({"at": round(sample.at, 1), **values}) + "\n")


def shown(result: Soak) -> str:
    """A soak in some lines."""
    rates = f"  {result.made} runs made a second, {result.rate:.1f} wanted; {result.capacity} at capacity"
    lines = [told(result.verdict), rates, f"  pruned: {dict(result.pruned)}"]
    for course in result.courses:
        numbers = course.as_json()
        lines.append(
            f"  {course.name}: {numbers['second_quarter']} then {numbers['last_quarter']}, at most {numbers['most']}"
            f" ({numbers['samples']} samples; level up to {numbers['bound']})"
        )
    return "\n".join(lines)


@contextmanager
def _site(folder: Path, database: str, fsync: bool) -> Iterator[Site]:
    if database == "sqlite":
        yield SqliteSite(folder)
        return
    server = OwnPostgres(folder / "server", fsync=fsync)
    try:
        site = PostgresSite(server)
        try:
            yield site
        finally:
            site.close()
    finally:
        server.close()


def main() -> int:
    """1 if a promise was broken or something grew."""
    options = _options()
    plan = Plan(options.minutes * 60, options.seed, options.workers, options.clients, options.intensity)
    age = options.prune_after or min(180.0, max(60.0, plan.seconds / 10))
    with tempfile.TemporaryDirectory(prefix="runlane-soak-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o755)
        with _site(folder, options.database, options.fsync) as site:
            result = soak(folder, plan, site, options.rate, age)
        print(shown(result), flush=True)
        if options.json is not None:
            with options.json.open("a") as file:
                file.write(json.dumps(result.as_json()) + "\n")
        if options.samples is not None:
            shutil.copy(folder / "samples.jsonl", options.samples)
        if not result.verdict.sound:
            kept = Path(tempfile.mkdtemp(prefix="runlane-soak-broken-"))
            shutil.rmtree(folder / "server", ignore_errors=True)
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            print(f"evidence is kept in {kept}", flush=True)
    return 0 if result.verdict.sound else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default 30)")
    parser.add_argument("--database", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, help="runs a second (default: half of what is measured first)")
    parser.add_argument("--workers", type=int, default=4, help="those that are struck; two more are spared")
    parser.add_argument("--clients", type=int, default=3, help="those that are struck; one more is spared")
    parser.add_argument(
        "--intensity", type=float, default=CALM, help=f"of the faults; an episode has 1 (default {CALM})"
    )
    parser.add_argument("--prune-after", type=float, help="seconds (default: a tenth of the time, 60 to 180)")
    parser.add_argument("--json", type=Path, help="append the line of this soak to a file")
    parser.add_argument("--samples", type=Path, help="write all samples to this file, a line each")
    parser.add_argument("--no-fsync", dest="fsync", action="store_false", help="spare the disk of PostgreSQL")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
