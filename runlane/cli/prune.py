"""``runlane runs prune``: removing old runs."""

from __future__ import annotations

from datetime import datetime, timedelta
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


def _prune_all(app: Runlane, older_than: timedelta | datetime, limit: int | None, options: dict[str, Any]) -> Pruned:
    """Prune in batches, all under the cutoff of the first."""
    total: Pruned | None = None
    while total is None or (total.more and (limit is None or total.runs < limit)):
        batch = BATCH if limit is None else min(BATCH, limit - (0 if total is None else total.runs))
        if total is None:
            total = app.runs.prune(older_than, limit=batch, **options)
            continue
        some = app.runs.prune(total.cutoff, limit=batch, cursor=total.next_cursor, **options)
        counts = (total.runs + some.runs, total.events + some.events, total.keys + some.keys)
        total = Pruned(*counts, total.cutoff, some.next_cursor)
    return total


@click.command(short_help="Remove ended runs with their histories, for good.")
@program_options
@click.option("--older-than", required=True, type=AgeOrInstant(), help="Last updated that long ago, or before then.")
@status_option(sorted(TERMINAL), "Repeatable (default: all three)")
@click.option("--limit", type=click.IntRange(min=1), help="The most runs to remove (default: all that are old enough).")
@actor_option
@reason_option
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
    dry_run: bool,
) -> None:
    """Remove ended runs with their histories, for good; a thousand per transaction, each recorded in the log."""
    said = {"actor": operator(actor), "reason": reason}
    options: dict[str, Any] = {"statuses": statuses or None, **said, "dry_run": dry_run}
    total = _prune_all(program.started(), older_than, limit, options)
    if program.json:
        show.json_lines([{**asdict(total), "more": total.more, "dry_run": dry_run}])
        return
    went = ((total.runs, "run"), (total.events, "event"), (total.keys, "idempotency key"))
    verb = "would remove" if dry_run else "removed"
    show.say(f"{verb} {', '.join(show.counted(number, what) for number, what in went)}")
    if total.more:
        show.say(f"more are older than {show.moment(total.cutoff)}")
