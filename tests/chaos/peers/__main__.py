"""The same faults for Runlane and two peers: ``python -m tests.chaos.peers --seed 1``.

Each gets a server of its own, the same jobs, the same seeded course of strikes and the same window after which the jobs
of a silent worker are another's; then the forced scenario, several times.  Peers are installed once, into environments
of their own, in the versions that the benchmarks pin.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import asdict

from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.environments import Unavailable
from tests.chaos.peers.contestants import BLIND, CONTESTANTS, ROOT, Contestant
from tests.chaos.peers.forced import Trial, forced
from tests.chaos.peers.playing import played
from tests.chaos.peers.processes import Place, Terms
from tests.chaos.peers.strikes import course, jobs
from tests.chaos.peers.table import table
from tests.chaos.server import OwnPostgres


def main() -> int:
    """1 if somebody could not be measured, or if Runlane broke a promise."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever sets a bound: servers and folders go all the same
    terms = Terms(window=options.window)
    known = [CONTESTANTS[name] for name in CONTESTANTS if name in options.of]
    results, failed = [], False
    for contestant in [*known, BLIND] if CONTESTANTS["runlane"] in known and options.forced else known:
        try:
            contestant.python()
            results.append(_result(contestant, options, terms))
        except (Unavailable, RuntimeError) as why:
            print(f"{contestant.title}: {why}", file=sys.stderr, flush=True)
            failed = True
    print(f"\n{table(results)}")
    if options.json is not None:
        told: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit()}
        told |= {"command": sys.argv[1:], "seed": options.seed, **asdict(terms), "results": results}
        options.json.write_text(json.dumps(told, indent=2))
    return int(failed or any(_broke_a_promise(one) for one in results if one["name"] == "runlane"))


def _result(contestant: Contestant, options: argparse.Namespace, terms: Terms) -> dict[str, Any]:
    result: dict[str, Any] = {
        "name": contestant.name,
        "title": contestant.title,
        "versions": list(PEERS[contestant.name].requirements),
        "settings": contestant.settings,
    }
    with _server(contestant, terms) as (server, folder):
        if options.seconds and contestant is not BLIND:
            result["course"] = _course(contestant, server, folder, terms, options)
        if options.forced:
            for late in ("ends", "fails"):
                result[f"forced_{late}"] = _forced(contestant, server, folder, terms, options, late)
    return result


def _course(
    contestant: Contestant, server: OwnPostgres, folder: Path, terms: Terms, options: argparse.Namespace
) -> dict[str, Any]:
    server.execute("create database course template made")
    strikes = course(options.seed, options.seconds, options.workers, terms.window)
    work = jobs(options.seed, options.seconds, options.rate)
    found = played(contestant, server, folder / "course", terms, strikes, work, options.workers)
    if options.keep is not None:
        shutil.copytree(folder / "course", options.keep / contestant.name, dirs_exist_ok=True)
    told = {**asdict(found.counts), "strikes": found.strikes, "recovery": found.recovery}
    told["ended_by_themselves"] = found.ended_by_themselves
    print(f"{contestant.title}: {told}", flush=True)
    return told


def _forced(
    contestant: Contestant, server: OwnPostgres, folder: Path, terms: Terms, options: argparse.Namespace, late: str
) -> dict[str, Any]:
    for number in range(options.forced):
        server.execute(f"create database {late}_{number} template made")

    def one(number: int) -> Trial:
        return forced(contestant, server, f"{late}_{number}", folder / f"{late}-{number}", terms, late)

    with ThreadPoolExecutor(options.at_once) as pool:
        trials = list(pool.map(one, range(options.forced)))
    problems = [trial.problem for trial in trials if trial.problem is not None]
    told = {
        "trials": len(trials),
        "finished": sum(trial.finished for trial in trials if trial.problem is None),
        "accepted": sum(trial.accepted for trial in trials if trial.problem is None),
        "failed": sum(trial.settled == "failed" for trial in trials),
        "problems": len(problems),
    }
    print(f"{contestant.title}, A {late}: {told} {problems or ''}", flush=True)
    return told


@contextmanager
def _server(contestant: Contestant, terms: Terms) -> Iterator[tuple[OwnPostgres, Path]]:
    """A server with a database ``made`` that has the library's tables; it goes at the end."""
    with tempfile.TemporaryDirectory(prefix="runlane-chaos-peers-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o755)
        server = OwnPostgres(folder / "server", fsync=False)
        try:
            server.start()
            server.execute("create database made")
            place = Place(contestant, server, "made", folder / "made", terms)
            place.setup()
            time.sleep(0.2)  # a template may have no connections, and the server takes a moment to end them
            yield server, folder
        finally:
            server.close()


def _broke_a_promise(result: dict[str, Any]) -> bool:
    course_ = result.get("course", {})
    forced_ = [result[part] for part in ("forced_ends", "forced_fails") if part in result]
    return any(course_.get(name) for name in ("lost", "stuck", "stale")) or any(
        part[name] for part in forced_ for name in ("accepted", "failed", "problems")
    )


def _commit() -> str:
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--of", nargs="+", choices=[*CONTESTANTS], default=[*CONTESTANTS], help="some of them only")
    parser.add_argument("--seed", type=int, default=1, help="of the course and of the jobs (default 1)")
    parser.add_argument("--seconds", type=float, default=45.0, help="of strikes (default 45); 0 leaves them out")
    parser.add_argument("--forced", type=int, default=10, help="how often to force a late outcome (default 10)")
    parser.add_argument("--at-once", type=int, default=3, help="so many of these at once (default 3)")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=5.0, help="jobs a second (default 5)")
    parser.add_argument("--window", type=float, default=5.0, help="seconds of silence before a rescue (default 5)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--keep", type=Path, help="keep the notes of the courses in this folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
