"""Measuring cases, one after the other, on each database."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from benchmarks.databases import databases
from benchmarks.knobs import Knobs
from benchmarks.report import json
from benchmarks.report.rows import number, written
from benchmarks.scenarios.contract import Scenario
from benchmarks.servers import server_facts

#: A scenario and what was asked of it.
Plan = Sequence[tuple[Scenario, Mapping[str, Any]]]


def measure(plan: Plan, named: Sequence[str], knobs: Knobs, seed: int, repeat: int) -> list[dict[str, Any]]:
    """Measure everything planned on each of the databases; the results, as the document holds them.

    Raises:
        click.UsageError: a scenario was asked for that a database cannot serve.
        SystemExit: the database does not bear a figure out.
    """
    results = []
    for name in named:
        with databases(name, knobs) as places:
            server = server_facts(places.fresh())
            for scenario, given in plan:
                for options in scenario.cases(given):
                    if not (places.shared or scenario.in_memory(options)):
                        continue
                    title, began = scenario.title(options), time.monotonic()
                    click.echo(f"{scenario.name}: {title} on {name} … ", nl=False, err=True)
                    samples = scenario.measure(places, options, seed, repeat)
                    took = time.monotonic() - began
                    results.append(json.result(scenario.name, title, name, server, options, knobs, samples, took))
                    click.echo(_first_figure(results[-1]), err=True)
    if not results:
        raise click.UsageError(
            f"{plan[0][0].name} needs a database that can be opened twice, unlike {' and '.join(named)}"
        )
    return results


def _first_figure(result: Mapping[str, Any]) -> str:
    name, value = next(iter(result["median"].items()))
    words, unit = written(name)
    return f"{words} {number(value)} {unit} ({result['took_s']:g} s)"
