"""``compare``: two runs of the harness, figure by figure; what has changed and what is noise."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from benchmarks.figures import unit_of
from benchmarks.noise import Difference, difference
from benchmarks.report import json, terminal
from benchmarks.report.rows import number, written

#: Machines that differ by more than this part in their empty loops are told of.
_DRIFT = 0.1

Document = dict[str, Any]
Result = dict[str, Any]


@frozen
class Compared:
    """One figure of one case in both runs.  `machine` is how much faster the machine itself was, where that matters."""

    database: str
    measured: str
    figure: str
    before: float
    after: float
    difference: Difference
    machine: float | None

    @property
    def verdict(self) -> str:
        """In words: faster, slower, no difference seen; or that nothing can be said."""
        unit = unit_of(self.figure)
        match self.difference.sign:
            case "more":
                return unit.more
            case "less":
                return unit.less
            case "none":
                return "no difference seen"
            case "unknown":
                return "one repeat: cannot tell"

    @property
    def good(self) -> bool | None:
        """Whether the change is for the better; None where there is none."""
        if self.difference.sign not in ("more", "less"):
            return None
        return (self.difference.sign == "more") is unit_of(self.figure).more_is_better


def compared(before: Document, after: Document, least: float) -> Iterator[Compared]:
    """Every figure that both runs have of the same case with the same options."""
    known = {_key(one): one for one in before["results"]}
    for one in after["results"]:
        other = known.get(_key(one))
        if other is None or _sizes(other) != _sizes(one):
            continue
        speeds = [statistics.median(result["machine_loops_per_s"]) for result in (other, one)]
        drift = speeds[1] / speeds[0] if speeds[0] else 1.0
        for name in one["median"]:
            if name not in other["median"]:
                continue
            series = [[figures[name] for figures in result["repeats"]] for result in (other, one)]
            yield Compared(
                one["database"],
                f"{one['scenario']}: {one['case']}",
                name,
                other["median"][name],
                one["median"][name],
                difference(series[0], series[1], least),
                drift if abs(drift - 1) > _DRIFT else None,
            )


def left_out(before: Document, after: Document) -> Iterator[str]:
    """Cases that cannot be compared, and why."""
    ours = [{_key(one): one for one in document["results"]} for document in (before, after)]
    for key in sorted({*ours[0], *ours[1]}):
        name = f"{key[1]}: {key[2]} on {key[0]}"
        if key not in ours[0] or key not in ours[1]:
            yield f"{name}: only in {'B' if key not in ours[0] else 'A'}"
        elif _sizes(ours[0][key]) != _sizes(ours[1][key]):
            yield f"{name}: measured with other options"


def _key(result: Result) -> tuple[str, str, str]:
    return result["database"].partition("://")[0], result["scenario"], result["case"]


def _sizes(result: Result) -> Any:
    return result["options"]


@click.command()
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--least",
    default=3.0,
    show_default=True,
    type=click.FloatRange(0, 100),
    help="Changes of less than so many percent do not count, however certain.",
)
@click.option("--all", "everything", is_flag=True, help="Show figures without a difference too.")
def compare(a: Path, b: Path, least: float, everything: bool) -> None:
    """Tell changes from noise.  What is faster or slower in B.json than in A.json, figure by figure.

    With at least four repeats in each, a change is one that the Mann-Whitney test finds (p at most 0.05); with two or
    three, ranges that lie further apart than either is wide.  Of twenty figures that have not changed one may still
    look as if it had.
    """
    try:
        before, after = json.read(a), json.read(b)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    _tell_documents(before, after)
    found = list(compared(before, after, least / 100))
    _show([one for one in found if everything or one.good is not None])
    for line in left_out(before, after):
        click.echo(f"not compared: {line}")
    counts = Counter(one.verdict for one in found)
    click.echo(", ".join(f"{many} {verdict}" for verdict, many in counts.most_common()) or "nothing to compare")


def _tell_documents(before: Document, after: Document) -> None:
    for letter, one in (("A", before), ("B", after)):
        changed = " with changes that are not committed" if one["dirty"] else ""
        click.echo(f"{letter}: commit {one['commit'] or 'unknown'}{changed}, {one['at']}")
    for what in ("machine", "versions"):
        for name in sorted({*before[what], *after[what]} - {"load_before"}):
            was, now = before[what].get(name), after[what].get(name)
            if was != now:
                click.echo(f"   {name}: {was} in A, {now} in B")
    click.echo()


def _show(found: list[Compared]) -> None:
    made = terminal.table("database", "measured", "figure", "verdict", right=("a", "b", "b / a", "p", "machine"))
    for one in found:
        words, unit = written(one.figure)
        colour = {True: "green", False: "red", None: "dim"}[one.good]
        made.add_row(
            one.database,
            one.measured,
            f"{words}, {unit}",
            f"[{colour}]{one.verdict}[/{colour}]",
            number(one.before),
            number(one.after),
            f"{one.difference.ratio:.2f}",
            "" if one.difference.p is None else f"{one.difference.p:.3f}",
            "" if one.machine is None else f"{one.machine:.2f} ×",
        )
    if found:
        terminal.console().print(made)
        click.echo()
    if any(one.machine is not None for one in found):
        click.echo("MACHINE: so many empty loops of B for one of A; distrust what differs as much as that.")
