"""Options that several commands share: conditions on runs, times, names of definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from runlane import reading
from runlane.app import Runlane
from runlane.cli import completion
from runlane.errors import ConfigurationInvalid
from runlane.tasks import Queue
from runlane.values import Actor, RunStatus, duration, identifier

F = TypeVar("F", bound=Callable[..., Any])

actor_option = click.option(
    "--actor", default="cli", show_default=True, metavar="NAME", help="Who asks; an operator's name."
)
reason_option = click.option("--reason", metavar="TEXT", help="Why; kept in the history.")


def operator(name: str) -> Actor:
    """The operator of ``--actor``."""
    return Actor.operator(identifier("actor", name))


def queue_named(app: Runlane, name: str) -> Queue:
    """The queue of this name that the program has."""
    known = app.registry.queues
    if name not in known:
        raise click.UsageError(f"there is no queue {name!r}; known are {', '.join(sorted(known))}")
    return known[name]


def queues_named(app: Runlane, names: Iterable[str]) -> list[Queue] | None:
    """The queues of these names; None, which means all of them, if there are no names."""
    return [queue_named(app, name) for name in names] or None


class Length(click.ParamType[timedelta]):
    """A length of time, such as ``30s``."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The length of what was typed."""
        try:
            return duration("it", value)
        except ConfigurationInvalid as error:
            self.fail(error.message, param, ctx)


class Moment(click.ParamType[datetime]):
    """An aware instant; UTC where no zone is named."""

    name = "TIME"
    expected = "is no instant like 2026-01-31T12:00:00Z"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The instant of what was typed."""
        if isinstance(value, datetime):
            return value
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} {self.expected}", param, ctx)
        return at if at.tzinfo else at.replace(tzinfo=UTC)


class Instant(Moment):
    """An aware instant, or how long ago (``2h``)."""

    name = "TIME|AGO"
    expected = "is neither an instant like 2026-01-31T12:00:00Z nor an age like 2h"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The instant of what was typed."""
        try:
            return datetime.now(UTC) - duration("age", value)
        except OverflowError:
            self.fail(f"{value!r} reaches back beyond the year 1", param, ctx)
        except ConfigurationInvalid:
            return super().convert(value, param, ctx)


class Since(Instant):
    """The same, but an age stays one: what it counts from is said by a cursor, if there is one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The age or the instant of what was typed."""
        at = super().convert(value, param, ctx)
        try:
            return duration("age", value)
        except ConfigurationInvalid:
            return at


class AgeOrInstant(Moment):
    """An age as it was typed, for the database's clock to subtract, or an aware instant."""

    name = "AGE|TIME"
    expected = Instant.expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The age or the instant of what was typed."""
        try:
            return duration("age", value)
        except ConfigurationInvalid:
            return super().convert(value, param, ctx)


def status_option(statuses: Iterable[RunStatus], says: str) -> Callable[[F], F]:
    """``--status``, given any number of times; the statuses stand in its help rather than in its name."""
    names = [status.value for status in statuses]
    return click.option(
        "--status",
        "statuses",
        multiple=True,
        type=click.Choice(names),
        metavar="STATUS",
        help=f"{says}: {', '.join(names)}.",
    )


def filter_options(command: F) -> F:
    """The conditions on runs that ``list`` and the bulk operations share."""
    options = (
        status_option(RunStatus, "Repeatable"),
        click.option(
            "--task",
            "tasks",
            multiple=True,
            metavar="ID",
            shell_complete=completion.tasks,
            help="Of this task; repeatable.",
        ),
        click.option(
            "--queue",
            "queues",
            multiple=True,
            metavar="NAME",
            shell_complete=completion.queues,
            help="On this queue; repeatable.",
        ),
        click.option("--correlation-id", metavar="TEXT", help="With this reference of the caller's."),
        click.option(
            "--idempotency-key", metavar="KEY", help="Triggered with this key, whether it still holds or not."
        ),
        click.option("--singleton-key", metavar="KEY", help="With this singleton key."),
        click.option("--concurrency-key", metavar="KEY", help="Counted under this key on bounded queues."),
        click.option("--source-run", "source_run_id", metavar="RUN", help="Reruns and manual retries of this run."),
        click.option("--parent-run", "parent_run_id", metavar="RUN", help="Runs that this run's handler triggered."),
        click.option("--schedule", "schedule_id", metavar="ID", help="Runs that this schedule made."),
        click.option("--after", "created_after", type=Since(), help="Created after an instant, or within an age."),
        click.option(
            "--before", "created_before", type=Since(), help="Created before an instant, or longer ago than an age."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def conditions_of(options: dict[str, Any], cursor: str | None = None) -> dict[str, Any]:
    """The conditions that were given; an age counts from the first of the calls that go on with a cursor."""
    kept, now = reading.kept(cursor), datetime.now(UTC)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return {
        name: kept.get(name, now - value) if isinstance(value, timedelta) else value for name, value in given.items()
    }
