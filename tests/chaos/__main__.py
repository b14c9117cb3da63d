"""Real processes, real faults, and an offline judge: ``python -m tests.chaos --minutes 10 --database postgres``.

Plays episode after episode, each on a new database, until the time is over; appends a line of JSON for each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from attrs import evolve

from tests import bouncer
from tests.chaos.episode import Plan, Verdict, on_postgres, on_sqlite, told
from tests.chaos.nursery import ROOT
from tests.chaos.server import OwnPostgres
from tests.chaos.tally import add_up


def main() -> int:
    """How many episodes broke a promise."""
    options = _options()
    plan = Plan(
        options.episode * 60,
        options.seed,
        options.workers,
        options.clients,
        options.intensity,
        options.rate,
        defaults=options.default_settings,
        only=tuple(options.only),
        pgbouncer=options.database == "postgres" and options.pgbouncer,
    )
    if plan.pgbouncer and bouncer.BINARY is None:
        sys.exit("--pgbouncer: there is none on the path, and RUNLANE_TEST_PGBOUNCER names none")
    lines, until = [], time.monotonic() + options.minutes * 60
    with _place(options.database, options.fsync) as (folder, server):
        while (left := until - time.monotonic()) > 1 or not lines:
            now = evolve(plan, seconds=min(plan.seconds, max(left, 1.0)), seed=plan.seed + len(lines))
            verdict = _one(folder, now, server, len(lines))
            print(told(verdict), flush=True)
            line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit(), **verdict.as_json()}
            lines.append(line)
            if options.json is not None:
                with options.json.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    (sums,) = add_up(lines).values()
    print(f"{sums['episodes']} episodes, {sums['unsound']} of them broke a promise; {dict(sums['faults'])}")
    return int(sums["unsound"])


def _one(folder: Path, plan: Plan, server: OwnPostgres | None, number: int) -> Verdict:
    """An episode in a folder of its own, which stays only if a promise was broken."""
    here = folder / f"episode-{number}"
    here.mkdir()
    verdict = on_sqlite(here, plan) if server is None else on_postgres(here, plan, server, f"chaos_{number}")
    if verdict.sound:
        shutil.rmtree(here)
    else:
        kept = Path(tempfile.mkdtemp(prefix="runlane-chaos-broken-"))
        shutil.copytree(here, kept, dirs_exist_ok=True, ignore=_sockets)
        print(f"evidence is kept in {kept}", flush=True)
    return verdict


def _sockets(folder: str, names: list[str]) -> list[str]:
    """What cannot be copied."""
    return [name for name in names if (Path(folder) / name).is_socket()]


@contextmanager
def _place(database: str, fsync: bool) -> Iterator[tuple[Path, OwnPostgres | None]]:
    """A folder, and a server if one is needed; both go at the end."""
    with tempfile.TemporaryDirectory(prefix="runlane-chaos-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o755)
        if database == "sqlite":
            yield folder, None
            return
        server = OwnPostgres(folder / "server", fsync=fsync)
        try:
            yield folder, server
        finally:
            server.close()


def _commit() -> str:
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to go on (default 2)")
    parser.add_argument("--episode", type=float, default=2.0, help="minutes of faults before everything is judged")
    parser.add_argument("--database", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--seed", type=int, default=1, help="of the first episode; each further one adds one")
    parser.add_argument("--json", type=Path, help="append a line for each episode to this file")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--rate", type=float, default=4.0, help="calls a second of each client")
    parser.add_argument("--intensity", type=float, default=1.0, help="multiplies how often faults happen")
    parser.add_argument("--only", action="append", default=[], help="only this kind of fault; repeatable")
    parser.add_argument("--default-settings", action="store_true", help="Runlane's own leases and intervals")
    parser.add_argument(
        "--pgbouncer",
        action=argparse.BooleanOptionalAction,
        default=bouncer.BINARY is not None,
        help="a third of the processes on PostgreSQL are behind PgBouncer (default: if it is installed)",
    )
    parser.add_argument("--no-fsync", dest="fsync", action="store_false", help="spare the disk of PostgreSQL")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
