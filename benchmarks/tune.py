"""``tune``: one setting after the other is moved from its default, and the best for this machine is named."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from attrs import evolve, field, frozen

import runlane.session
from benchmarks.commands import common, publish
from benchmarks.databases import Databases, databases
from benchmarks.figures import Sample
from benchmarks.jobs import JOBS
from benchmarks.knobs import DEFAULT_BATCH, Knobs, default_lanes
from benchmarks.noise import ALPHA, difference
from benchmarks.places import execute
from benchmarks.report import json
from benchmarks.report.rows import number
from benchmarks.scenarios import drain
from benchmarks.scenarios.contract import timed
from benchmarks.servers import server_facts
from runlane import Runlane

_CONCURRENCY = 500
#: Changes of a smaller part than this are not worth a setting.
_LEAST = 0.03
_CAVEATS = {
    "durability": "What was committed in the last moments before a crash of the database may be lost then, so it is not"
    " a question of speed alone."
}


@frozen
class Setting:
    """A value of a knob.  `x` is where it lies in a plot, if it is a number; a default changes nothing."""

    knob: str
    label: str
    x: float | None = None
    knobs: Knobs = field(factory=Knobs)
    concurrency: int = _CONCURRENCY
    default: bool = False


@frozen
class Advice:
    """What the sweep of one knob says."""

    knob: str
    default: str
    best: str
    ratio: float
    p: float | None
    use: str
    text: str


def settings(places: Databases) -> dict[str, list[Setting]]:
    """The values of each knob that are tried on such a database, the default among them."""
    batch, beat = DEFAULT_BATCH, runlane.session.HEARTBEAT.total_seconds()
    with places.fresh().app() as app:
        lanes, fillfactor = default_lanes(app), _fillfactor(app)
    swept = {
        "batch": [
            Setting("batch", f"{n:,}", n, Knobs(batch=n), default=n == batch)
            for n in _with(batch or _BATCHES[0], _BATCHES)
        ],
        "concurrency": [
            Setting("concurrency", f"{n:,}", n, concurrency=n, default=n == _CONCURRENCY) for n in _CONCURRENCIES
        ],
        "heartbeat": [
            Setting("heartbeat", f"{n:g} s", n, Knobs(heartbeat=f"{n:g}s"), default=n == beat)
            for n in _with(beat, (1, 5, 10, 30))
        ],
        "lanes": [Setting("lanes", str(n), n, Knobs(lanes=n), default=n == lanes) for n in _with(lanes, (1, 2, 3, 4))],
        "durability": [
            Setting("durability", "full", default=True),
            Setting("durability", "relaxed", knobs=Knobs(relaxed=True)),
        ],
    }
    if fillfactor is not None:
        swept["fillfactor"] = [
            Setting("fillfactor", f"{n} %", n, Knobs(fillfactor=n), default=n == fillfactor)
            for n in _with(fillfactor, (50, 60, 70, 85, 100))
        ]
    return swept


_BATCHES = (50, 100, 250, 500, 1000, 2000)
_CONCURRENCIES = (50, 100, 250, 500, 1000, 2000)


def _fillfactor(app: Runlane) -> int | None:
    """That of the table of runs as it is made; None where tables have none."""
    if app.lane.database.schema is None:
        return None
    found = execute(
        app,
        "select option_value from pg_class c, pg_options_to_table(c.reloptions)"
        " where c.oid = cast(:runs as regclass) and option_name = 'fillfactor'",
        runs=f"{app.lane.database.schema}.runs",
    )
    return int(found[0][0]) if found else 100


def _with(default: Any, values: Sequence[Any]) -> list[Any]:
    return sorted({default, *values})


def advise(knob: str, measured: Sequence[tuple[Setting, Sequence[float]]]) -> Advice:
    """Which value to use, given the rates of each; the default unless another is faster beyond the noise.

    The more values are tried, the more certain a difference has to be.
    """
    default, base = next((setting, rates) for setting, rates in measured if setting.default)
    others = [(setting, rates) for setting, rates in measured if not setting.default]
    found = [(setting, difference(base, rates, _LEAST, ALPHA / len(others))) for setting, rates in others]
    best, how = max(found, key=lambda one: one[1].ratio)
    faster = [(setting, one) for setting, one in found if one.sign == "more"]
    if faster:
        best, how = max(faster, key=lambda one: one[1].ratio)
        text = f"{best.label} is {how.ratio:.2f} × as fast as the default, {default.label}."
    elif how.sign == "unknown":
        text = f"One repeat shows no noise, so nothing can be said; {best.label} came to {how.ratio:.2f} × the default."
    elif how.ratio > 1:
        text = f"Keep {default.label}: {best.label} came to {how.ratio:.2f} × of it, which is within the noise."
    else:
        text = f"Keep {default.label}: nothing was faster; {best.label} came closest with {how.ratio:.2f} × of it."
    caveat = _CAVEATS.get(knob, "") if faster else ""
    use = best.label if faster and not caveat else default.label
    return Advice(knob, default.label, best.label, how.ratio, how.p, use, " ".join(filter(None, (text, caveat))))


@click.command()
@common
@click.option("--knob", "chosen", multiple=True, type=click.Choice(
    ["batch", "concurrency", "heartbeat", "lanes", "fillfactor", "durability"]
), help="Only these.  Repeatable.")  # fmt: skip
@click.option("--job", default="noop", show_default=True, type=click.Choice(list(JOBS)), help="What a run does.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Worker processes.")
@click.option("--runs", default=20_000, show_default=True, type=click.IntRange(1), help="Runs of each drain.")
def tune(
    named: tuple[str, ...],
    repeat: int,
    seed: int,
    out: Path | None,
    chosen: tuple[str, ...],
    job: str,
    workers: int,
    runs: int,
) -> None:
    """Name the best settings for this machine.  Each is moved from its default, one at a time.

    What is timed is a drain.  The values of a setting take turns in random order, round by round, so that slow minutes
    of the machine fall on all of them.
    """
    results: list[dict[str, Any]] = []
    advice: list[dict[str, Any]] = []
    options = drain.Options(job=job, workers=workers, runs=runs)
    for name in named:
        with databases(name) as places:
            server = server_facts(places.fresh())
            for knob, values in settings(places).items():
                if chosen and knob not in chosen:
                    continue
                swept = sweep(places, values, options, random.Random(seed), repeat)
                for setting, samples, took in swept:
                    case, used = f"{knob} = {setting.label}", evolve(options, concurrency=setting.concurrency)
                    results.append(json.result("tune", case, name, server, used, setting.knobs, samples, took))
                said = advise(knob, [(setting, _rates(samples)) for setting, samples, _ in swept])
                click.echo(f"{name}, {knob}: {said.text}", err=True)
                advice.append(_told(name, said, swept))
    publish(json.document(results, seed, tune=advice), "tune", out)
    click.echo("\nBest for this machine:")
    for one in advice:
        click.echo(f"  {one['database']}, {one['knob']} = {one['use']}.  {one['text']}")


Swept = list[tuple[Setting, list[Sample], float]]


def sweep(
    places: Databases, values: Sequence[Setting], options: drain.Options, rng: random.Random, repeat: int
) -> Swept:
    """Drain with each value, so many times, in turns."""
    swept: Swept = [(setting, [], 0.0) for setting in values]
    for turn in range(repeat):
        for place in rng.sample(range(len(values)), len(values)):
            setting, samples, before = swept[place]
            began = time.monotonic()
            used = evolve(options, concurrency=setting.concurrency)
            turned = evolve(places, knobs=setting.knobs)
            samples.append(timed(lambda turned=turned, used=used: drain.once(turned, used, rng)))  # type: ignore[misc]
            swept[place] = (setting, samples, before + time.monotonic() - began)
            click.echo(
                f"round {turn + 1} of {repeat}: {setting.knob} = {setting.label}: "
                f"{number(samples[-1].figures['runs_per_s'])} runs/s",
                err=True,
            )
    return swept


def _rates(samples: Sequence[Sample]) -> list[float]:
    return [sample.figures["runs_per_s"] for sample in samples]


def _told(database: str, said: Advice, swept: Swept) -> dict[str, Any]:
    return {
        "database": database,
        "knob": said.knob,
        "default": said.default,
        "best": said.best,
        "ratio": said.ratio,
        "p": said.p,
        "use": said.use,
        "text": said.text,
        "points": list(_points(swept)),
    }


def _points(swept: Swept) -> Iterator[dict[str, Any]]:
    for setting, samples, _ in swept:
        yield {"label": setting.label, "x": setting.x, "default": setting.default, "runs_per_s": _rates(samples)}
