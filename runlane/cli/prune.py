"""``runlane runs prune``: removing old runs."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
from attrs import asdict

from runlane.app import Runlane
from runlane.cli import show
from runlane.cli.options import AgeOrInstant, actor_option, operator, reason_option, status_option
from runlane.cli.program import Program, program_options
from runlane.pruning import DEFAULT_LIMIT as BATCH
from runlane.pruning import Pruned
from runlane.values import TERMINAL

_PATH = click.Path(path_type=Path)


def _prune_all(
    app: Runlane, older_than: timedelta | datetime, limit: int | None, options: dict[str, Any]
) -> tuple[Pruned, list[str]]:
    """Prune in batches, all under the cutoff of the first; what went, and the archives."""
    total: Pruned | None = None
    archives: list[str] = []
    while total is None or (total.more and (limit is None or total.runs < limit)):
        batch = BATCH if limit is None else min(BATCH, limit - (0 if total is None else total.runs))
        if total is None:
            some = total = app.runs.prune(older_than, limit=batch, **options)
        else:
            some = app.runs.prune(total.cutoff, limit=batch, cursor=total.next_cursor, **options)
            counts = (total.runs + some.runs, total.events + some.events, total.keys + some.keys)
            total = Pruned(*counts, total.cutoff, some.next_cursor)
        archives += [] if some.archive is None else [some.archive]
    return total, archives


@click.command(short_help="Remove ended runs with their histories, for good.")
@program_options
@click.option("--older-than", required=True, type=AgeOrInstant(), help="Last updated that long ago, or before then.")
@status_option(sorted(TERMINAL), "Repeatable (default: all three)")
@click.option("--limit", type=click.IntRange(min=1), help="The most runs to remove (default: all that are old enough).")
@actor_option
@reason_option
@click.option("--archive", type=_PATH, metavar="FOLDER", help="Keep the removed histories there, one file a batch.")
@click.option("--key", type=_PATH, metavar="FILE", help="Sign the archives with this Ed25519 private key (PEM).")
@click.option("--dry-run", is_flag=True, help="Only count; remove nothing.")
@click.pass_obj
def prune(
    program: Program,
    /,
    older_than: timedelta | datetime,
    statuses: tuple[str, ...],
    limit: int | None,
    actor: str,
    reason: str | None,
    archive: Path | None,
    key: Path | None,
    dry_run: bool,
) -> None:
    """Remove ended runs with their histories, for good; a thousand per transaction, each recorded in the log."""
    said = {"actor": operator(actor), "reason": reason}
    options: dict[str, Any] = {"statuses": statuses or None, **said, "dry_run": dry_run, "archive": archive, "key": key}
    total, archives = _prune_all(program.started(), older_than, limit, options)
    if program.json:
        counts = asdict(total, filter=lambda attribute, _: attribute.name != "archive")
        show.json_lines([{**counts, "more": total.more, "dry_run": dry_run, "archives": archives}])
        return
    went = ((total.runs, "run"), (total.events, "event"), (total.keys, "idempotency key"))
    verb = "would remove" if dry_run else "removed"
    show.say(f"{verb} {', '.join(show.counted(number, what) for number, what in went)}")
    if archives:
        show.say(f"kept in {show.counted(len(archives), 'archive')} in {archive}")
    if total.more:
        show.say(f"more are older than {show.moment(total.cutoff)}")
