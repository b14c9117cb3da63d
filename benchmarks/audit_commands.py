"""The commands of ``runlane audit`` and its neighbours on a log, each as a terminal would run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen

from runlane import Runlane
from runlane.cli import main

#: The arguments of a command, made before it is timed.
Arguments = Callable[[Runlane, Path], Sequence[str]]


@frozen
class Command:
    """A command, and what has to be there before it.

    Args:
        arguments: of the command line, without those that name the database.
        changes: whether the log is another one behind it, so that each measurement needs one of its own.
        before: other commands, given first.
    """

    arguments: Arguments
    changes: bool = False
    before: tuple[Arguments, ...] = ()


def _plain(*arguments: str) -> Arguments:
    return lambda app, folder: [one.format(folder=folder) for one in arguments]


def _of_a_run(*arguments: str) -> Arguments:
    """Of one of the runs of the log."""

    def made(app: Runlane, folder: Path) -> list[str]:
        (run,) = app.runs.list(limit=1).data
        return [one.format(folder=folder, run=run.id) for one in arguments]

    return made


def _as_of(app: Runlane, _: Path) -> list[str]:
    return ["audit", "as-of", (datetime.now(UTC) + timedelta(seconds=1)).isoformat()]


_CHECKPOINT = _plain("audit", "checkpoint", "--out", "{folder}/checkpoint.json")
_PROVE = _of_a_run("audit", "prove", "{run}", "--out", "{folder}/proof.json")
_EXPORT = _plain("audit", "export", "{folder}/log.jsonl")


def _prune(_: Runlane, folder: Path) -> list[str]:
    archives = folder / "archives"
    archives.mkdir()
    return ["runs", "prune", "--older-than", "1s", "--limit", "10000", "--archive", str(archives)]


#: What is measured, in this order.
COMMANDS: dict[str, Command] = {
    "audit verify": Command(_plain("audit", "verify")),
    "audit verify --processes 2": Command(_plain("audit", "verify", "--processes", "2")),
    "audit as-of": Command(_as_of),
    "audit timeline": Command(_of_a_run("audit", "timeline", "{run}")),
    "audit diff": Command(_of_a_run("audit", "diff", "{run}", "--from", "1")),
    "audit who": Command(_plain("audit", "who", "--actor", "application:benchmarks")),
    "audit fixture": Command(_of_a_run("audit", "fixture", "{run}", "--output", "{folder}/test_run.py")),
    "audit repair": Command(_of_a_run("audit", "repair", "{run}")),
    "audit rebuild": Command(_plain("audit", "rebuild")),
    "audit simulate": Command(_plain("audit", "simulate", "--retry", "5,exponential=30s", "--workers", "2")),
    "audit simulate, one slot": Command(_plain("audit", "simulate", "--workers", "1", "--concurrency", "1")),
    "audit export (csv)": Command(_plain("audit", "export", "{folder}/log.csv", "--format", "csv")),
    "audit export (cloudevents)": Command(_plain("audit", "export", "{folder}/log.ce", "--format", "cloudevents")),
    "audit export (parquet)": Command(_plain("audit", "export", "{folder}/log.parquet", "--format", "parquet")),
    "audit export (jsonl)": Command(_EXPORT),
    "audit replay": Command(_plain("audit", "replay", "{folder}/log.jsonl"), before=(_EXPORT,)),
    "audit checkpoint": Command(_CHECKPOINT, changes=True),
    "audit prove": Command(_PROVE, changes=True, before=(_CHECKPOINT,)),
    "runs prune --archive, 10,000 runs": Command(_prune, changes=True),
    "audit archives": Command(_plain("audit", "archives", "{folder}/archives"), changes=True, before=(_prune,)),
    "follow": Command(_plain("follow", "--cursor", "start", "--once", "--json")),
}


def run(app: Runlane, url: str, folder: Path, arguments: Sequence[str]) -> None:
    """Run a command here, its output to a file.

    Raises:
        SystemExit: it found something wrong, or failed.
    """
    named = ["--database", url, "--environment", app.environment]
    with (folder / "output.txt").open("w") as output, redirect_stdout(output):
        try:
            main([*arguments, *named])
        except SystemExit as done:
            if done.code:
                raise SystemExit(f"runlane {' '.join(arguments)} ended with {done.code}") from None
