"""``runlane runs cancel|retry|rerun`` and ``runlane keys reset``: what operators do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from runlane.bulk import LIMIT, Bulk, done_before, tell
from runlane.cli import completion, show
from runlane.cli.options import actor_option, conditions_of, filter_options, operator, reason_option
from runlane.cli.program import Program, program_options
from runlane.cli.runs import runs
from runlane.errors import RunlaneError
from runlane.operators import Runs
from runlane.projections.runs import Run
from runlane.values import Actor


def _operation(name: str, summary: str, one: Callable[..., Run], many: Callable[..., Bulk], *, tasks: bool) -> None:
    """Add a command that does something to the named runs, or to those that match conditions."""

    def command(
        program: Program, /, run: tuple[str, ...], every: bool, actor: str, reason: str | None, **options: Any
    ) -> None:
        limit, cursor = options.pop("limit"), options.pop("cursor")
        where = conditions_of(options, cursor)
        if bool(run) == bool(where or every):
            raise click.UsageError("name runs, or give conditions such as --task (or --all for every run)")
        api, by = program.started(tasks=tasks).runs, operator(actor)
        try:
            if run:
                done = Bulk(*_each(api, one, run, by, reason), None)
            else:
                done = many(api, actor=by, reason=reason, limit=limit, cursor=cursor, **where)
        except BaseException as error:
            if (done_so_far := done_before(error)) is not None:
                _show(program, done_so_far, "cut short; go on with")
            raise
        _show(program, done, "more: add")
        if done.refused:
            raise click.exceptions.Exit(1)

    decorated: Any = command
    decorated.__doc__ = summary
    for option in (
        click.pass_obj,
        reason_option,
        actor_option,
        click.option("--all", "every", is_flag=True, help="Every run that the operation is for."),
        click.option("--cursor", metavar="TEXT", help="Go on where the call before ended."),
        click.option("--limit", default=LIMIT, show_default=True, help="The most runs, 1 to 500."),
        filter_options,
        click.argument("run", metavar="[RUN]...", nargs=-1),
        program_options,
    ):
        decorated = option(decorated)
    runs.command(name, help=summary)(decorated)


def _each(
    api: Runs, one: Callable[..., Run], ids: tuple[str, ...], actor: Actor, reason: str | None
) -> tuple[tuple[Run, ...], dict[Any, str]]:
    changed: list[Run] = []
    refused: dict[Any, str] = {}
    try:
        for run_id in ids:
            try:
                changed.append(one(api, run_id, actor=actor, reason=reason))
            except RunlaneError as error:
                if error.retryable or len(ids) == 1:
                    raise
                refused[run_id] = error.message
    except BaseException as error:
        if changed or refused:
            tell(error, Bulk(tuple(changed), refused, None))
        raise
    return tuple(changed), refused


def _show(program: Program, done: Bulk, to_go_on: str) -> None:
    if program.json:
        show.json_lines(show.run_row(run) for run in done.changed)
        show.json_lines({"refused": run_id, "reason": reason} for run_id, reason in done.refused.items())
        if done.next_cursor:
            show.json_lines([{"next_cursor": done.next_cursor}])
        return
    if done.changed:
        show.table(("id", "task", "status"), [(run.id, run.task_id, run.status) for run in done.changed])
    else:
        show.say("no run was changed")
    if done.next_cursor:
        show.say(f"\n{to_go_on} --cursor {done.next_cursor}")
    for reason in done.refused.values():
        show.complain(reason)


_operation(
    "cancel",
    "Cancel waiting runs at once, and ask running ones to stop.",
    Runs.cancel,
    Runs.cancel_many,
    tasks=False,
)
_operation("retry", "Make a new run of each failed one.", Runs.retry, Runs.retry_many, tasks=True)
_operation("rerun", "Make a new run of each ended one.", Runs.rerun, Runs.rerun_many, tasks=True)


@click.group()
@program_options
def keys() -> None:
    """Idempotency keys."""


@keys.command(short_help="Free the key that an ended run keeps.")
@program_options
@click.argument("task", metavar="TASK", shell_complete=completion.tasks)
@click.argument("key", metavar="KEY")
@actor_option
@reason_option
@click.pass_obj
def reset(program: Program, /, task: str, key: str, actor: str, reason: str | None) -> None:
    """Free the key that an ended run of TASK keeps; exit code 1 if there was nothing to free."""
    app = program.started(tasks=True)
    freed = app.idempotency_keys.reset(task, key, actor=operator(actor), reason=reason)
    if program.json:
        show.json_lines([{"freed": freed}])
    else:
        show.say("the key is free" if freed else "nothing to free")
    if not freed:
        raise click.exceptions.Exit(1)
