"""One chaos from the first table to the verdict: work, faults, recovery, and what the checker and the audit say."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from attrs import Factory, define, evolve, frozen

from tests.chaos.history import Evidence, Promised, Report, check, read_calls, read_effects, read_postgres, read_sqlite
from tests.chaos.jobs import LIMITS, PERIODS, Setting
from tests.chaos.nemesis import BEHIND_PGBOUNCER, ON_POSTGRES, ON_SQLITE, Nemesis, Stage
from tests.chaos.nursery import ROOT, Nursery
from tests.chaos.pooler import OwnBouncer
from tests.chaos.proxy import Proxy
from tests.chaos.server import OwnPostgres

#: Seconds within which everything has to end once the faults are over, unless a plan says otherwise.
RECOVERY = 60.0
#: Seconds by which the clocks of workers are off.
_SKEWS = {"ahead": 86_400.0, "behind": -86_400.0, "right": 0.0}
#: Bytes of the file of effects that tell who is busy.
_NEWEST = 32_768
#: What the URLs of a database lead through, in their order.
_WAYS = ("directly", "by_proxy", "by_pgbouncer")


@frozen
class Plan:
    """How an episode is played.

    Args:
        seconds: how long the faults go on.
        intensity: multiplies how often they happen.
        rate: calls a second of each client.
        migrators: how many processes create the tables at once, three of which are killed.
        least: so many calls must have been answered before the faults stop, however long that takes.
        defaults: heartbeat, lease and intervals as Runlane has them by default, instead of short ones.
        recovery: seconds within which everything has to end once the faults are over.
        blind: the share of workers that do without the clock by which they notice that they have slept.
        faults: how often some kinds happen in a second, where that is not to be as usual.
        pgbouncer: on PostgreSQL, whether a third of the processes are behind PgBouncer in transaction mode.
    """

    seconds: float
    seed: int
    workers: int = 6
    clients: int = 3
    intensity: float = 1.0
    rate: float = 4.0
    least: int = 0
    migrators: int = 8
    defaults: bool = False
    only: tuple[str, ...] = ()
    recovery: float = RECOVERY
    pgbouncer: bool = False
    blind: float = 0.3
    faults: Mapping[str, float] = Factory(dict)

    def rates(self, database: str) -> dict[str, float]:
        """How often each fault happens."""
        known = ON_SQLITE
        if database == "postgres":
            known = {**ON_POSTGRES, **(BEHIND_PGBOUNCER if self.pgbouncer else {})}
        chosen = {**known, **{kind: rate for kind, rate in self.faults.items() if kind in known}}
        return {kind: rate * self.intensity for kind, rate in chosen.items() if not self.only or kind in self.only}


@define
class Verdict:
    """What came of an episode."""

    database: str
    plan: Plan
    faults: Counter[str]
    report: Report
    audit: str = ""
    recovery: float | None = None
    findings: list[str] = Factory(list)
    dropped: dict[str, int] = Factory(dict)
    tracebacks: int = 0
    clocks: Counter[str] = Factory(Counter)
    ways: Counter[str] = Factory(Counter)

    @property
    def sound(self) -> bool:
        """Whether every promise was kept."""
        return self.report.sound and not self.findings

    def as_json(self) -> dict[str, Any]:
        """A line of the tally."""
        return {
            "database": self.database,
            "seed": self.plan.seed,
            "seconds": self.plan.seconds,
            "workers": self.plan.workers,
            "intensity": self.plan.intensity,
            "settings": "default" if self.plan.defaults else "short leases",
            "faults": dict(self.faults),
            "workers_by_clock": dict(self.clocks),
            "processes_by_way": dict(self.ways),
            **self.report.counts(),
            "outcomes_dropped": self.dropped,
            "tracebacks": self.tracebacks,
            "recovery_seconds": self.recovery,
            "audit": self.audit,
            "findings": self.findings + self.report.findings(),
            "sound": self.sound,
        }


class Episode:
    """The processes of one chaos, and the places they know the database under."""

    def __init__(self, folder: Path, plan: Plan, urls: list[str], nursery: Nursery, settings: Setting) -> None:
        self.folder = folder
        self.plan = plan
        self._urls = urls
        self._nursery = nursery
        self._setting = settings
        self._rng = random.Random(plan.seed)
        self._numbers = count(1)
        self._clocks: dict[int, str] = {}
        #: How many processes came to the database directly, through the proxy and through PgBouncer.
        self.ways: Counter[str] = Counter()

    def worker(self, beside: Iterable[int]) -> int:
        """A worker; some trust nobody but the database about their leases, some have a clock that is a day off.

        On PostgreSQL one that is ahead and one that is behind are always among them, where there are two at least, and
        the seed draws more.  A file takes its time from whoever writes to it, and all of those share the clock of one
        machine: there is nobody there who could be off.

        Args:
            beside: the workers that are there.
        """
        trusting = self._rng.random() < self.plan.blind
        clock = "right"
        if self._urls[0].startswith("postgresql"):
            drawn = self._rng.choice(["ahead", "behind"]) if self._rng.random() < 0.15 else "right"
            there = {self._clocks.get(pid) for pid in beside}
            clock = next((kind for kind in ("ahead", "behind") if kind not in there), drawn)
        pid = self._spawn("worker", trusting=trusting, skew=_SKEWS[clock])
        self._clocks[pid] = clock
        return pid

    @property
    def clocks(self) -> Counter[str]:
        """How many workers had which clock."""
        return Counter(self._clocks.values())

    def client(self) -> int:
        """A client, until the faults are over."""
        return self._spawn("client", rate=self.plan.rate)

    def goes_on(self) -> bool:
        """Whether clients have been told too little yet."""
        return self.answered() < self.plan.least

    def answered(self) -> int:
        """How many calls of clients went well so far."""
        return sum(path.read_bytes().count(b'"answer": "ok"') for path in self.folder.glob("calls-*"))

    def ready(self) -> set[int]:
        """The workers that have begun to work, dead ones among them."""
        path = self.folder / "ready"
        return {int(line) for line in path.read_text().split()} if path.exists() else set()

    def busy(self) -> set[int]:
        """Those in the middle of an attempt that has begun a moment ago, by the newest of the effects."""
        path = self.folder / "effects"
        if not path.exists():
            return set()
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _NEWEST))
            lines = file.read().decode().splitlines()[1:]
        begun: dict[tuple[str, str], tuple[int, float]] = {}
        for run, attempt, _, what, pid, at in (line.split() for line in lines):
            begun.pop((run, attempt), None)
            if what == "started":
                begun[run, attempt] = int(pid), float(at)
        return {pid for pid, at in begun.values() if at > time.time() - 1.0}

    def is_over(self) -> None:
        """Tell the clients to end."""
        (self.folder / "over").touch()

    def migrate(self) -> Counter[str]:
        """Some at once, three of them killed on the way; whoever lives has to come to an end, and leave the tables."""
        pids = [self._spawn("migrator") for _ in range(self.plan.migrators)]
        doomed = set(self._rng.sample(pids, 3))
        left, deadline = set(pids), time.monotonic() + 60
        tally: Counter[str] = Counter({"migrator_kill": 0})
        for pid in doomed:
            time.sleep(self._rng.uniform(0, 0.15))
            tally["migrator_kill"] += self._nursery.signal(pid, signal.SIGKILL)
        while left:
            for pid, code in self._nursery.ends().items():
                left.discard(pid)
                if code != 0 and pid not in doomed:
                    raise RuntimeError(f"a migrator ended with {code}; see {self.folder}/errors.log")
            if time.monotonic() > deadline:
                raise RuntimeError("a migrator does not end")
            time.sleep(0.01)
        return tally

    def finish(self) -> str | None:
        """Work off what the schedules have made meanwhile; why that was not possible."""
        pid, deadline = self._spawn("finisher"), time.monotonic() + 90
        while (code := self._nursery.ends().get(pid)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return None if code == 0 else f"what was left could not be worked off: see {self.folder}/errors.log"

    def _spawn(self, role: str, url: str | None = None, **arguments: Any) -> int:
        name = f"{role[0]}{next(self._numbers)}"
        url = self._urls[0] if role == "finisher" else url or self._rng.choice(self._urls)
        self.ways[_WAYS[self._urls.index(url)]] += 1
        setting = evolve(self._setting, url=url)
        return self._nursery.spawn(role, name=name, setting=setting.as_json(), **arguments)


def on_sqlite(folder: Path, plan: Plan) -> Verdict:
    """An episode on a new file."""
    path = folder / "chaos.db"
    url = f"sqlite:///{path}"

    def evidence() -> Evidence:
        return read_sqlite(path)

    def unfinished(before: float) -> int:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            asked = "select count(*) from runs where finished_at is null and unixepoch(created_at) < ?"
            return int(connection.execute(asked, (before,)).fetchone()[0])
        finally:
            connection.close()

    with nursery_of(folder, url) as nursery:
        verdict = _play(Episode(folder, plan, [url], nursery, setting_for(plan, folder)), nursery, "sqlite", unfinished)
    judge(verdict, folder, url, evidence())
    connection = sqlite3.connect(path)
    (integrity,) = connection.execute("pragma integrity_check").fetchone()
    connection.close()
    if integrity != "ok":
        verdict.findings.append(f"the file is damaged: {integrity}")
    return verdict


def on_postgres(folder: Path, plan: Plan, server: OwnPostgres, database: str) -> Verdict:
    """An episode in a new database of a server that may be killed."""
    server.start()
    server.execute(f"create database {database}")
    url = server.url(database)
    proxy = Proxy(server.socket)
    pooler = OwnBouncer(folder / "pgbouncer", server, database) if plan.pgbouncer else None

    def unfinished(before: float) -> int:
        asked = f"select count(*) from runlane.runs where finished_at is null and created_at < to_timestamp({before})"
        return int(server.execute(asked, database)[0][0])

    try:
        through = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}"
        with nursery_of(folder, url) as nursery:
            urls = [url, through] if pooler is None else [url, through, pooler.url]
            episode = Episode(folder, plan, urls, nursery, setting_for(plan, folder))
            broken = {"server": server, "proxy": proxy, "database": database, "pooler": pooler}
            verdict = _play(episode, nursery, "postgres", unfinished, **broken)
        judge(verdict, folder, url, read_postgres(server.conninfo(database)))
        if verdict.sound:
            server.execute(f"drop database {database} with (force)")
    finally:
        proxy.close()
        if pooler is not None:
            pooler.close()
    return verdict


def setting_for(plan: Plan, folder: Path) -> Setting:
    if plan.defaults:
        return Setting("", str(folder), "10s", "30s", 1.0, 1.0, 10)
    return Setting("", str(folder))


@contextmanager
def nursery_of(folder: Path, url: str) -> Iterator[Nursery]:
    nursery = Nursery(
        folder / "errors.log", {"RUNLANE_CHAOS_EFFECTS": str(folder / "effects"), "RUNLANE_CHAOS_URL": url}
    )
    try:
        yield nursery
    finally:
        nursery.close()


def _play(episode: Episode, nursery: Nursery, kind: str, unfinished: Any, **broken: Any) -> Verdict:
    """Everything but the judging; `broken` as ``Stage`` has it."""
    plan = episode.plan
    migrated = episode.migrate()
    lease = 30.0 if plan.defaults else 2.0
    stage = Stage(nursery, episode, lease, episode.ready, busy=episode.busy, **broken)
    nemesis = Nemesis(stage, plan.rates(kind), random.Random(plan.seed + 1), plan.workers, plan.clients)
    nemesis.rage(plan.seconds)
    deadline = time.monotonic() + plan.recovery
    while (episode.goes_on() or nemesis.owes()) and time.monotonic() < deadline:
        nemesis.rage(0.5)
    episode.is_over()
    nemesis.relent()
    verdict = Verdict(kind, plan, Counter(), Report())
    verdict.recovery = recover(nemesis, unfinished, plan.recovery)
    if verdict.recovery is None:
        verdict.findings.append(f"not everything had ended {plan.recovery:g} s after the last fault")
    nemesis.stop_all()
    verdict.faults, verdict.clocks = nemesis.tally + migrated, episode.clocks
    verdict.ways = episode.ways
    verdict.findings += nemesis.findings
    if verdict.recovery is not None and (problem := episode.finish()) is not None:
        verdict.findings.append(problem)
    return verdict


def recover(nemesis: Nemesis, unfinished: Any, patience: float) -> float | None:
    """Seconds until everything has ended that was there when the last fault was over; None if that takes too long."""
    began, before = time.monotonic(), time.time()
    while time.monotonic() - began < patience:
        nemesis.look()
        if unfinished(before) == 0:
            return round(time.monotonic() - began, 2)
        time.sleep(0.1)
    return None


def judge(verdict: Verdict, folder: Path, url: str, evidence: Evidence) -> None:
    evidence.effects = read_effects([folder / "effects"])
    evidence.calls = read_calls(sorted(folder.glob("calls-*")))
    evidence.promised = Promised(LIMITS, PERIODS)
    verdict.report = check(evidence)
    errors = (folder / "errors.log").read_text(errors="replace")
    verdict.dropped = {
        "by_the_worker": errors.count("outcomes of a lost worker session"),
        "by_the_database": errors.count("the lease was lost, its outcome was dropped"),
    }
    verdict.tracebacks = errors.count("Traceback")
    command = [sys.executable, "-m", "runlane", "--app", "tests.chaos.jobs:app", "audit", "verify"]
    environment = os.environ | {"RUNLANE_CHAOS_URL": url, "PYTHONPATH": str(ROOT)}
    audited = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    verdict.audit = (audited.stdout + audited.stderr).strip()[-2000:]
    if audited.returncode != 0:
        verdict.findings.append(f"runlane audit verify: exit code {audited.returncode}")
    if not verdict.sound:  # for whoever looks into it
        with (folder / "events.jsonl").open("w") as file:
            for event in evidence.events:
                told_of = (event.position, event.stream, event.sequence, event.type, event.at.isoformat(), event.data)
                file.write(json.dumps(told_of) + "\n")


def told(verdict: Verdict) -> str:
    """A verdict in a few lines."""
    report = verdict.report
    how = "sound" if verdict.sound else "BROKEN"
    late = " and ".join(f"{number} {who.replace('_', ' ')}" for who, number in verdict.dropped.items())
    costs = (
        f"executions repeated {report.repeated}, outcomes that came too late {report.stale_attempted} (dropped: {late})"
    )
    broken = f"stale writes accepted {len(report.stale_accepted)}, acknowledged runs lost {len(report.lost)}"
    lines = [
        f"{verdict.database}, seed {verdict.plan.seed}, {verdict.plan.seconds:.0f} s: {how}",
        f"  faults: {_listed(verdict.faults)}",
        f"  clocks of workers: {_listed(verdict.clocks)}; processes connected {_listed(verdict.ways)}",
        f"  {report.runs} runs, {report.events} events, {report.attempts} attempts, calls {json.dumps(report.calls)}",
        f"  {costs}",
        f"  {broken}, projection differences {len(report.differences)}; recovered in {verdict.recovery} s",
        f"  audit: {verdict.audit}",
    ]
    return "\n".join(lines + [f"  ! {finding}" for finding in verdict.findings + report.findings()])


def _listed(numbers: Counter[str]) -> str:
    return ", ".join(f"{number} {kind.replace('by_', 'by ')}" for kind, number in sorted(numbers.items()))
