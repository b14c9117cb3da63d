"""``python -m benchmarks drain|trigger|latency|replay|all``."""

from __future__ import annotations

from pathlib import Path

import click
from attrs import evolve

from benchmarks import report
from benchmarks.databases import databases
from benchmarks.jobs import JOBS
from benchmarks.scenarios import SCENARIOS, Options


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scenario", type=click.Choice([*SCENARIOS, "all"]))
@click.option(
    "--database",
    "named",
    multiple=True,
    default=["postgres"],
    show_default=True,
    help="postgres or sqlite (of our own, thrown away afterwards), memory:, or the URL of a database; repeatable.",
)
@click.option("--runs", default=20_000, show_default=True, type=click.IntRange(100))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Worker processes (drain).")
@click.option("--concurrency", default=500, show_default=True, type=click.IntRange(1, 10_000), help="Per worker.")
@click.option(
    "--job", default="noop", show_default=True, type=click.Choice(list(JOBS)), help="What a run does (drain)."
)
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--json", "file", type=click.Path(path_type=Path), help="Where to write the results.")
def main(
    scenario: str,
    named: tuple[str, ...],
    runs: int,
    workers: int,
    concurrency: int,
    job: str,
    repeat: int,
    file: Path | None,
) -> None:
    """Measure runs per second with the whole history kept and PostgreSQL's default durability."""
    options = Options(runs, workers, concurrency, job)
    results = []
    for database in named:
        with databases(database) as places:
            for name, one in _plan(scenario, options, shared=places.kind != "memory"):
                repeats, speeds = [], []
                for _ in range(repeat):
                    speeds.append(report.machine_speed())
                    repeats.append(SCENARIOS[name](places, one))
                results.append(report.result(name, database, one, repeats, speeds))
    report.show(results)
    if file is not None:
        report.write(results, file)
        click.echo(f"\nwritten to {file}")


def _plan(scenario: str, options: Options, *, shared: bool) -> list[tuple[str, Options]]:
    if scenario == "drain" and not shared:
        raise click.UsageError("memory: cannot be drained by worker processes; measure replay or trigger on it")
    if scenario != "all":
        return [(scenario, options)]
    plan = [("trigger", options), ("latency", options), ("replay", options)]
    if shared:
        plan[:0] = [("drain", evolve(options, workers=w, job=j)) for w in (1, 2) for j in ("noop", "async")]
    return plan


if __name__ == "__main__":
    main()
